"""What metrics are given: examples, options, and functions to compile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.errors import ArgumentError
from jrlrp.rules.base import brief

Array = Any


def examples(x: Any) -> Array:
    """Return examples as an array, or raise ArgumentError for what is none."""
    try:
        found = jnp.asarray(x)
    except (TypeError, ValueError):
        raise ArgumentError(f"examples of type {type(x).__name__}: expected an array of shape (N, ...).") from None
    if not found.ndim:
        raise ArgumentError("one number for examples: expected an array of shape (N, ...).")
    return found


def require(name: str, value: Any, kind: type) -> None:
    """Raise ArgumentError unless an option is a bool or an int, a NumPy one perhaps."""
    allowed = (bool, np.bool_) if kind is bool else (int, np.integer)
    if not isinstance(value, allowed) or (kind is int and isinstance(value, bool)):
        raise ArgumentError(f"{name}={value!r}: expected {'True or False' if kind is bool else 'an int'}.")


def require_function(function: Any) -> None:
    """Raise ArgumentError for what is no function of a batch."""
    if not callable(function):
        raise ArgumentError(f"expected a function, got {brief(function)}; pass the model's apply function, say.")


def compiled(step: Callable, function: Callable, **options: Any) -> Callable:
    """Return `step(function, ..., **options)`, compiled.

    What is compiled for a jitted function is remembered for later calls, and what is compiled for a
    `jax.tree_util.Partial`, for whatever arrays it holds. What any other function refers to may have changed since it
    was seen last, so it is compiled anew.

    Args:
      step: a jitted function whose first argument is a `Partial`, and whose options are static.
    """
    require_function(function)
    if isinstance(function, jax.tree_util.Partial):
        return functools.partial(step, function, **options)
    if isinstance(function, jax.stages.Wrapped):
        return functools.partial(step, jax.tree_util.Partial(function), **options)
    return jax.jit(functools.partial(step.__wrapped__, function, **options))  # type: ignore[attr-defined]
