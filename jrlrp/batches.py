"""Many examples, a batch at a time: compiled once, in the memory of a few batches."""

import inspect
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jrlrp.errors import ArgumentError
from jrlrp.modules import as_it_is, is_module
from jrlrp.rules.base import brief

_AHEAD = 2  # batches that are computed while the results of those before are fetched


def in_batches(explain: Callable, *arrays: Any, batch_size: int = 64, progress: str | bool = False) -> Any:
    """Return what `explain(*arrays)` returns, computed for `batch_size` examples at once, as NumPy arrays.

    Batches are of one size: the last one is filled with its last example. So there is one compilation, and memory on
    the device is that of a few batches.

    Args:
      explain: a function of arrays with a leading axis of examples that returns such: `relevance(model)`,
        `value_and_relevance(model)`, the model itself. It is jitted here; one that is jitted already is compiled once
        for all calls.
      *arrays: its arguments, pytrees of arrays of shape (N, ...), of NumPy or JAX.
      batch_size: how many examples are computed at once, at most.
      progress: whether to show a tqdm bar, or what it is called.

    Returns:
      The pytree that `explain` returns, of NumPy arrays of shape (N, ...).

    Raises:
      ArgumentError: for arrays of other lengths than each other, or a result without one row for each example.

    Example:
      >>> images = np.ones((1000, 8), np.float32)
      >>> jrlrp.in_batches(jrlrp.relevance(lambda x: x @ jnp.ones((8, 3))), images, batch_size=256).shape
      (1000, 8)
    """
    _require_function("in_batches", explain)
    return computed(jitted(explain), arrays, rows(batch_size, _length(arrays)), progress)


def computed(run: Callable, arrays: tuple[Any, ...], size: int, progress: str | bool = False) -> Any:
    """Return what a compiled function returns of arrays of one length, `size` rows at once; see `in_batches`."""
    count = _length(arrays)
    part = lambda start: jax.tree.map(lambda a: _filled(a[start : start + size], size), arrays)
    batches = ((min(size, count - start), part(start)) for start in range(0, count, size))
    found = list(shown(_results(run, batches, size), progress, math.ceil(count / size)))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def stream(explain: Callable, iterable: Iterable, batch_size: int = 64) -> Iterator[Any]:
    """Yield what `explain` returns of an iterable's examples, batch by batch, as NumPy arrays.

    Args:
      explain: as for `in_batches`.
      iterable: examples without a batch axis: pytrees of arrays and numbers; a tuple has one for each of `explain`'s
        arguments.
      batch_size: how many examples are computed at once; the last batch is filled with its last example.

    Yields:
      The pytree that `explain` returns, of NumPy arrays of shape (batch_size, ...), shorter the last time.

    Raises:
      ArgumentError: for a result without one row for each example.

    Example:
      >>> explain = jrlrp.relevance(lambda x: x @ jnp.ones((8, 3)))
      >>> [R.shape for R in jrlrp.stream(explain, (np.ones(8) for _ in range(10)), batch_size=4)]
      [(4, 8), (4, 8), (2, 8)]
    """
    _require_function("stream", explain)
    size = rows(batch_size, batch_size)
    return _results(jitted(explain), _stacked(iterable, size), size)


def _stacked(iterable: Iterable, size: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield how many of an iterable's examples a batch has, and the arguments that they make."""
    examples: list[tuple[Any, ...]] = []

    def batch() -> tuple[int, tuple[Any, ...]]:
        count = len(examples)
        filled = examples + examples[-1:] * (size - count)
        return count, jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *filled)

    for example in iterable:
        examples.append(example if isinstance(example, tuple) else (example,))
        if len(examples) == size:
            yield batch()
            examples.clear()
    if examples:
        yield batch()


def _results(run: Callable, batches: Iterable[tuple[int, tuple[Any, ...]]], size: int) -> Iterator[Any]:
    """Yield the rows that count of what a function returns of batches, with some batches under way."""
    pending: deque[tuple[int, Any]] = deque()
    for count, arguments in batches:
        pending.append((count, run(*arguments)))
        if len(pending) > _AHEAD:
            yield _fetched(*pending.popleft(), size)
    while pending:
        yield _fetched(*pending.popleft(), size)


def _fetched(count: int, result: Any, size: int) -> Any:
    def leading(leaf: Any) -> np.ndarray:
        if np.ndim(leaf) == 0 or len(leaf) != size:
            raise ArgumentError(
                f"for a batch of {size} examples the function returned an array of shape {np.shape(leaf)}; expected "
                "one row for each example."
            )
        return leaf[:count]

    return jax.tree.map(leading, jax.device_get(result))


def _filled(part: Any, size: int) -> Any:
    """Return a part of an array with its last row again and again up to a number of rows."""
    if len(part) == size:
        return part
    return np.concatenate([part, np.repeat(np.asarray(part[-1:]), size - len(part), axis=0)])


def _length(arrays: Any) -> int:
    """Return how many examples arrays have."""
    leaves = jax.tree.leaves(arrays)
    lengths = {len(a) if np.ndim(a) else None for a in leaves}
    if len(lengths) != 1 or None in lengths:
        shapes = ", ".join(str(np.shape(a)) for a in leaves) or "none"
        raise ArgumentError(f"arrays of shapes {shapes}: expected one leading axis of examples for all.")
    return lengths.pop() or 0


def jitted(explain: Callable) -> Callable:
    """Return a function compiled; one that is a module of Flax NNX, or explains one, anew, as that may have changed."""
    if isinstance(explain, (jax.stages.Wrapped, jax.stages.Compiled)):
        return explain
    inner = inspect.unwrap(explain)
    if not is_module(getattr(inner, "__self__", inner), "flax"):
        return jax.jit(explain)

    def run(*arrays: Any) -> Any:
        with as_it_is():
            return explain(*arrays)

    return jax.jit(run)


def _require_function(name: str, explain: Any) -> None:
    if not callable(explain):
        raise ArgumentError(
            f"{name}({brief(explain)}): expected a function of batches first, relevance(model) say, and then what it "
            "is to explain."
        )


def rows(batch_size: Any, count: int) -> int:
    """Return how many of `count` rows go into each batch: as many into the last as into the others, if that can be."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ArgumentError(f"batch_size={batch_size!r}: expected an int ≥ 1.")
    if not count:
        raise ArgumentError("there are no examples; pass at least one.")
    return math.ceil(count / math.ceil(count / batch_size))


def shown(steps: Iterable, progress: str | bool, total: int | None = None) -> Iterable:
    """Return the steps behind a tqdm bar, if it is wanted."""
    if not progress:
        return steps
    try:
        from tqdm import tqdm
    except ImportError:
        raise ArgumentError("progress=True needs tqdm: pip install tqdm, or leave it out.") from None
    return tqdm(steps, desc=progress if isinstance(progress, str) else None, total=total)
