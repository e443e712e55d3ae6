"""Examples out of a source, read ahead by Grain's threads, chunk by chunk."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jrlrp.errors import ArgumentError

try:
    import grain
except ImportError:
    raise ImportError("jrlrp.runs needs TensorStore and Grain: pip install 'jrlrp[scale]'") from None

THREADS = 8


@dataclass(frozen=True)
class Unreadable:
    """An item that could not be read, and why."""

    error: Exception

    @property
    def message(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"


@dataclass(frozen=True, eq=False)
class Chunk:
    """A batch of examples: their numbers, the arguments that they make, and what is wrong with some of them."""

    number: int
    index: np.ndarray
    arguments: tuple[Any, ...]
    errors: dict[int, str]

    @property
    def valid(self) -> np.ndarray:
        return np.array([int(k) not in self.errors for k in self.index])


@dataclass(frozen=True, eq=False)
class Parts:
    """A source's chunks as Grain's threads read them: a part of a chunk each, as handing on each item costs more.

    None raises; what cannot be read, or is of another structure than `like`, is `Unreadable`.
    """

    source: Any
    like: Any
    size: int  # of a chunk
    first: int
    end: int

    def __len__(self) -> int:
        return (self.end - self.first) * THREADS

    def __getitem__(self, part: int) -> list[Any]:
        number, part = divmod(part, THREADS)
        chunk, expected = _numbers(self.source, self.first + number, self.size), _shapes(self.like)
        start, stop = (len(chunk) * n // THREADS for n in (part, part + 1))
        return [self._checked(item(self.source, k), expected) for k in chunk[start:stop]]

    def _checked(self, one: Any, expected: tuple[Any, ...]) -> Any:
        if isinstance(one, Unreadable) or _shapes(one) == expected:
            return one
        other = f"it is {structure(one)}; expected {structure(self.like)}, as of the others"
        return Unreadable(ArgumentError(other))


def _numbers(source: Any, chunk: int, size: int) -> range:
    return range(chunk * size, min((chunk + 1) * size, len(source)))


def item(source: Any, k: int) -> Any:
    """Return an item as a tuple of pytrees of arrays, one for each argument, or why it cannot be read."""
    try:
        found = source[k]
        return jax.tree.map(np.asarray, found if type(found) is tuple else (found,))
    except Exception as error:  # a user's source may raise anything; who reads says it, or raises it
        return Unreadable(error)


def structure(found: Any) -> str:
    """Return the shapes and dtypes of an item as text."""
    return str(jax.tree.map(lambda a: f"{a.dtype.name}{list(a.shape)}", found))


def _shapes(found: Any) -> tuple[Any, ...]:
    """Return what `structure` says, to be compared."""
    leaves, tree = jax.tree.flatten(found)
    return (tree, *((leaf.shape, leaf.dtype) for leaf in leaves))


def digest(found: Any) -> str:
    """Return what tells an item from others."""
    if isinstance(found, Unreadable):
        return "unreadable"
    made = hashlib.sha256(structure(found).encode())
    for leaf in jax.tree.leaves(found):
        made.update(np.ascontiguousarray(leaf).tobytes())
    return made.hexdigest()


def template(source: Any, found: Sequence[Any]) -> Any:
    """Return zeros like a source's items, of the first that can be read."""
    for one in itertools.chain(found, (item(source, k) for k in range(min(len(source), 1000)))):
        if not isinstance(one, Unreadable):
            return jax.tree.map(np.zeros_like, one)
    message = f"none of the source's first items can be read; the first: {found[0].message}"
    raise ArgumentError(message) from found[0].error


def chunks(source: Any, like: Any, first: int, end: int, size: int, raises: bool) -> Iterator[Chunk]:
    """Yield the chunks of numbers `first` to `end` of a source, while those after them are read.

    What cannot be read, or is of another structure than `like`, is zeros in its place; so is what fills the last chunk.
    """
    if first >= end:
        return
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
    parts = iter(grain.MapDataset.source(Parts(source, like, size, first, end)).to_iter_dataset(options))
    for number in range(first, end):
        chunk = _numbers(source, number, size)
        read = itertools.chain.from_iterable(itertools.islice(parts, THREADS))
        found, errors = [], {}
        for k, one in zip(chunk, read, strict=True):
            if isinstance(one, Unreadable):
                if raises:
                    message = f'item {k} of the source: {one.message}; on_error="record" goes on without it.'
                    raise ArgumentError(message) from one.error
                errors[k], one = one.message, like
            found.append(one)
        found += [like] * (size - len(found))
        yield Chunk(number, np.array(chunk), jax.tree.map(lambda *leaves: np.stack(leaves), *found), errors)
