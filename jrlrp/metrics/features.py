"""What a feature is: the places that relevance ranks, and what they become when they are replaced."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.errors import ArgumentError

Array = Any
FILLS = ("zero", "mean", "blur", "noise")


@dataclass(frozen=True)
class Features:
    """The features of examples of shape `shape`.

    Attributes:
      shape: one example's shape.
      dims: along which of its dimensions the features lie; along the others they are whole.
      region: the side of the squares of features that go together.
    """

    shape: tuple[int, ...]
    dims: tuple[int, ...]
    region: int

    @classmethod
    def of(cls, x: Array, relevance: Array, region: int) -> "Features":
        given, expected = np.shape(relevance), x.shape
        fits = len(given) <= len(expected) and all(n in (1, m) for n, m in zip(given, expected, strict=False))
        if not given or not fits or given[0] != expected[0]:
            raise ArgumentError(
                f"relevance of shape {given} for examples of shape {expected}: expected the same shape, its leading "
                "axes, or axes of size 1 where features are whole."
            )
        kind = relevance.dtype if hasattr(relevance, "dtype") else np.asarray(relevance).dtype
        if not any(jnp.issubdtype(kind, real) for real in (jnp.floating, jnp.integer, jnp.bool_)):
            raise ArgumentError(f"relevance of dtype {kind}, which has no order: expected real numbers.")
        if isinstance(region, bool) or not isinstance(region, int) or region < 1:
            raise ArgumentError(f"region={region!r}: expected an int ≥ 1.")
        return cls(expected[1:], tuple(d for d, n in enumerate(given[1:]) if n > 1), region)

    @property
    def blocks(self) -> list[int]:
        """How many regions there are along each of `dims`."""
        return [math.ceil(self.shape[d] / self.region) for d in self.dims]

    @property
    def count(self) -> int:
        return math.prod(self.blocks)

    def mixed(self, channels: int | None) -> tuple[int, ...]:
        """Return along which dimensions a mean or a blur is taken: those of features, but for that of channels.

        Args:
          channels: the examples' axis of channels; None to find it where relevance has an axis for each, see
            `perturbation`.
        """
        own = range(len(self.shape))
        channel: int | None
        if channels is None:
            if len(own) < 2 or len(self.dims) < len(own):  # there is none, or relevance has no axis for it
                return self.dims
            if len(own) == 2:  # a series, or an image without channels
                channel = 1 if self.shape[1] <= 4 and self.shape[1] < self.shape[0] else None
            else:
                channel = 0 if 2 <= self.shape[0] <= 4 and self.shape[0] < self.shape[-1] else own[-1]
        else:
            known = isinstance(channels, (int, np.integer)) and not isinstance(channels, bool)
            if not known or channels == 0 or not -len(own) <= channels <= len(own) or len(own) < 2:
                raise ArgumentError(
                    f"channels={channels!r}: expected an axis of the examples, not the first, beside which there are "
                    f"others to take a mean over; one example has shape {self.shape}."
                )
            channel = channels - 1 if channels > 0 else channels + len(own)
        return tuple(d for d in self.dims if d != channel) or tuple(d for d in own if d != channel)

    def ranks(self, relevance: Array, most: bool, absolute: bool) -> Array:
        """Return, in a shape that broadcasts against the examples', the rank of each feature's region from 0 on."""
        ranks, unranked = _ranks(self, relevance, most, absolute)
        if unranked.any():
            raise ArgumentError(f"relevance has NaNs, which have no rank, in examples {np.flatnonzero(unranked)}.")
        return ranks


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _ranks(features: Features, relevance: Array, most: bool, absolute: bool) -> tuple[Array, Array]:
    """Return the ranks, and which examples have none."""
    region, blocks = features.region, features.blocks
    sizes = [features.shape[d] for d in features.dims]
    r = relevance.reshape(len(relevance), *sizes).astype(jnp.promote_types(relevance.dtype, jnp.float32))
    r = jnp.abs(r) if absolute else r
    for k, (size, count) in enumerate(zip(sizes, blocks, strict=True), 1):
        padding = [(0, count * region - size if d == k else 0) for d in range(r.ndim)]
        split = (*r.shape[:k], count, region, *r.shape[k + 1 :])
        r = jnp.pad(r, padding).reshape(split).sum(k + 1)
    flat = r.reshape(len(r), features.count)
    order = jnp.argsort(flat, stable=True, descending=most)
    places = jnp.broadcast_to(jnp.arange(features.count), order.shape)
    ranks = jnp.put_along_axis(jnp.zeros_like(order), order, places, 1, inplace=False).reshape(r.shape)
    for k, size in enumerate(sizes, 1):
        ranks = jax.lax.slice_in_dim(jnp.repeat(ranks, region, axis=k), 0, size, axis=k)
    shape = (n if d in features.dims else 1 for d, n in enumerate(features.shape))
    return ranks.reshape(len(ranks), *shape), jnp.isnan(flat).any(1)


def fill(x: Array, replace: Any, dims: tuple[int, ...], seed: int) -> Array:
    """Return what the features of examples become, in x's shape and dtype; see `perturbation`."""
    if not isinstance(replace, str):
        try:
            filled = jnp.broadcast_to(jnp.asarray(replace, x.dtype), x.shape)
        except (TypeError, ValueError):
            raise ArgumentError(
                f"replace={replace!r}: expected one of {', '.join(map(repr, FILLS))}, a number, or an array that "
                f"broadcasts to {x.shape}."
            ) from None
        if not jnp.issubdtype(x.dtype, jnp.inexact) and (jnp.asarray(replace) != jnp.asarray(replace, x.dtype)).any():
            raise ArgumentError(f"replace={replace!r}: not a number of dtype {x.dtype}, which the examples have.")
        return filled
    if replace not in FILLS:
        raise ArgumentError(f"replace={replace!r}: expected one of {', '.join(map(repr, FILLS))}, or numbers.")
    if replace == "zero":
        return jnp.zeros_like(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ArgumentError(f"replace={replace!r}: ids have no {replace}; pass the id that stands for nothing.")
    axes = tuple(d + 1 for d in dims)
    if replace == "mean":
        return jnp.broadcast_to(x.mean(axes, keepdims=True), x.shape)
    if replace == "noise":
        whole = tuple(range(1, x.ndim))
        low, high = x.min(whole, keepdims=True), x.max(whole, keepdims=True)
        at = jax.random.uniform(jax.random.key(seed), x.shape, x.dtype)
        return low * (1 - at) + high * at  # whose range may be too large for the dtype
    for axis in axes:
        x = _blur(x, axis)
    return x


def _blur(x: Array, axis: int) -> Array:
    """Return x blurred along an axis by a Gaussian of a tenth of its length, reflected at the ends."""
    size = x.shape[axis]
    sigma = max(size / 10, 1e-3)
    at = np.arange(size)
    weights = np.zeros((size, size))
    for image in (at, -1 - at, 2 * size - 1 - at):  # the entries, and their images in the mirrors at both ends
        weights += np.exp(-0.5 * ((at[:, None] - image[None]) / sigma) ** 2)
    weights /= weights.sum(1, keepdims=True)
    return jnp.moveaxis(jnp.tensordot(x, jnp.asarray(weights, x.dtype), ((axis,), (1,))), -1, axis)
