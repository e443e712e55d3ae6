"""Maxima and minima whose derivative never loses the winner.

JAX's own asks which entries equal the maximum. But XLA may compute these anew for the comparison, and round them
otherwise than the maximum was; then no entry is it, and what comes back is lost without a word. Here entries are
compared with each other: the first of the largest always wins, and shares with those that equal it.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.primitives.row import Op
from jrlrp.trace.program import Equation

Array = Any
REDUCTIONS = (Op.MAXIMUM, Op.MINIMUM)
OF_TWO = (Op.MAX, Op.MIN)


@dataclass(frozen=True, eq=False)
class Extreme(Equation):
    """A maximum or minimum, over axes or of two values, with a derivative of its own."""

    def run(self, values: Sequence[Any]) -> list[Any]:
        return self.bind_all(values)

    def bind_all(self, values: Sequence[Any], **overrides: Any) -> list[Any]:
        if self.op in OF_TWO:
            return [_of_two(self.op is Op.MAX)(*values)]
        axes = {**self.params, **overrides}["axes"]
        return [_over_axes(self.op is Op.MAXIMUM, tuple(int(d) for d in axes))(*values)]


@functools.cache  # JAX keeps what it compiled by the identity of a function
def _of_two(largest: bool) -> Callable:
    choose = jax.lax.max if largest else jax.lax.min

    @jax.custom_jvp
    def extreme(a, b):
        return choose(a, b)

    @extreme.defjvp
    def jvp(primals, tangents):
        (a, b), (t, u) = primals, tangents
        first, second = (a, b) if largest else (b, a)
        own = jnp.where(first > second, 1.0, jnp.where(first == second, 0.5, 0.0)).astype(a.dtype)
        return choose(a, b), own * t + (1 - own) * u

    return extreme


@functools.cache
def _over_axes(largest: bool, axes: tuple[int, ...]) -> Callable:
    reduce, find = (jnp.max, jnp.argmax) if largest else (jnp.min, jnp.argmin)

    @jax.custom_jvp
    def extreme(x):
        return reduce(x, axis=axes)

    @extreme.defjvp
    def jvp(primals, tangents):
        (x,), (t,) = primals, tangents
        y = reduce(x, axis=axes)
        kept = [d for d in range(x.ndim) if d not in axes]
        flat = jnp.transpose(x, [*kept, *axes]).reshape(*(x.shape[d] for d in kept), -1)
        first = find(flat, axis=-1)[..., None]
        won = (jax.lax.broadcasted_iota(first.dtype, flat.shape, flat.ndim - 1) == first) | (flat == y[..., None])
        t = jnp.transpose(t, [*kept, *axes]).reshape(flat.shape)
        share = won / jnp.sum(won, axis=-1, keepdims=True, dtype=x.dtype)
        return y, jnp.sum(share.astype(x.dtype) * t, axis=-1)

    return extreme
