"""The jobs of `bench_metrics.py` in PyTorch, by quantus: how long do they take?

`bench_metrics.py --peers PYTHON` runs this file by the interpreter PYTHON, which has torch and quantus. It hands over
the weights, examples, targets and maps, and reads one line of JSON and the numbers that quantus finds.
"""

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from peers import Arrays, conv, dense, resnet18, tensor  # which stands in for torchvision
from torch import nn

warnings.simplefilter("ignore")
import quantus  # noqa: E402

PLAIN = {"normalise": False, "disable_warnings": True, "display_progressbar": False}


def small_cnn(w: Arrays, size: int) -> nn.Module:
    convs = [conv(w[f"conv_{k}.kernel"], padding=1, bias=w[f"conv_{k}.bias"]) for k in range(3)]
    kernel, side = w["dense_0.kernel"], size // 4  # from height, width, channels to channels, height, width
    kernel = kernel.reshape(side, side, 64, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
    modules = [convs[0], nn.ReLU(), convs[1], nn.ReLU(), nn.MaxPool2d(2), convs[2], nn.ReLU(), nn.MaxPool2d(2)]
    modules += [nn.Flatten(), dense(kernel, w["dense_0.bias"]), nn.ReLU()]
    return nn.Sequential(*modules, dense(w["dense_1.kernel"], w["dense_1.bias"]))


MODELS = {"CNN": (small_cnn, True), "ResNet-18": (resnet18, False)}  # and whether its layers are drawn anew


def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
    x = torch.tensor(inputs, requires_grad=True)
    score = model(x)[torch.arange(len(x)), torch.as_tensor(targets)].sum()
    return (x * torch.autograd.grad(score, x)[0]).detach().numpy()


def jobs(net: nn.Module, arrays: Arrays, steps: dict[str, int], samples: int, layers: bool) -> dict[str, Callable]:
    """Return what is measured, as functions without arguments."""
    x, maps = (np.ascontiguousarray(arrays[name].transpose(0, 3, 1, 2)) for name in ("x", "maps"))
    data = {"model": net, "x_batch": x, "y_batch": arrays["target"], "batch_size": 64}
    pixels = maps.sum(1, keepdims=True)
    flipping = quantus.PixelFlipping(features_in_step=x[0].size // steps["flipping"], **PLAIN)
    regions = quantus.RegionPerturbation(patch_size=x.shape[2] // 8, regions_evaluation=steps["regions"], **PLAIN)
    sensitivity = quantus.MaxSensitivity(nr_samples=samples, lower_bound=0.1, **PLAIN)

    def alone() -> list[np.ndarray]:
        with torch.no_grad():
            return [net(tensor(x)).numpy() for _ in range(steps["alone"])]

    found = {
        "the network alone": alone,
        "pixel flipping": lambda: flipping(a_batch=maps, **data),
        "region perturbation": lambda: regions(a_batch=pixels, **data),
        "max sensitivity": lambda: sensitivity(a_batch=None, explain_func=explain, **data),
    }
    if layers:
        found["randomisation"] = lambda: quantus.MPRT(**PLAIN)(a_batch=None, explain_func=explain, **data)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("network", choices=MODELS)
    parser.add_argument("arrays", help="npz file of weights by name, of `x`, its `logits`, `target` and `maps`")
    parser.add_argument("found", help="npz file to write: what has no chance in it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=json.loads)
    parser.add_argument("--samples", type=int)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    arrays = np.load(options.arrays)
    make, layers = MODELS[options.network]
    net = make(arrays, arrays["x"].shape[1]).eval()
    with torch.no_grad():
        logits = net(tensor(arrays["x"].transpose(0, 3, 1, 2))).numpy()
    error = np.abs(logits - arrays["logits"]).max() / np.abs(arrays["logits"]).max()
    if not error < 1e-3:
        sys.exit(f"{options.network} in PyTorch is another network: its logits differ by {error:.1e} of the largest.")
    seconds, found = {}, {}
    for name, job in jobs(net, arrays, options.steps, options.samples, layers).items():
        times = []
        for _ in range(options.rounds + 1):
            start = time.perf_counter()
            result = job()
            times.append(time.perf_counter() - start)
        seconds[name] = statistics.median(times[1:])  # the first warms up
        if name not in ("max sensitivity", "randomisation"):
            found[name] = np.array(result)
    np.savez(options.found, **found)
    versions = f"torch {torch.__version__}, quantus {version('quantus')}, {torch.get_num_threads()} threads"
    print(json.dumps({"versions": versions, "seconds": seconds}))


if __name__ == "__main__":
    main()
