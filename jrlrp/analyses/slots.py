"""Slots along an axis, each of one example: which example is in which, as equations move them."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jrlrp.primitives.row import Axis, Op

NOBODY = -1  # the slot of padding, that no example has a part in


@dataclass(frozen=True)
class Slots:
    """An axis of examples; `order` says which example is in which slot: numbers, None for 0, 1, 2, …, or a token."""

    axis: Axis
    order: Hashable = None

    @property
    def numbers(self) -> tuple[int, ...] | None:
        if self.order is None:
            return tuple(range(self.axis.size))
        return self.order if isinstance(self.order, tuple) and self.order[:1] != ("by",) else None

    @property
    def entries(self) -> np.ndarray | None:
        """The example of each index along the dimension, None if that is not known."""
        if self.numbers is None:
            return None
        return np.tile(np.repeat(np.asarray(self.numbers, np.int64), self.axis.inner), self.axis.outer)

    @property
    def only(self) -> Hashable:
        """The example that all slots belong to; None if they are several's."""
        if self.numbers is None:
            return self.order if self.axis.size == 1 else None
        found = set(self.numbers) - {NOBODY}
        return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class One:
    """All of the value is one example's."""

    number: Hashable


def slots_of(dim: int, entries: np.ndarray, like: Axis) -> Slots:
    """Return the slots of a dimension whose entries are these examples', in runs at most as long as `like`'s."""
    run = 1
    if not like.is_whole and len(entries):
        ends = np.flatnonzero(np.diff(entries)) + 1
        run = math.gcd(len(entries), *map(int, ends))
        run = run if run <= like.inner else math.gcd(run, like.inner)
    numbers = tuple(int(n) for n in entries[::run])
    whole = numbers == tuple(range(len(numbers)))
    return Slots(Axis(dim, len(numbers), 1, run), None if whole else numbers)


def agreed(a: Slots, b: Slots) -> Slots | None:
    """Return the slots of a value that depends on both; None if some would be two examples'."""
    if a == b:
        return a
    if a.only is not None and a.only == b.only and a.numbers is not None:
        return a
    first, second = a.entries, b.entries
    if a.axis.dim != b.axis.dim or first is None or second is None or len(first) != len(second):
        return None
    if ((first != second) & (first != NOBODY) & (second != NOBODY)).any():
        return None
    return slots_of(a.axis.dim, np.maximum(first, second), max(a.axis, b.axis, key=lambda axis: axis.inner))


def moved(eqn: Any, n: int, k: int, dim: int, entries: np.ndarray) -> tuple[int, np.ndarray] | None:
    """Return where entries along a dimension of the k-th operand are in the n-th output: a dimension, and their order.

    None if they are not moved within a dimension.
    """
    params, out = eqn.params, eqn.outputs[n].shape
    if eqn.op is Op.REVERSE:
        return dim, entries[::-1] if dim in params["dimensions"] else entries
    if eqn.op is Op.SLICE:
        start, stop = params["start_indices"][dim], params["limit_indices"][dim]
        return dim, entries[start : stop : (params["strides"] or (1,) * len(out))[dim]]
    if eqn.op is Op.PAD and k == 0:
        low, high, gap = params["padding_config"][dim]
        spread = np.full(max((len(entries) - 1) * (gap + 1) + 1, 0), NOBODY)
        spread[:: gap + 1] = entries
        padded = np.concatenate([np.full(max(low, 0), NOBODY), spread, np.full(max(high, 0), NOBODY)])
        return dim, padded[max(-low, 0) : len(padded) - max(-high, 0)]
    if eqn.op is Op.TILE:
        return dim, np.tile(entries, params["reps"][dim])
    if eqn.op is Op.PART and len(out) == len(eqn.inputs[0].shape) and dim == params["axis"]:
        start = sum(v.shape[dim] for v in eqn.outputs[:n])
        return dim, entries[start : start + out[dim]]
    if len(entries) == 1 and eqn.op is Op.BROADCAST and k == 0:
        there = eqn.row.axes(eqn, k, Axis(dim, 1))
        return None if there is None else (there.dim, np.repeat(entries, out[there.dim]))
    return None


def cut(entries: np.ndarray, start: int, size: int) -> np.ndarray:
    """Return a window of entries; one that would reach over the end is moved back, as in JAX."""
    start = min(max(start, 0), max(len(entries) - size, 0))
    return entries[start : start + size]


def put(size: int, entries: np.ndarray, start: int) -> np.ndarray:
    """Return entries from `start` on among nobody's."""
    found = np.full(size, NOBODY)
    own = cut(np.arange(size), start, len(entries))
    found[own] = entries
    return found
