"""The networks of the benchmark, with random weights; `peers.py` builds the same ones in PyTorch from those weights."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.append(str(Path(__file__).parents[2] / "examples"))
from efficientnet_lite0 import EfficientNetLite0

BATCH = 2
VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")

Shapes = dict[str, Any]  # of weights, as deeply nested as they are


@dataclass(frozen=True)
class Network:
    """A network whose logits are `apply(weights, x)`, with an input for it; all numbers are float32 NumPy arrays."""

    apply: Callable
    weights: dict[str, Any]
    x: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights by name, nested names joined by dots."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.weights)
        return {".".join(key.key for key in path): leaf for path, leaf in leaves}

    def of(self, batch: int, dtype: str = "float32") -> "Network":
        """Return the network in another type of numbers, with an input of so many examples."""
        x = np.random.default_rng(1).standard_normal((batch, *self.x.shape[1:]), np.float32)
        weights = jax.tree.map(lambda v: v.astype(jnp.dtype(dtype)), self.weights)
        return replace(self, weights=weights, x=x.astype(jnp.dtype(dtype)))


def network(apply: Callable, shapes: Shapes, *size: int) -> Network:
    """Fill in weights that keep activations in scale: He's for kernels, statistics of batch norm near 0 and 1."""
    rng = np.random.default_rng(0)

    def fill(path: Any, shape: tuple[int, ...]) -> np.ndarray:
        if path[-1].key == "kernel":
            return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        return np.float32(0.1) * rng.standard_normal(shape, np.float32)  # bias, mean

    weights = jax.tree_util.tree_map_with_path(fill, shapes, is_leaf=lambda v: isinstance(v, tuple))
    return Network(apply, weights, rng.standard_normal(size, np.float32))


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    pad = kernel.shape[0] // 2  # PyTorch's usual padding, which for a stride of 2 is not "SAME"
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=dims)


def max_pool(x: jax.Array, window: int, pad: int = 0) -> jax.Array:
    padding = [(0, 0), (pad, pad), (pad, pad), (0, 0)]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, 2, 2, 1), padding)


def vgg16(size: int) -> Network:
    """VGG16 with its dense head."""
    shapes: Shapes = {}
    channels = 3
    for k, width in enumerate(v for v in VGG if v != "M"):
        shapes[f"conv_{k}"] = {"kernel": (3, 3, channels, width), "bias": (width,)}
        channels = width
    for k, (n, m) in enumerate(((512 * (size // 32) ** 2, 4096), (4096, 4096), (4096, 1000))):
        shapes[f"dense_{k}"] = {"kernel": (n, m), "bias": (m,)}

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        convs = iter([weights[name] for name in shapes if name.startswith("conv")])
        for width in VGG:
            if width == "M":
                x = max_pool(x, 2)
            else:
                layer = next(convs)
                x = jax.nn.relu(conv(x, layer["kernel"]) + layer["bias"])
        x = x.reshape(x.shape[0], -1)
        for k in range(3):
            layer = weights[f"dense_{k}"]
            x = x @ layer["kernel"] + layer["bias"]
            x = jax.nn.relu(x) if k < 2 else x
        return x

    return network(apply, shapes, BATCH, size, size, 3)


def resnet18(size: int) -> Network:
    """ResNet-18 with a batch norm after each convolution."""

    def layer(*kernel: int) -> Shapes:
        return {"kernel": kernel} | dict.fromkeys(("mean", "var", "scale", "bias"), kernel[-1:])

    shapes: Shapes = {"stem": layer(7, 7, 3, 64), "head": {"kernel": (512, 1000), "bias": (1000,)}}
    channels, blocks = 64, []  # blocks: (name, stride)
    for width in (64, 128, 256, 512):
        for k in range(2):
            name = f"block_{width}_{k}"
            blocks.append((name, 1 if channels == width else 2))
            shapes[name] = {"a": layer(3, 3, channels, width), "b": layer(3, 3, width, width)}
            if channels != width:
                shapes[name]["skip"] = layer(1, 1, channels, width)
            channels = width

    def conv_norm(x: jax.Array, p: Any, stride: int = 1) -> jax.Array:
        x = conv(x, p["kernel"], stride)
        return (x - p["mean"]) * (jax.lax.rsqrt(p["var"] + 1e-5) * p["scale"]) + p["bias"]

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        x = max_pool(jax.nn.relu(conv_norm(x, weights["stem"], 2)), 3, pad=1)
        for name, stride in blocks:
            block = weights[name]
            y = conv_norm(jax.nn.relu(conv_norm(x, block["a"], stride)), block["b"])
            x = jax.nn.relu(y + (conv_norm(x, block["skip"], stride) if "skip" in block else x))
        return x.mean((1, 2)) @ weights["head"]["kernel"] + weights["head"]["bias"]

    return network(apply, shapes, BATCH, size, size, 3)


def efficientnet_lite0(size: int) -> Network:
    """EfficientNet-Lite0, the network of the demo."""
    model = EfficientNetLite0()
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return network(model.apply, jax.tree.map(lambda v: v.shape, dict(variables)), BATCH, size, size, 3)


NETWORKS = {"VGG16": vgg16, "ResNet-18": resnet18, "EfficientNet-Lite0": efficientnet_lite0}
