"""One equation as a jaxpr of simpler ones, which is read in its place."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.trace import compat

_MOST_SLICES = 1_000
# What a reduction by a function may do, and what it then begins with if that is nothing.
_REDUCTIONS = {"add": (jax.lax.add, 0), "max": (jax.lax.max, -np.inf), "min": (jax.lax.min, np.inf)}


def _polynomial(x: Any, *coefficients: Any) -> Any:
    """Horner's rule, the coefficients from the lowest degree to the highest."""
    return functools.reduce(lambda total, c: total * x + c, reversed(coefficients))


# What JAX 0.11 has a primitive for, as JAX 0.10 spells it.
FORMULAS: Mapping[str, Callable] = {
    "log2": lambda x: jnp.log(x) / np.asarray(math.log(2), x.dtype),
    "one_minus_square": lambda x: 1 - jax.lax.square(x),
    "polynomial": _polynomial,
}


def applies_function(eqn: Any) -> bool:
    """Tell whether a scatter puts a user's function of what is there in its place: `x.at[i].apply(f)`."""
    return eqn.params.get("update_jaxpr") is not None


def applied_at(eqn: Any) -> Any | None:
    """Return a scatter that applies a function as a jaxpr: what is gathered, the function of it, scattered.

    None where places may be the same: there it is applied several times.
    """
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    places = eqn.invars[1].aval.shape[:-1]
    if not p["unique_indices"] and int(np.prod(places)) != 1:
        return None
    window = iter(eqn.invars[2].aval.shape[d] for d in numbers.update_window_dims)
    alone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    sizes = tuple(1 if d in alone else next(window) for d in range(eqn.invars[0].aval.ndim))
    gathered = jax.lax.GatherDimensionNumbers(
        offset_dims=numbers.update_window_dims,
        collapsed_slice_dims=numbers.inserted_window_dims,
        start_index_map=numbers.scatter_dims_to_operand_dims,
        operand_batching_dims=numbers.operand_batching_dims,
        start_indices_batching_dims=numbers.scatter_indices_batching_dims,
    )

    def spelled(x: Any, indices: Any, updates: Any) -> Any:
        here = jax.lax.gather(x, indices, gathered, sizes, mode=p["mode"], fill_value=0)
        function = lambda *entries: jax.core.eval_jaxpr(p["update_jaxpr"], p["update_consts"], *entries)[0]
        made = jax.vmap(function)(here.reshape(-1), updates.reshape(-1)).reshape(updates.shape)
        return jax.lax.scatter(x, indices, made, numbers, unique_indices=p["unique_indices"], mode=p["mode"])

    return jax.make_jaxpr(spelled)(*(v.aval for v in eqn.invars))


def product_of_slices(eqn: Any) -> Any | None:
    """Return a product over axes as a jaxpr that multiplies slices, a prime factor of the length at a time.

    None where that would be thousands of equations.
    """
    (x,) = (v.aval for v in eqn.invars)
    if any(max(_prime_factors(x.shape[axis]), default=1) > _MOST_SLICES for axis in eqn.params["axes"]):
        return None

    def spelled(x: Any) -> Any:
        for axis in sorted(eqn.params["axes"], reverse=True):
            count = x.shape[axis]
            for parts in _prime_factors(count):
                count //= parts
                first, *others = (jax.lax.slice_in_dim(x, k * count, (k + 1) * count, axis=axis) for k in range(parts))
                x = functools.reduce(jax.lax.mul, others, first)
            x = jax.lax.squeeze(x, [axis]) if count else jnp.ones((*x.shape[:axis], *x.shape[axis + 1 :]), x.dtype)
        return x

    return jax.make_jaxpr(spelled)(x)


def reduced(eqn: Any) -> Any | None:
    """Return a reduction by a function, over axes or windows, as a jaxpr of the sum or the maximum that it is.

    JAX keeps the function where it is its user's, `jnp.maximum` say, or begins with what is traced. None for others.
    """
    if (
        eqn.primitive.name not in ("reduce", "reduce_window")
        or len(eqn.invars) != 2
        or not compat.is_literal(eqn.invars[1])
    ):
        return None
    p, body = eqn.params, compat.parts(eqn.params["jaxpr"])[0]
    function, neutral = _REDUCTIONS.get("".join(inner.primitive.name for inner in body.eqns), (None, None))
    if function is None or body.outvars != body.eqns[0].outvars or eqn.invars[1].val != neutral:
        return None
    if any(v not in body.eqns[0].invars for v in body.invars):
        return None
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")

    def spelled(x: Any, start: Any) -> Any:
        known = np.asarray(neutral, x.dtype)
        if "dimensions" in p:
            return jax.lax.reduce(x, known, function, p["dimensions"])
        return jax.lax.reduce_window(x, known, function, *(p[name] for name in names))

    return jax.make_jaxpr(spelled)(*(v.aval for v in eqn.invars))


def product_of_pieces(eqn: Any, pieces: Sequence[Any]) -> Any:
    """Return the product of a stack, of whose pieces there are shapes, as a jaxpr of the pieces."""
    (axis,), (x,) = eqn.params["axes"], (v.aval for v in eqn.invars)

    def spelled(*pieces: Any) -> Any:
        own = [jax.lax.squeeze(piece, [axis]) if piece.ndim == x.ndim else piece for piece in pieces]
        return functools.reduce(jax.lax.mul, [jax.lax.convert_element_type(piece, x.dtype) for piece in own])

    return jax.make_jaxpr(spelled)(*pieces)


def _prime_factors(count: int) -> list[int]:
    found = []
    while count > 1:
        found.append(next((k for k in range(2, math.isqrt(count) + 1) if count % k == 0), count))
        count //= found[-1]
    return found
