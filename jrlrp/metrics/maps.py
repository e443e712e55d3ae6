"""Measures of maps alone: how concentrated they are, what they sum to, where they lie, how alike two of them are.

A map that has a NaN has no measure: NaN, or False where the answer is yes or no.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.errors import ArgumentError

Array = Any


@jax.jit
def gini(relevance: Array) -> Array:
    """Return the Gini index of |R| of each map: 0 where all features are alike, near 1 where one has everything.

    G = Σ_k (2k − n − 1) |R|₍ₖ₎ / (n Σ|R|), with |R| ascending; 0 for a map of zeros.

    Args:
      relevance: maps, of shape (N, ...).

    Raises:
      ArgumentError: for anything but maps.

    Source: Chalasani et al. 2020, "Concise explanations of neural networks using adversarial training".
    """
    size = jnp.sort(scaled(jnp.abs(_flat(relevance))), axis=1)
    n = size.shape[1]
    return _divide((size * (2 * jnp.arange(1, n + 1) - n - 1)).sum(1), n * size.sum(1))


@jax.jit
def entropy(relevance: Array) -> Array:
    """Return the entropy of each map, in nats: H = −Σ p log p, p = |R| / Σ|R|; 0 for a map of zeros.

    Args:
      relevance: maps, of shape (N, ...).

    Raises:
      ArgumentError: for anything but maps.

    Source: Bhatt et al. 2020, "Evaluating and aggregating feature-based model explanations" (complexity).
    """
    size = scaled(jnp.abs(_flat(relevance)))
    p = _divide(size, size.sum(1, keepdims=True))
    return jax.scipy.special.entr(p).sum(1)


@functools.partial(jax.jit, static_argnames="relative")
def conservation_gap(relevance: Array, score: Array, *, relative: bool = True) -> Array:
    """Return how far each map's relevance is from summing to the score that it explains, in parts of the score.

    gap = |Σ R − s| / max(|s|, ε Σ|R|), ε being the rounding error of the dtype; 0 where a map of zeros explains 0.

    It is finite where the score is zero: there, 1 is as much as rounding alone may leave of a sum that should vanish.

    Args:
      relevance: maps, of shape (N, ...).
      score: what they explain, of shape (N,): the value of `value_and_relevance` at the target; for attributions that
        start from a baseline, f(x) − f(baseline).
      relative: False for |Σ R − s| itself.

    Raises:
      ArgumentError: for scores of another shape.

    Source: Bach et al. 2015, eq. 2 (conservation); Sundararajan et al. 2017, "Axiomatic attribution" (completeness).
    """
    r, score = _flat(relevance), jnp.asarray(score)
    if score.shape != (len(r),):
        raise ArgumentError(f"scores of shape {score.shape} for {len(r)} maps: expected one for each, ({len(r)},).")
    gap = jnp.abs(r.sum(1) - score)
    if not relative:
        return gap
    return _divide(gap, jnp.maximum(jnp.abs(score), jnp.finfo(r.dtype).eps * jnp.abs(r).sum(1)))


@jax.jit
def pointing_game(relevance: Array, mask: Array) -> Array:
    """Tell for each map whether its largest entry (the first of equals) lies in the mask; the mean is the accuracy.

    Args:
      relevance: maps, of shape (N, ...).
      mask: where the object is, of the same shape.

    Raises:
      ArgumentError: for a mask of another shape.

    Source: Zhang et al. 2018, "Top-down neural attention by excitation backprop".
    """
    r, inside = _masked(relevance, mask)
    return jnp.take_along_axis(inside, r.argmax(1)[:, None], 1)[:, 0] & ~jnp.isnan(r).any(1)


@jax.jit
def mass_within(relevance: Array, mask: Array) -> Array:
    """Return which part of each map's positive relevance lies within the mask: Σ_mask R⁺ / Σ R⁺; 0 without any.

    Args:
      relevance: maps, of shape (N, ...).
      mask: where the object is, of the same shape.

    Raises:
      ArgumentError: for a mask of another shape.

    Source: Arras et al. 2022, "CLEVR-XAI" (relevance mass accuracy).
    """
    r, inside = _masked(relevance, mask)
    positive = scaled(jnp.maximum(r, 0))
    return _divide((positive * inside).sum(1), positive.sum(1))


@jax.jit
def rank_within(relevance: Array, mask: Array) -> Array:
    """Return which part of the K largest entries of each map lies within the mask, K being the mask's size; 0 if K = 0.

    Args:
      relevance: maps, of shape (N, ...).
      mask: where the object is, of the same shape.

    Raises:
      ArgumentError: for a mask of another shape.

    Source: Arras et al. 2022, "CLEVR-XAI" (relevance rank accuracy).
    """
    r, inside = _masked(relevance, mask)
    size = inside.sum(1)
    first = jnp.take_along_axis(inside, jnp.argsort(r, axis=1, stable=True, descending=True), 1)
    hits = (first & (jnp.arange(r.shape[1]) < size[:, None])).sum(1)
    return _unless_nan(r, _divide(hits.astype(r.dtype), size.astype(r.dtype)))


@jax.jit
def rank_correlation(a: Array, b: Array) -> Array:
    """Return Spearman's rank correlation of each pair of maps; equal entries share their mean rank, 0 for a flat map.

    Args:
      a, b: maps, of one shape (N, ...).

    Raises:
      ArgumentError: for maps of different shapes.

    Source: Adebayo et al. 2018, "Sanity checks for saliency maps".
    """
    a, b = (_flat(r) for r in _pair(a, b))
    x, y = (_unless_nan(r, jax.vmap(_centred_ranks)(r)) for r in (a, b))
    return _divide((x * y).sum(1), jnp.sqrt((x * x).sum(1)) * jnp.sqrt((y * y).sum(1)))


@functools.partial(jax.jit, static_argnames="window")
def ssim(a: Array, b: Array, window: int = 7) -> Array:
    """Return the structural similarity of each pair of two-dimensional maps, the mean over all whole windows.

    SSIM = (2μ_aμ_b + c₁)(2σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂)), c = (0.01 L)², (0.03 L)², L the range of
    both maps; uniform windows and sample covariances. It is 1 for two maps of one and the same number.

    Args:
      a, b: maps, of one shape (N, height, width).
      window: the side of the windows, odd and at least 3.

    Raises:
      ArgumentError: for maps of different shapes, that are not two-dimensional, or smaller than the window.

    Source: Wang et al. 2004, "Image quality assessment"; Adebayo et al. 2018.
    """
    a, b = _pair(a, b)
    odd = isinstance(window, int) and window >= 3 and window % 2 == 1
    if not odd or a.ndim != 3 or min(a.shape[1:]) < window:
        raise ArgumentError(
            f"ssim of maps of shape {a.shape} in windows of {window}: expected (N, height, width) and an odd window "
            "from 3 on that fits; sum over the channels first."
        )
    # In parts of the range the formula is the same and its squares fit the dtype. Covariances are those of the maps
    # less their means, or they would drown in rounding where maps vary little beside their means.
    both = scaled(jnp.concatenate([_flat(a), _flat(b)], axis=1))
    span = (both.max(1) - both.min(1))[:, None]
    x, y = jnp.split(both, 2, axis=1)
    centre_x, centre_y = (r.mean(1, keepdims=True) for r in (x, y))
    x, y = (_divide(r - centre, span).reshape(a.shape) for r, centre in ((x, centre_x), (y, centre_y)))
    mean = functools.partial(_window_mean, window=window)
    mean_x, mean_y = mean(x), mean(y)
    unbiased = window**2 / (window**2 - 1)
    var_x, var_y = (unbiased * (mean(r * r) - m * m) for r, m in ((x, mean_x), (y, mean_y)))
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    mean_x, mean_y = (m + _divide(c, span)[:, :, None] for m, c in ((mean_x, centre_x), (mean_y, centre_y)))
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return (top / below).mean((1, 2))


def _window_mean(x: Array, window: int) -> Array:
    ones = (1, window, window)
    return jax.lax.reduce_window(x, np.zeros((), x.dtype), jax.lax.add, ones, (1, 1, 1), "VALID") / window**2


def _centred_ranks(r: Array) -> Array:
    """Return the mean ranks of a row's entries, less the mean of all ranks, (n − 1)/2: exactly 0 for a flat row."""
    ordered = jnp.sort(r)
    below, up_to = (jnp.searchsorted(ordered, r, side=side) for side in ("left", "right"))
    return 0.5 * (below + up_to - r.size).astype(r.dtype)


def _unless_nan(rows: Array, found: Array) -> Array:
    """Return what was found of rows, NaN for those that have a NaN, which sorting would hide."""
    return jnp.where(jnp.isnan(rows).any(1).reshape(-1, *[1] * (found.ndim - 1)), jnp.nan, found)


def _flat(x: Array) -> Array:
    """Return maps as rows, in float32 at least."""
    x = jnp.asarray(x)
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise ArgumentError(f"maps of shape {x.shape}: expected (N, ...); x[None] makes one map a batch.")
    return x.reshape(len(x), math.prod(x.shape[1:])).astype(jnp.promote_types(x.dtype, jnp.float32))


def scaled(maps: Array) -> Array:
    """Return maps, each in parts of its largest entry by size, so that no sum or square leaves the dtype's range."""
    return _divide(maps, jnp.abs(maps).max(tuple(range(1, maps.ndim)), keepdims=True))


def _divide(a: Array, b: Array) -> Array:
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def _pair(a: Array, b: Array) -> tuple[Array, Array]:
    a, b = jnp.asarray(a), jnp.asarray(b)
    if a.shape != b.shape or a.ndim < 2:
        raise ArgumentError(f"maps of shapes {a.shape} and {b.shape}: expected one shape (N, ...).")
    return a, b


def _masked(relevance: Array, mask: Array) -> tuple[Array, Array]:
    relevance, mask = _pair(relevance, mask)
    return _flat(relevance), _flat(mask) != 0
