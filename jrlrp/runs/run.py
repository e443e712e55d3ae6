"""A run as it lies in its store: maps, values, reductions and errors, read when they are asked for."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, reduce
from typing import Any

import jax
import numpy as np

from jrlrp.concepts import References
from jrlrp.errors import ArgumentError
from jrlrp.runs.reductions import Histogram, Mean, Top
from jrlrp.runs.storage import Storage, named_leaves, unpacked

IDENTITY, STATES = "run.json", "states/"


@dataclass(frozen=True, eq=False)
class Lazy:
    """An array in a store: indexing it as a NumPy array reads those entries, and returns a NumPy array."""

    stored: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.stored.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.stored.dtype.numpy_dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self.stored[_positive(key, self.shape)].read().result())

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.stored.read().result(), dtype)

    def __repr__(self) -> str:
        return f"Lazy({self.dtype.name}{list(self.shape)})"


def _positive(key: Any, shape: tuple[int, ...]) -> Any:
    """Return an index with negative numbers counted from the end, as TensorStore does not."""
    if isinstance(key, tuple):
        if Ellipsis in [k for k in key if not isinstance(k, np.ndarray)]:
            at = next(n for n, k in enumerate(key) if k is Ellipsis)
            filled = (slice(None),) * (len(shape) - len(key) + 1)
            key = (*key[:at], *filled, *key[at + 1 :])
        return tuple(_positive(k, (n,)) for k, n in zip(key, shape, strict=False))
    if isinstance(key, slice):
        start, stop, step = key.indices(shape[0])
        return slice(start, max(start, stop) if step > 0 else stop, step)
    if isinstance(key, (int, np.integer)):
        if not -shape[0] <= key < shape[0]:
            raise IndexError(f"index {key} is out of bounds for axis of size {shape[0]}")
        return int(key) % shape[0]
    key = np.asarray(key)
    return key if key.dtype == bool else np.where(key < 0, key + shape[0], key)


@dataclass(frozen=True, eq=False)
class Run:
    """What `attribute` leaves in a store.

    Attributes:
      storage: where it lies.
      identity: what the run is: a dict of `attribute`'s arguments as far as they matter.
      given: reductions that are not the library's own, by name, as `attribute` got them.
    """

    storage: Storage
    identity: Mapping[str, Any]
    given: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def relevance(self) -> Any:
        """Relevance, (N, ...), as an array that is read where it is indexed; a dict of those for a pytree; else None.

        NaN (0 of integers) where an item could not be read, or is not explained yet.
        """
        return self._arrays("relevance")

    @cached_property
    def value(self) -> Any:
        """What the model made of the examples, likewise, or None if `explain` returns relevance alone."""
        return self._arrays("value")

    @property
    def errors(self) -> dict[int, str]:
        """Why items could not be explained, by their numbers."""
        found: dict[int, str] = {}
        for state in self._states:
            found |= {int(k): message for k, message in json.loads(str(state["errors"])).items()}
        return dict(sorted(found.items()))

    @property
    def finished(self) -> int:
        """How many of the source's items are done, those with errors too."""
        size, total = self.identity["batch_size"], self.identity["length"]
        return sum(min(int(s["end"]) * size, total) - min(int(s["first"]) * size, total) for s in self._states)

    @property
    def is_complete(self) -> bool:
        return self.finished == self.identity["length"]

    @property
    def reductions(self) -> dict[str, Any]:
        """The reductions of all that is finished, merged from what each process stored."""
        states = self._states
        return {name: self._reduced(name, about, states) for name, about in self.identity["reductions"].items()}

    @property
    def _states(self) -> list[dict[str, np.ndarray]]:
        contents = (self.storage.read(name) for name in self.storage.names(STATES))
        return [unpacked(content) for content in contents if content is not None]

    def _arrays(self, kind: str) -> Any:
        names = self.identity["outputs"].get(kind)
        if names is None or (not self.identity["maps"] and kind == "relevance"):
            return None
        found = {name: Lazy(self.storage.array(f"{kind}/{name or 'array'}")) for name in names}
        return found[""] if list(names) == [""] else found

    def _reduced(self, name: str, about: Mapping[str, Any], states: list[dict[str, np.ndarray]]) -> Any:
        like = self.given.get(name)
        if like is None:
            if about["kind"] not in _KINDS:
                kind = about["kind"]
                raise ArgumentError(
                    f'reduction "{name}" is a {kind}: pass one to open(store, reductions={{"{name}": ...}}).'
                )
            like = _KINDS[about["kind"]](**about["options"])
        treedef, names = jax.tree.structure(like), [leaf for leaf, _ in named_leaves(like)]
        own = [jax.tree.unflatten(treedef, [state[f"{name}/{leaf}"] for leaf in names]) for state in states]
        return reduce(lambda a, b: a.merge(b), own) if own else like


# The library's own reductions, which can be read without the functions that they were made with.
_KINDS: dict[str, Callable[..., Any]] = {
    "Mean": Mean,
    "Histogram": Histogram,
    "Top": lambda: Top(References.empty(1, 1)),
}


def about(reduction: Any) -> dict[str, Any]:
    """Return the kind of a reduction, and what of its options can be stored."""
    kind, options = type(reduction).__name__, {}
    if isinstance(reduction, (Mean, Histogram)):
        options = {f.name: getattr(reduction, f.name) for f in fields(reduction)}
        options = {k: v for k, v in options.items() if isinstance(v, (bool, int, str, tuple))}
    return {"kind": kind, "options": {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}}
