"""Relevance R of a value v may travel as its ratio c = R / v: conversions, and the derivatives that hand c on.

Each function here returns a value as it is; only its derivative is another one. Its coefficients stay functions of the
values, so that derivatives of relevance are right too.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.rules.base import Array, ratio, stabilize


@jax.custom_jvp
def times(v: Array) -> Array:
    """Return v; its pullback takes a ratio c to the relevance c·v."""
    return v


@times.defjvp
def _times(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (v,), (t,) = primals, tangents
    return v, of_ratio(t, v)


def of_ratio(c: Array, v: Array) -> Array:
    """Return the relevance c·v of a ratio; a value that is not finite counts as 0."""
    return jnp.where(jnp.isfinite(v), v, 0) * c


@jax.custom_vjp
def over(z: Array, epsilon: Array) -> Array:
    """Return z; its pullback takes relevance R to the ratio R / st(z), bounded, and 0 where that is 0 / 0."""
    return z


over.defvjp(lambda z, epsilon: (z, (z, epsilon)), lambda kept, r: (ratio(r, stabilize(*kept)), None))


def damped(z: Array, epsilon: Any) -> Array:
    """Return z; its pullback scales a ratio by |z| / (|z| + ε), as a stabiliser does."""
    known = isinstance(epsilon, (int, float))
    return z if known and epsilon == 0 else _damped(z, jnp.asarray(epsilon, z.dtype))


@jax.custom_jvp
def _damped(z: Array, epsilon: Array) -> Array:
    return z


@_damped.defjvp
def _damped_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (z, epsilon), (t, _) = primals, tangents
    none, size = (epsilon == 0) & (z == z), jnp.where(jnp.isfinite(z), jnp.abs(z), 0)
    return z, jnp.where(none, 1, size / jnp.where(none, 1, size + epsilon)) * t


@jax.custom_jvp
def masked(z: Array, mask: Array) -> Array:
    """Return z; its pullback multiplies what comes back, in either form, by a mask that broadcasts to z."""
    return z


@masked.defjvp
def _masked(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (z, mask), (t, _) = primals, tangents
    return z, t * mask.astype(z.dtype)
