"""The networks of `torch_nets.py` in plain JAX, as functions of their weights by torch's names and an input (NCHW)."""

import jax
import jax.numpy as jnp
from jax import lax

BATCH_NORM_EPS = 1e-12  # that of the torch networks


def conv(w, name, x, stride=1, padding=0):
    window = {"window_strides": (stride, stride), "padding": [(padding, padding)] * 2}
    z = lax.conv_general_dilated(x, w[f"{name}.weight"], **window, dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return z + w[f"{name}.bias"][:, None, None] if f"{name}.bias" in w else z


def dense(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def batch_norm(w, name, x):
    names = "running_mean", "running_var", "weight", "bias"
    mean, var, gain, bias = (w[f"{name}.{part}"][:, None, None] for part in names)
    return (x - mean) * lax.rsqrt(var + BATCH_NORM_EPS) * gain + bias


def conv_norm(w, name, x, stride=1, padding=1):
    return batch_norm(w, f"{name}.1", conv(w, f"{name}.0", x, stride, padding))


def max_pool(x, size, padding=0):
    pads = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, size, size), (1, 1, 2, 2), pads)


def avg_pool(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") / 4


def vgg(w, x):
    x = jax.nn.relu(conv(w, "conv1", x, padding=1))
    x = max_pool(jax.nn.relu(conv(w, "conv2", x)), 2)
    x = avg_pool(jax.nn.relu(conv(w, "conv3", x, stride=2, padding=1)))
    return dense(w, "fc2", jax.nn.relu(dense(w, "fc1", x.reshape(len(x), -1))))


def block(w, name, x, stride=1):
    residual = jax.nn.relu(conv_norm(w, f"{name}.conv1", x, stride))
    residual = conv_norm(w, f"{name}.conv2", residual)
    skip = conv_norm(w, f"{name}.skip", x, stride, padding=0) if stride > 1 else x
    return jax.nn.relu(skip + residual)


def residual(w, x):
    x = max_pool(jax.nn.relu(conv_norm(w, "stem", x, stride=2)), 3, padding=1)
    x = block(w, "block2", block(w, "block1", x), stride=2)
    return dense(w, "fc", x.mean((2, 3)))


NETS = {"vgg": vgg, "residual": residual}
