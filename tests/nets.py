"""Small networks with named layers, whose relevance can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np

X = np.array([1.0, 2.0])
W1 = np.array([[1, 0.5], [-1, 2], [0.5, 1]])
W2 = np.array([[2, -1, 1], [0.5, 1, -1], [-1, 1, 2]])
W3 = np.array([[1, -1, 0.5], [-0.5, 1, 1]])
CHANNELS = W2.T


def layer(name, weights):
    """Return a dense layer, in a scope of its name, with rows of weights for outputs; in the dtype of its input."""

    def apply(x):
        with jax.named_scope(name):
            return x @ jnp.asarray(weights.T, x.dtype)

    return apply


def N1(x):  # noqa: N802 - as texts call it
    return layer("b", W2)(jax.nn.relu(layer("a", W1)(x)))


def N2(x):  # noqa: N802
    return layer("c", W3)(jax.nn.relu(N1(x)))


def SKIP(x):  # noqa: N802
    h = jax.nn.relu(layer("a", W1)(x))
    return layer("c", W3)(jax.nn.relu(layer("b", W2)(h)) + h)


def N2_CONV(x):  # noqa: N802
    """Images (N, H, W, 2), convolutions by 3 × 3 but for the head."""
    for name, weights in (("a", W1), ("b", W2)):
        kernel = jnp.asarray(weights.T * np.linspace(-0.5, 1, 9).reshape(3, 3, 1, 1), x.dtype)
        with jax.named_scope(name):
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x)
    return layer("c", W3)(x.mean((1, 2)))


def _cell(name, c, t):
    return layer(name, W2)(jnp.tanh(c + layer("in", W1)(t)))


def _scanned(x):
    turn = lambda c, t: (_cell("cell", c, t), None)
    return layer("c", W3)(jax.lax.scan(turn, jnp.zeros_like(x[:, 0] @ W1.T), x.swapaxes(0, 1))[0])


def _unrolled(x):
    c = jnp.zeros_like(x[:, 0] @ W1.T)
    for k in range(x.shape[1]):
        c = _cell(f"cell{k}", c, x[:, k])
    return layer("c", W3)(c)


N2_SCAN = _scanned, _unrolled
