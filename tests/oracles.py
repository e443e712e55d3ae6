"""Formulas written out with explicit matrices, in NumPy, and nothing of the library's.

An affine layer is `z = x @ w + b` with `w` of shape (inputs, outputs), for one example.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.csgraph import connected_components


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


def shares(w, contributions, total, r, bias=0.0):
    """Return Σ_j contribution_ij / total_j · R_j; `bias` is spread evenly over the inputs that reach each unit."""
    reached = w != 0
    spread = reached * _divide(bias * np.ones(w.shape[1]), reached.sum(0).astype(float))
    return ((contributions + spread) * _divide(r, total)).sum(1)


def zero(w, b, x, r, bias="absorb"):
    return epsilon_rule(w, b, x, r, 0.0, bias)


def epsilon_rule(w, b, x, r, epsilon=1e-6, bias="absorb", relative=False):
    contributions = x[:, None] * w
    z = contributions.sum(0) + (0 if bias == "ignore" else b)
    if relative:
        epsilon = epsilon * np.sqrt(np.mean((x @ w + b) ** 2))
    return shares(w, contributions, stabilized(z, epsilon), r, b if bias == "distribute" else 0.0)


def alphabeta(w, b, x, r, alpha=2.0, beta=-1.0, epsilon=1e-6, bias="absorb"):
    contributions = x[:, None] * w
    result = np.zeros_like(x)
    for factor, part in ((alpha, lambda v: v.clip(0)), (beta, lambda v: v.clip(None, 0))):
        own = {"ignore": 0 * b, "whole": b}.get(bias, part(b))
        total = stabilized(part(contributions).sum(0) + own, epsilon)
        result += factor * shares(w, part(contributions), total, r, own if bias == "distribute" else 0.0)
    return result


def zplus(w, b, x, r, epsilon=1e-6, bias="absorb"):
    return alphabeta(w, b, x, r, 1.0, 0.0, epsilon, bias)


def gamma_rule(w, b, x, r, gamma=0.25, epsilon=1e-6, bias="absorb"):
    """The generalised rule, written with the four products of the parts of x and w."""
    positive, negative = x.clip(0)[:, None], x.clip(None, 0)[:, None]
    wp, wn = w.clip(0), w.clip(None, 0)
    z = x @ w + (0 if bias == "ignore" else b)
    result = np.zeros_like(x)
    for chosen, same, other, part in ((z > 0, wp, wn, b.clip(0)), (z < 0, wn, wp, b.clip(None, 0))):
        contributions = positive * (w + gamma * same) + negative * (w + gamma * other)
        own = {"ignore": 0 * b, "whole": b}.get(bias, b + gamma * part)
        total = stabilized(contributions.sum(0) + own, epsilon)
        result += shares(w, contributions, total, np.where(chosen, r, 0), own if bias == "distribute" else 0.0)
    return result


def gamma_classic(w, b, x, r, gamma=0.25, epsilon=1e-6, bias="absorb"):
    contributions = x[:, None] * (w + gamma * w.clip(0))
    own = {"ignore": 0 * b, "whole": b}.get(bias, b + gamma * b.clip(0))
    total = stabilized(contributions.sum(0) + own, epsilon)
    return shares(w, contributions, total, r, own if bias == "distribute" else 0.0)


def flat(w, b, x, r, epsilon=1e-6):
    reached = (w != 0).astype(float)
    return shares(w, reached, reached.sum(0) + epsilon, r)


def wsquare(w, b, x, r, epsilon=1e-6, bias="ignore"):
    return shares(w, w**2, (w**2).sum(0) + (b**2 if bias == "absorb" else 0) + epsilon, r)


def zbox(w, b, x, r, low, high, epsilon=1e-6):
    low, high = np.broadcast_to(low, x.shape), np.broadcast_to(high, x.shape)
    contributions = x[:, None] * w - low[:, None] * w.clip(0) - high[:, None] * w.clip(None, 0)
    return shares(w, contributions, stabilized(contributions.sum(0), epsilon), r)


def relative(w, b, x, r, apart=False, plus=False):
    """R-LRP; `apart`: with a factor for each set of units that shares no input with another, else one for all.

    `plus`: of the contributions that agree with their unit.
    """
    z = x @ w + b
    contributions = np.sign(z) * x[:, None] * w
    messages = (np.maximum(contributions, 0) if plus else contributions) * r
    shares = messages.sum(1)
    labels = np.zeros(x.size + z.size, int)
    if apart:
        joined = np.block([[np.zeros((x.size, x.size)), w != 0], [(w != 0).T, np.zeros((z.size, z.size))]])
        labels = connected_components(joined)[1]
    of_x, of_z = labels[: x.size], labels[x.size :]
    count = labels.max() + 1
    factors = _divide(np.bincount(of_z, np.abs(r), count), np.bincount(of_x, np.abs(shares), count))
    return shares * factors[of_x]


def gradient_times_input(f, x):
    """Return x · ∂score/∂x, the score being the sum over positions of the largest entry along the last axis."""

    def score(x):
        out = f(x)
        return out if out.ndim == 0 else jnp.max(out, axis=-1).sum()

    return x * jax.grad(score)(x)
