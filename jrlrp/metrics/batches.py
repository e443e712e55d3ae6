"""Many evaluations as a few compiled batches."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.errors import ArgumentError
from jrlrp.rules.base import brief

Array = Any


def in_batches(step: Callable, count: int, size: int, progress: str | bool = False) -> np.ndarray:
    """Return the `count` results of `step(index)`, computed for `size` indices at once.

    Args:
      step: a compiled function of an integer array, always of one size, so that it is compiled once.
      progress: what a tqdm bar is called, False for none.
    """
    found = []
    for start in shown(range(0, count, size), progress):
        found.append(jax.device_get(step(jnp.minimum(jnp.arange(start, start + size), count - 1))))
    return np.concatenate(found)[:count]


def batch_rows(batch_size: int, count: int) -> int:
    """Return how many of `count` rows go into each batch: as many into the last as into the others, if that can be."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ArgumentError(f"batch_size={batch_size!r}: expected an int ≥ 1.")
    if not count:
        raise ArgumentError("there are no examples to measure on; pass at least one.")
    return math.ceil(count / math.ceil(count / batch_size))


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


def shown(steps: Iterable, progress: str | bool) -> Iterable:
    """Return the steps behind a tqdm bar, if it is wanted."""
    if not progress:
        return steps
    try:
        from tqdm import tqdm
    except ImportError:
        raise ArgumentError("progress=True needs tqdm: pip install tqdm, or leave it out.") from None
    return tqdm(steps, desc=progress if isinstance(progress, str) else None)


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
