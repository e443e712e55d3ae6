"""The benchmark's networks in PyTorch, explained by zennit: how long does that take?

`bench_speed.py --peers PYTHON` runs this file by the interpreter PYTHON, which has torch, zennit and numpy and needs no
JAX. It hands over the weights, an input and the logits that they give, and reads one line of JSON.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "parity"))
import torchvision_stub  # noqa: F401
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox, EpsilonPlusFlat
from zennit.layer import Sum

Arrays = Mapping[str, np.ndarray]

COMPOSITES: dict[str, Callable] = {
    "gradient": lambda: None,
    "ε-plus-flat": lambda: EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()]),
    "ε-γ-box": lambda: EpsilonGammaBox(low=-3.0, high=3.0, canonizers=[SequentialMergeBatchNorm()]),
}


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, order="C"))


def parameter(array: np.ndarray) -> nn.Parameter:
    return nn.Parameter(tensor(array), requires_grad=False)


def conv(kernel: np.ndarray, stride: int = 1, padding: int = 0, bias: np.ndarray | None = None) -> nn.Conv2d:
    window, _, depth, width = kernel.shape
    groups = width if depth == 1 else 1  # one channel for each output: depthwise
    module = nn.Conv2d(depth * groups, width, window, stride, padding, groups=groups, bias=bias is not None)
    module.weight = parameter(kernel.transpose(3, 2, 0, 1))  # HWIO → OIHW
    module.bias = None if bias is None else parameter(bias)
    return module


def same_conv(kernel: np.ndarray, stride: int, size: int) -> list[nn.Module]:
    """Return a convolution that pads `size` pixels as TensorFlow does: more on the far side where that is uneven."""
    total = max((-(-size // stride) - 1) * stride + len(kernel) - size, 0)
    near, far = total // 2, total - total // 2
    if near == far:
        return [conv(kernel, stride, near)]
    return [nn.ZeroPad2d((near, far, near, far)), conv(kernel, stride)]


def dense(kernel: np.ndarray, bias: np.ndarray) -> nn.Linear:
    module = nn.Linear(*kernel.shape)
    module.weight, module.bias = parameter(kernel.T), parameter(bias)
    return module


def batch_norm(mean: np.ndarray, var: np.ndarray, scale: np.ndarray, bias: np.ndarray, eps: float) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(len(mean), eps)
    module.running_mean, module.running_var = tensor(mean), tensor(var)
    module.weight, module.bias = parameter(scale), parameter(bias)
    return module


class Residual(nn.Module):
    """main(x) + skip(x), the sum as zennit sees it."""

    def __init__(self, main: nn.Module, skip: nn.Module):
        super().__init__()
        self.main, self.skip, self.sum = main, skip, Sum()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sum(torch.stack([self.main(x), self.skip(x)], -1))


def pooled_head(kernel: np.ndarray, bias: np.ndarray) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense(kernel, bias)]


def vgg16(w: Arrays, size: int) -> nn.Module:
    modules: list[nn.Module] = []
    for k in range(13):
        modules += [conv(w[f"conv_{k}.kernel"], padding=1, bias=w[f"conv_{k}.bias"]), nn.ReLU()]
        if k in (1, 3, 6, 9, 12):
            modules.append(nn.MaxPool2d(2))
    modules.append(nn.Flatten())
    for k in range(3):
        kernel = w[f"dense_{k}.kernel"]
        if k == 0:  # its inputs are flattened from height, width, channels there, from channels, height, width here
            side = size // 32
            kernel = kernel.reshape(side, side, 512, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        modules += [dense(kernel, w[f"dense_{k}.bias"]), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def resnet18(w: Arrays, size: int) -> nn.Module:
    def conv_norm(name: str, stride: int = 1) -> list[nn.Module]:
        kernel = w[f"{name}.kernel"]
        norm = [w[f"{name}.{part}"] for part in ("mean", "var", "scale", "bias")]
        return [conv(kernel, stride, len(kernel) // 2), batch_norm(*norm, eps=1e-5)]

    modules: list[nn.Module] = [*conv_norm("stem", 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for width in (64, 128, 256, 512):
        for k in range(2):
            name = f"block_{width}_{k}"
            fits = f"{name}.skip.kernel" not in w
            stride = 1 if fits else 2
            main = nn.Sequential(*conv_norm(f"{name}.a", stride), nn.ReLU(), *conv_norm(f"{name}.b"))
            skip = nn.Identity() if fits else nn.Sequential(*conv_norm(f"{name}.skip", stride))
            modules += [Residual(main, skip), nn.ReLU()]
    return nn.Sequential(*modules, *pooled_head(w["head.kernel"], w["head.bias"]))


def efficientnet_lite0(w: Arrays, size: int) -> nn.Module:
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the blocks

    def kernel(name: str) -> np.ndarray:
        return w[f"params.{name}.kernel"]

    def norm(name: str) -> nn.Module:
        statistics = (w[f"batch_stats.{name}.{part}"] for part in ("mean", "var"))
        return batch_norm(*statistics, *(w[f"params.{name}.{part}"] for part in ("scale", "bias")), eps=1e-3)

    modules = [*same_conv(kernel("conv_stem"), 2, size), norm("bn0"), nn.ReLU6()]
    size = -(-size // 2)
    for k, stride in enumerate(strides):
        name, main = f"blocks_{k}", []
        if f"params.{name}.expand_conv.kernel" in w:
            main += [conv(kernel(f"{name}.expand_conv")), norm(f"{name}.bn0"), nn.ReLU6()]
        main += [*same_conv(kernel(f"{name}.depthwise_conv"), stride, size), norm(f"{name}.bn1"), nn.ReLU6()]
        main += [conv(kernel(f"{name}.project_conv")), norm(f"{name}.bn2")]
        fits = stride == 1 and main[0].weight.shape[1] == main[-2].weight.shape[0]
        block = nn.Sequential(*main)
        modules.append(Residual(block, nn.Identity()) if fits else block)
        size = -(-size // stride)
    modules += [conv(kernel("conv_head")), norm("bn1"), nn.ReLU6()]
    return nn.Sequential(*modules, *pooled_head(kernel("fc"), w["params.fc.bias"]))


NETWORKS = {"VGG16": vgg16, "ResNet-18": resnet18, "EfficientNet-Lite0": efficientnet_lite0}


def explain(net: nn.Module, x: torch.Tensor, relevance: bool) -> torch.Tensor:
    """Return the gradient of the highest logits, or their relevance where a composite is registered."""
    x = x.clone().requires_grad_()
    top = net(x).max(-1).values
    start = top.detach() if relevance else torch.ones_like(top)
    return torch.autograd.grad(top, x, start)[0]


def medians(net: nn.Module, x: torch.Tensor, rounds: int) -> dict[str, float]:
    """Return the median time of each composite. Setting it up, with the merge of batch norms, is not counted."""
    seconds = {}
    for name, make in COMPOSITES.items():
        composite = make()
        with composite.context(net) if composite else nullcontext():
            times = []
            for _ in range(rounds + 1):
                start = time.perf_counter()
                explain(net, x, relevance=composite is not None)
                times.append(time.perf_counter() - start)
        seconds[name] = statistics.median(times[1:])  # the first warms up
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("arrays", help="npz file of weights by name, and of `x` and its `logits`")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    arrays = np.load(options.arrays)
    layout = torch.channels_last  # no slower than PyTorch's own here, and what JAX has
    x = tensor(arrays["x"].transpose(0, 3, 1, 2)).to(memory_format=layout)
    net = NETWORKS[options.network](arrays, x.shape[-1]).eval().to(memory_format=layout)
    with torch.no_grad():
        logits = net(x).numpy()
    error = np.abs(logits - arrays["logits"]).max() / np.abs(arrays["logits"]).max()
    if not error < 1e-3:
        sys.exit(f"{options.network} in PyTorch is another network: its logits differ by {error:.1e} of the largest.")
    versions = f"torch {torch.__version__}, zennit {version('zennit')}, {torch.get_num_threads()} threads"
    print(json.dumps({"versions": versions, "seconds": medians(net, x, options.rounds)}))


if __name__ == "__main__":
    main()
