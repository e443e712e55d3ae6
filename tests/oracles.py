"""Formulas written out with explicit matrices, in NumPy, and nothing of the library's.

An affine layer is `z = x @ w + b` with `w` of shape (inputs, outputs), for one example.
"""

import jax
import jax.numpy as jnp
import numpy as np


def affine(f, x):
    """Return the matrix and bias of an affine function at flattened inputs, from its derivative."""
    x = np.asarray(x, np.float64)
    jacobian = np.asarray(jax.jacobian(f)(jnp.zeros_like(x)))
    b = np.asarray(f(jnp.zeros_like(x))).ravel()
    return jacobian.reshape(b.size, x.size).T, b


def _divide(a, b):
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


def stabilized(z, epsilon):
    return z + epsilon * np.where(z < 0, -1.0, 1.0)


def zero(w, b, x, r, bias="absorb"):
    return epsilon_rule(w, b, x, r, 0.0, bias)


def epsilon_rule(w, b, x, r, epsilon=1e-6, bias="absorb"):
    contributions = x[:, None] * w
    z = contributions.sum(0) + (b if bias == "absorb" else 0)
    return (contributions * _divide(r, stabilized(z, epsilon))).sum(1)


def alphabeta(w, b, x, r, alpha=2.0, beta=-1.0, epsilon=1e-6, bias="absorb"):
    contributions = x[:, None] * w
    keep = 1.0 if bias == "absorb" else 0.0
    positive, negative = contributions.clip(0), contributions.clip(None, 0)
    zp = positive.sum(0) + keep * b.clip(0) + epsilon
    zn = negative.sum(0) + keep * b.clip(None, 0) - epsilon
    return (alpha * positive * _divide(r, zp) + beta * negative * _divide(r, zn)).sum(1)


def zplus(w, b, x, r, epsilon=1e-6, bias="absorb"):
    return alphabeta(w, b, x, r, 1.0, 0.0, epsilon, bias)


def relative(w, b, x, r):
    z = x @ w + b
    messages = np.sign(z) * x[:, None] * w * r
    shares = messages.sum(1)
    total = np.abs(shares).sum()
    return shares * (np.abs(r).sum() / total if total else 0.0)


def gradient_times_input(f, x):
    """Return x · ∂score/∂x, the score being the sum over positions of the largest entry along the last axis."""

    def score(x):
        out = f(x)
        return out if out.ndim == 0 else jnp.max(out, axis=-1).sum()

    return x * jax.grad(score)(x)
