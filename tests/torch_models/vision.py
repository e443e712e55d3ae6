"""torchvision's classifiers, segmentation models and detection backbones, their widths as they are.

Blocks that repeat are cut to two: a third has nothing that the second has not, and compiles as long.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from typing import Any
from unittest import mock

import torch
import torchvision
from modules import Model, normal, randomise
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

VIDEOS = ("mc3", "r2plus1d", "r3d", "s3d", "swin3d")
DETECTORS = ("fasterrcnn", "fcos", "keypointrcnn", "maskrcnn", "retinanet", "ssd")
SEGMENTERS = ("deeplabv3", "fcn", "lraspp")
LEFT_OUT = {
    "mvit_*": "torchax does not run it: it calls `tensor_split` by a name that torchax's has not",
    "quantized_*": "integers inside, which have no relevance",
    "raft_*": "no scores: it says where pixels move",
}
DENSE = {"densenet121": (32, 64), "densenet161": (48, 96), "densenet169": (32, 64), "densenet201": (32, 64)}
SIZES = {"inception": 96, "maxvit": 224, "s3d": 224, "ssd300": 300, "vit_h": 56}  # of images; or 64
FRAMES = {"s3d": 16}  # or 8

# What a module says of its widths: channels, groups of channels, features.
WIDTHS = re.compile(r"\b\d+, \d+(?=, kernel)|(?<=groups=)\d+|(?<=Norm[23]d\()\d+|(?<=features=)\d+|(?<=\(\()\d+,")

NAMES = tuple(
    name for name in torchvision.models.list_models() if not any(fnmatch(name, pattern) for pattern in LEFT_OUT)
)


def alike_names() -> list[tuple[str, ...]]:
    """Return the names, those together that differ in widths alone once blocks that repeat are two, narrowest first."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in NAMES:
        module = part(name)[0]
        size = sum(p.numel() for p in module.parameters())
        found.setdefault(WIDTHS.sub("", written(module)), []).append((size, name))
    return [tuple(name for _, name in sorted(names)) for names in found.values()]


def make(name: str) -> Model:
    """Return a model of torchvision with its input."""
    module, read = part(name)
    size, time = _size(name), []
    if name.startswith(VIDEOS):
        time = [next((n for start, n in FRAMES.items() if name.startswith(start)), 8)]
    first = next(iter(inspect.signature(module.forward).parameters))
    randomise(module.double().eval())
    _without_biases_of_keys(module)
    x = normal(1 if time or size > 100 else 2, 3, *time, size, size)
    return Model(module, {first: x}, read)


@torch.no_grad()
def _without_biases_of_keys(module: nn.Module) -> None:
    """Zero what Swin v2 zeroes in each call, by a slice in place that torchax does not carry out."""
    for layer in module.modules():
        if hasattr(layer, "logit_scale"):
            width = layer.qkv.in_features
            layer.qkv.bias[width : 2 * width] = 0


def part(name: str) -> tuple[nn.Module, Callable]:
    """Return the part of a model that is explained, and how scores are read off its output."""
    with undrawn():
        module, read = _whole(name), lambda out: out
    if name.startswith(DETECTORS):
        module, read = module.backbone, _levels
    elif name.startswith(SEGMENTERS):
        read = lambda out: out["out"].mean((2, 3))
    thin(module)
    return module, read


def _whole(name: str) -> nn.Module:
    if name in DENSE:
        growth, first = DENSE[name]
        return torchvision.models.DenseNet(growth, (2, 2, 2, 2), first)
    options: dict[str, Any] = {"weights": None}
    if name.startswith((*DETECTORS, *SEGMENTERS)):
        options["weights_backbone"] = None
    if name.startswith("vit"):
        options["image_size"] = _size(name)
    return torchvision.models.get_model(name, **options)


@contextmanager
def undrawn() -> Iterator[None]:
    """Leave out the drawing of a module's first numbers, which takes longer than all else about it."""
    names = ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_", "xavier_uniform_")
    instead = lambda tensor, *args, **kwargs: tensor if tensor.ndim > 1 else tensor.zero_()
    with ExitStack() as stack:
        for drawing in names:
            stack.enter_context(mock.patch.object(nn.init, drawing, torch.no_grad()(instead)))
        yield


def _levels(levels: dict[str, Any]) -> Any:
    """Return what the levels of a backbone hold on average, (N, channels), those of the last if they differ."""
    means = [level.mean((2, 3)) for level in levels.values()]
    return sum(mean for mean in means if mean.shape == means[-1].shape)


def _size(name: str) -> int:
    return next((size for start, size in SIZES.items() if name.startswith(start)), 64)


def thin(module: nn.Module) -> None:
    """Cut each run of blocks that look alike to two of them, in all sequences inside."""
    if isinstance(module, FeaturePyramidNetwork):
        return  # which has a block for each level
    for child in module.children():
        thin(child)
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        kept: list[tuple[str, nn.Module]] = []
        for name, child in module.named_children():
            if not (len(kept) > 1 and alike(child, kept[-1][1]) and alike(child, kept[-2][1])):
                kept.append((name, child))
        for name in [name for name, _ in module.named_children() if name not in dict(kept)]:
            del module._modules[name]


def alike(a: nn.Module, b: nn.Module) -> bool:
    """Say whether two blocks are the same modules, with parameters."""
    return written(a) == written(b) and any(True for _ in a.parameters())


def written(module: nn.Module) -> str:
    """Return what a module says that it is, without how likely its blocks are to be left out in training."""
    return re.sub(r"p=[\d.e-]+", "", repr(module))
