"""Primitives that XLA compiles badly for CPUs, spelled otherwise there.

A depthwise convolution runs at a tenth of the speed of a dense one of its size, its transpose at a hundredth; the
pullback of a max-pool is a scatter, tenfold slower than comparing each value of a window with the maximum.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.primitives.row import Op
from jrlrp.rewrites.extremes import OF_TWO, REDUCTIONS, Extreme
from jrlrp.trace import shards
from jrlrp.trace.program import Equation

Array = Any
_CONV = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers")
_POOL = ("window_dimensions", "window_strides", "padding", "window_dilation")


def respelled(eqn: Equation) -> Equation:
    """Return the equation in its better spelling, if it has one."""
    own = (eqn.row, eqn.inputs, eqn.outputs, eqn.params, eqn.path, eqn.source, eqn.eqn)
    if not all(jnp.issubdtype(v.dtype, jnp.floating) for v in eqn.outputs):
        return eqn
    if eqn.rule is None and eqn.op is Op.CONV and _is_depthwise(eqn):
        return DepthwiseConv(*own)
    if eqn.rule is None and eqn.op is Op.WINDOW_MAXIMUM and set(eqn.params["base_dilation"]) <= {1}:
        return MaxPool(*own)
    if eqn.rule is None and eqn.op in (*REDUCTIONS, *OF_TWO) and eqn.inputs[0].size:  # nothing has no winner
        return Extreme(*own)
    return eqn


@dataclass(frozen=True, eq=False)
class MaxPool(Equation):
    """A maximum over windows whose pullback gives all to the first maximum of each, as JAX's does."""

    def run(self, values: Sequence[Any]) -> list[Any]:
        return [_max_pool(*(self.params[name] for name in _POOL))(*values)]


@functools.cache  # JAX keeps what it compiled by the identity of a function
def _max_pool(window, strides, padding, apart) -> Callable:
    def pool(x):
        lowest = np.asarray(-np.inf, x.dtype)  # known, so that JAX sees a maximum
        return jax.lax.reduce_window(x, lowest, jax.lax.max, window, strides, padding, None, apart)

    def pull(x, r):
        return jax.vjp(pool, x)[1](r)[0]

    def pull_taps(x, r):
        edges = [(low, high, 0) for low, high in padding]
        x = jax.lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), edges)
        taps = _taps(window, strides, apart, r.shape)
        # By comparing values with each other: XLA may compute x anew here, and round it otherwise than the maximum was.
        best, winner = jnp.full(r.shape, -jnp.inf, x.dtype), jnp.zeros(r.shape, jnp.int32)
        for k, (start, stop) in enumerate(taps):
            value = jax.lax.slice(x, start, stop, strides)
            winner, best = jnp.where(value > best, k, winner), jnp.maximum(value, best)
        winner = jax.lax.optimization_barrier(jnp.where(jnp.isnan(best), -1, winner))  # one for all that follows
        result = jnp.zeros(x.shape, r.dtype)
        for k, (start, stop) in enumerate(taps):
            place = [(a, n - b, stride - 1) for a, b, n, stride in zip(start, stop, x.shape, strides, strict=True)]
            result = result + jax.lax.pad(jnp.where(winner == k, r, 0), jnp.zeros((), r.dtype), place)
        inner = [(-low, -high, 0) for low, high in padding]
        return jax.lax.pad(result, jnp.zeros((), r.dtype), inner)

    @jax.custom_vjp
    def max_pool(x):
        return pool(x)

    def forward(x):
        return pool(x), x

    def backward(x, r):
        default = pull if set(apart) <= {1} else pull_taps  # JAX has no pullback of windows with gaps
        return (jax.lax.platform_dependent(x, r, cpu=pull_taps, default=default),)

    max_pool.defvjp(forward, backward)
    return max_pool


def _taps(window: Any, strides: Any, apart: Any, sizes: Any) -> list[tuple[list[int], list[int]]]:
    """Return where the values at each place of the windows begin and stop, for as many windows as `sizes` says."""
    taps = []
    for tap in itertools.product(*map(range, window)) if 0 not in sizes else ():
        start = [t * step for t, step in zip(tap, apart, strict=True)]
        taps.append((start, [a + stride * (n - 1) + 1 for a, stride, n in zip(start, strides, sizes, strict=True)]))
    return taps


@dataclass(frozen=True, eq=False)
class DepthwiseConv(Equation):
    """A convolution with one input channel and one output channel for each group; `pull` is its transpose in x."""

    def run(self, values: Sequence[Any]) -> list[Any]:
        return self.bind_all(values)

    def bind_all(self, values: Sequence[Any], **overrides: Any) -> list[Any]:
        x, w = values
        wide = jnp.promote_types(x.dtype, jnp.float32)
        z = self._spellings[0](x.astype(wide), w.astype(wide))
        return [z.astype(overrides.get("preferred_element_type") or self.output.dtype)]

    def pull(self, r: Array, w: Array) -> Array:
        return self._spellings[1](r, w)

    @property
    def _spellings(self) -> tuple[Callable, Callable]:
        options = tuple(self.params[name] for name in _CONV)
        return _depthwise(*options, self.inputs[0].shape, self.params["feature_group_count"])


def _is_depthwise(eqn: Equation) -> bool:
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    x, w = eqn.inputs
    alone = 1 < groups == x.shape[numbers.lhs_spec[1]] == w.shape[numbers.rhs_spec[0]]
    return alone and eqn.params["batch_group_count"] == 1


@functools.cache
def _depthwise(strides, padding, dilation, taps_apart, numbers, shape, groups) -> tuple[Callable, Callable]:
    """Return the convolution and its transpose as functions of (x, w) and (r, w)."""
    places = (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    out_places = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    w_places = (*numbers.rhs_spec[2:], numbers.rhs_spec[0], numbers.rhs_spec[1])
    sizes = [shape[d] for d in places[1:-1]]

    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, strides, padding, dilation, taps_apart, numbers, feature_group_count=groups
        )

    def conv_taps(x, w):
        z = _sum_taps(
            jnp.transpose(x, places), jnp.transpose(w, w_places)[..., 0], strides, padding, dilation, taps_apart
        )
        return jnp.transpose(z, _inverse(out_places))

    def pull(r, w):
        at_input = jax.typeof(r).update(shape=shape, weak_type=False)  # with what shard_map knows of its axes
        return jax.linear_transpose(lambda x: conv(x, w), at_input)(r)[0]

    def pull_taps(r, w):
        """The convolution of r by the flipped kernel: strides and dilation of the input change places."""
        r, w = jnp.transpose(r, out_places), jnp.flip(jnp.transpose(w, w_places)[..., 0], range(w.ndim - 2))
        pads = []
        for k, n, m, stride, apart, (low, _), inner in zip(
            w.shape, sizes, r.shape[1:], strides, taps_apart, padding, dilation, strict=False
        ):
            reach = (k - 1) * apart
            before = reach - low
            pads.append((before, (n - 1) * inner + 1 + reach - before - ((m - 1) * stride + 1)))
        return jnp.transpose(_sum_taps(r, w, dilation, pads, strides, taps_apart), _inverse(places))

    def spelled(by_taps: Callable, plain: Callable) -> Callable:
        return lambda a, w: jax.lax.platform_dependent(a, w, cpu=by_taps, default=plain)

    back = spelled(pull_taps, pull)
    run = jax.custom_vjp(spelled(conv_taps, conv))

    def backward(kept, r):
        x, w = kept
        of_weights = jax.vjp(lambda w: conv(x, w), w)[1](r)[0]
        return shards.added_up(back(r, w), x), shards.added_up(of_weights, w)

    run.defvjp(lambda x, w: (run(x, w), (x, w)), backward)
    return run, back


def _sum_taps(x: Array, w: Array, strides: Any, padding: Any, dilation: Any, taps_apart: Any) -> Array:
    """Convolve x (batch, *space, channels) by w (*space, channels): Σ_tap of a shifted x times the weights there."""
    edges = [(low, high, inner - 1) for (low, high), inner in zip(padding, dilation, strict=True)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    kernel = zip(w.shape[:-1], x.shape[1:-1], strides, taps_apart, strict=True)
    sizes = [max((n - (k - 1) * apart - 1) // stride + 1, 0) for k, n, stride, apart in kernel]
    z = jnp.zeros((x.shape[0], *sizes, x.shape[-1]), x.dtype)
    weights = w.reshape(-1, w.shape[-1])
    for k, (start, stop) in enumerate(_taps(w.shape[:-1], strides, taps_apart, sizes)):
        shifted = jax.lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))
        z = z + shifted * weights[k]
    return z


def _inverse(places: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(places)), key=places.__getitem__))
