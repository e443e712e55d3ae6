"""The batch axis: which axis of a value carries independent examples. A property of the whole program.

The examples are the slices along the leading axis of the explained inputs. A value keeps them apart if each of its
slots along some axis depends on one example at most, in whatever order. Where they mix, the inputs are one example.
"""

from collections import ChainMap
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.analyses.facts import Facts
from jrlrp.primitives.axes import image
from jrlrp.primitives.row import Axis, Op
from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.program import Equation, Program, Region, Var
from jrlrp.trace.walk import Walk

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


@dataclass(frozen=True)
class Alone:
    """The value has one example at each turn of a loop: the turns are the slots."""

    turns: Slots


@dataclass(frozen=True)
class Mixed:
    """Examples have met; `lost` says whether it is only not known that they have not."""

    eqn: Equation
    lost: bool


@dataclass(frozen=True)
class Batch:
    """The axis of examples of each variable that depends on the explained inputs; empty if they are one example.

    Attributes:
      axes: by variable, those of bodies too.
      mixed: the equation at which the examples meet, None if they do not.
      lost: whether it is only not known there that they stay apart.
    """

    axes: Mapping[Var, Axis]
    mixed: Equation | None = None
    lost: bool = False


def batch_of(program: Program, explained: Iterable[Var], needed: Iterable[Var], facts: Facts) -> Batch:
    """Return where the examples are in each variable among `needed` that depends on `explained`."""
    explained = tuple(explained)
    sizes = {v.shape[0] if v.ndim else None for v in explained}
    if len(sizes) != 1 or None in sizes:
        return Batch({})
    walk = _Examples(program, set(needed), facts)
    walk.over(program.equations, {v: Slots(Axis(0, v.shape[0])) for v in explained})
    mixed = [value for value in walk.values.values() if isinstance(value, Mixed)]
    if mixed:
        first = next((m for m in mixed if m.lost), mixed[0])
        return Batch({}, first.eqn, first.lost)
    return Batch({v: value.axis for v, value in walk.values.items() if isinstance(value, Slots)})


Value = Slots | Alone | Mixed


class _Examples(Walk[Value]):
    def __init__(self, program: Program, needed: set[Var], facts: Facts):
        super().__init__()
        self.needed = needed
        self.counting = _Counting(facts)
        self.counting.over(program.equations, self.counting.known(program))
        self._at: Equation | None = None  # where values are joined

    def made(self, step: Equation, values: Mapping[Var, Value]) -> Iterable[tuple[Var, Value]]:
        known = [(k, values[v]) for k, v in enumerate(step.inputs) if v in values]
        if not known or not self.needed.intersection(step.outputs):
            return ()
        self._at = step
        found = self._result(step, known, values)
        return [(v, found) for v in step.outputs]

    def _result(self, step: Equation, known: list[tuple[int, Value]], values: Mapping[Var, Value]) -> Value:
        mixed = next((value for _, value in known if isinstance(value, Mixed)), None)
        if mixed is not None:
            return mixed
        if any(isinstance(value, Alone) for _, value in known):
            (first, *rest) = (value for _, value in known)
            return first if all(value == first for value in rest) else Mixed(step, False)
        if isinstance(step, Region):
            inner = ChainMap[Var, Value]({}, cast(dict, values))  # only the first is written to
            for eqn in step.equations:
                inner.update(self.made(eqn, inner))
            return inner.get(step.output, Mixed(step, True))
        if step.op is Op.JOIN and step.row.name == "concatenate" and (joined := self._joined(step, dict(known))):
            return joined
        places = [(k, self._place(step, k, slots)) for k, slots in known if isinstance(slots, Slots)]
        data = set(step.data_operands)
        if any(k in data and place is not None for k, place in places):  # an index chooses, it does not mix
            places = [(k, place) for k, place in places if k in data or place is not None]
        result: Value | None = None
        for _, place in places:
            if place is None:
                return Mixed(step, _is_obscure(step))
            result = place if result is None else self.join(result, place)
        return Mixed(step, True) if result is None else result

    def _place(self, eqn: Equation, k: int, slots: Slots) -> Slots | None:
        """Return where an operand's examples stand in the output."""
        axis, numbers = slots.axis, slots.numbers
        there = image(eqn, k, axis)
        if there is not None and there.size == axis.size:
            return replace(slots, axis=there)
        if eqn.op is Op.GATHER and k == 0:
            return self._gathered(eqn, slots)
        if eqn.op in (Op.SCATTER, Op.SCATTER_ADD, Op.SCATTER_MAX) and axis.is_whole:
            dim = self._scattered(eqn, k, axis.dim)
            same = dim is not None and eqn.output.shape[dim] == eqn.inputs[k].shape[axis.dim]
            return replace(slots, axis=replace(axis, dim=dim)) if same and dim is not None else None
        if not axis.is_whole or k != 0:
            return None
        if eqn.op is Op.DYNAMIC_SLICE:
            return _in_order(axis, eqn.output.shape[axis.dim], ("by", slots.order, eqn.inputs[1 + axis.dim]))
        if numbers is None:
            return None
        moved = _moved(eqn, axis.dim, np.asarray(numbers, np.int64))
        return None if moved is None else Slots(Axis(axis.dim, len(moved)), tuple(int(n) for n in moved))

    def _joined(self, eqn: Equation, known: Mapping[int, Value]) -> Slots | None:
        """Return the slots of arrays put side by side along their examples; what depends on none is padding."""
        along, numbers = eqn.params["dimension"], []
        for k, v in enumerate(eqn.inputs):
            slots = known.get(k)
            if slots is None:
                numbers += [NOBODY] * v.shape[along]
            elif isinstance(slots, Slots) and slots.axis.dim == along and slots.axis.is_whole and slots.numbers:
                numbers += slots.numbers
            else:
                return None
        return Slots(Axis(along, len(numbers)), tuple(numbers))

    def _gathered(self, eqn: Equation, slots: Slots) -> Slots | None:
        """Return the slots of what is picked along the examples, an index for each."""
        d, dim = eqn.params["dimension_numbers"], slots.axis.dim
        if dim not in d.start_index_map or dim not in d.collapsed_slice_dims or not slots.axis.is_whole:
            return None
        component = d.start_index_map.index(dim)
        index = eqn.inputs[1]
        places = [k for k in range(eqn.output.ndim) if k not in d.offset_dims]
        counted = self.counting.values.get(index, ())
        along = counted[component] if component < len(counted) else None
        if along is None and index.ndim == 2 and index.shape[-1] == 1:
            along = _Along(0, None)
        if along is None or along.dim >= len(places):
            return None
        size = eqn.output.shape[places[along.dim]]
        if along.numbers is not None and slots.numbers is not None:
            number = [slots.numbers[n] if 0 <= n < len(slots.numbers) else NOBODY for n in along.numbers]
            return Slots(Axis(places[along.dim], size), tuple(number))
        return _in_order(replace(slots.axis, dim=places[along.dim]), size, ("by", slots.order, index))

    def _scattered(self, eqn: Equation, k: int, dim: int) -> int | None:
        """Return where a scatter at 0, 1, 2, … leaves a dimension of its operand or updates."""
        d = eqn.params["dimension_numbers"]
        for component, target in enumerate(d.scatter_dims_to_operand_dims):
            counted = self.counting.values.get(eqn.inputs[1], ())
            along = counted[component] if component < len(counted) else None
            if target not in d.inserted_window_dims or along is None or not along.is_whole:
                continue
            places = [n for n in range(eqn.inputs[2].ndim) if n not in d.update_window_dims]
            if along.dim >= len(places) or eqn.inputs[2].shape[places[along.dim]] != eqn.inputs[0].shape[target]:
                continue
            if (k == 0 and dim == target) or (k == 2 and dim == places[along.dim]):
                return target
        return None

    def join(self, old: Value, new: Value) -> Value:
        if old == new:
            return old
        if isinstance(old, Slots) and isinstance(new, Slots) and old.axis == new.axis:
            both = _agreed(old.numbers, new.numbers)
            if both is not None:
                return Slots(old.axis, both)
        first = next((value for value in (old, new) if isinstance(value, Mixed)), None)
        assert self._at is not None
        return first or Mixed(self._at, False)

    def control(self, step: Any) -> ControlFlow | None:
        flow = super().control(step)
        return None if flow is None or flow.op is Op.WHILE else flow

    def through(self, step: Any, flow: ControlFlow, values: Mapping[Var, Value]) -> Iterable[tuple[Var, Value]]:
        self._at = flow
        known = {v: values[v] for v in flow.inputs if v in values}
        chosen = flow.op is Op.COND and flow.inputs[0] in known  # one choice for all
        if chosen or (flow.op is Op.SHARD_MAP and _exchanged(flow, known)):
            return [(v, Mixed(flow, False)) for v in flow.outputs]
        return super().through(step, flow, values)

    def again(self, value: Value | None) -> Value | None:
        if not isinstance(value, Alone):
            return value
        assert self._at is not None
        return Mixed(self._at, False)  # one example hands something on to the next

    def enter(self, flow: ControlFlow, body: Body, k: int, value: Value | None, inner: Var) -> Value | None:
        self._at = flow
        if not isinstance(value, Slots):
            return value
        if k in body.sliced:
            if value.axis.dim == 0:
                return Alone(value) if value.axis.is_whole else Mixed(flow, False)
            value = replace(value, axis=replace(value.axis, dim=value.axis.dim - 1))
        return _resized(flow, value, inner)

    def leave(self, flow: ControlFlow, body: Body, k: int, value: Value | None, outer: Var) -> Value | None:
        self._at = flow
        if isinstance(value, Alone):
            return value.turns if k in body.stacked else Mixed(flow, False)
        if not isinstance(value, Slots):
            return value
        if k in body.stacked:
            value = replace(value, axis=replace(value.axis, dim=value.axis.dim + 1))
        return _resized(flow, value, outer)


def _is_obscure(eqn: Equation) -> bool:
    """Tell whether an equation that keeps no examples apart, as far as is known, may do so nonetheless."""
    placing = (Op.GATHER, Op.SCATTER, Op.SCATTER_ADD, Op.SCATTER_MAX, Op.DYNAMIC_UPDATE, Op.COLLECTIVE)
    return eqn.row.axes is None or eqn.op in placing


def _in_order(axis: Axis, size: int, order: Hashable) -> Slots:
    return Slots(replace(axis, size=size), order)


def _agreed(a: tuple[int, ...] | None, b: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return the examples of slots that two values have each one example in; None if they differ in some."""
    if a is None or b is None:
        return None
    pairs = list(zip(a, b, strict=True))
    return tuple(max(x, y) for x, y in pairs) if all(x == y or NOBODY in (x, y) for x, y in pairs) else None


def _moved(eqn: Equation, dim: int, numbers: np.ndarray) -> np.ndarray | None:
    """Return which example is where after an equation has moved the slots along a dimension."""
    if eqn.op is Op.REVERSE:
        return numbers[::-1] if dim in eqn.params["dimensions"] else numbers
    if eqn.op is Op.SLICE:
        start, stop = eqn.params["start_indices"][dim], eqn.params["limit_indices"][dim]
        return numbers[start : stop : (eqn.params["strides"] or (1,) * eqn.output.ndim)[dim]]
    if eqn.op is Op.PAD:
        low, high, gap = eqn.params["padding_config"][dim]
        spread = np.full(max((len(numbers) - 1) * (gap + 1) + 1, 0), NOBODY)
        spread[:: gap + 1] = numbers
        padded = np.concatenate([np.full(max(low, 0), NOBODY), spread, np.full(max(high, 0), NOBODY)])
        return padded[max(-low, 0) : len(padded) - max(-high, 0)]
    return None


def _resized(flow: ControlFlow, slots: Slots, v: Var) -> Value:
    """Return the slots with as many examples as `v` has of them: a shard has less than the whole."""
    axis = slots.axis
    size, rest = divmod(v.shape[axis.dim], axis.outer * axis.inner)
    if rest or (size != axis.size and slots.order is not None):
        return Mixed(flow, True)
    return replace(slots, axis=replace(axis, size=size))


def _exchanged(flow: ControlFlow, known: Mapping[Var, Value]) -> bool:
    """Tell whether devices that have different examples exchange values."""
    apart: set[str] = set()
    for v, spec in zip(flow.inputs, flow.params["in_specs"], strict=True):
        slots = known.get(v)
        if isinstance(slots, Slots) and slots.axis.dim < len(spec):
            names = spec[slots.axis.dim]
            apart.update(names if isinstance(names, tuple) else [] if names is None else [names])
    return any(apart & _mesh_axes(inner) for inner in flow.bodies[0].program.equations)


def _mesh_axes(eqn: Equation) -> set[str]:
    """Return the mesh axes along which an equation, or what is inside it, exchanges values."""
    found: set[str] = set()
    if eqn.op is Op.COLLECTIVE:
        names = eqn.params.get("axes", eqn.params.get("axis_name", ()))
        found = set(names) if isinstance(names, (tuple, list, frozenset)) else {names}
    for body in eqn.bodies if isinstance(eqn, ControlFlow) else ():
        found.update(*map(_mesh_axes, body.program.equations))
    return found


@dataclass(frozen=True)
class _Along:
    """An integer array that depends on its index along one dimension alone; `numbers` are its entries, if known."""

    dim: int
    numbers: tuple[int, ...] | None

    @property
    def is_whole(self) -> bool:
        return self.numbers is not None and self.numbers == tuple(range(len(self.numbers)))


class _Counting(Walk[tuple[_Along | None, ...]]):
    """The integer arrays whose entries are known along one axis: jnp.arange, and what indexing makes of it.

    The value is such an axis for each component of an index that was put together of several.
    """

    def __init__(self, facts: Facts):
        super().__init__()
        self.facts = facts

    def known(self, program: Program) -> dict[Var, tuple[_Along | None, ...]]:
        found: dict[Var, tuple[_Along | None, ...]] = {}
        for v, c in program.constants.items():
            if v.ndim == 1 and not isinstance(c, jax.core.Tracer) and jnp.issubdtype(v.dtype, jnp.integer):
                found[v] = (_Along(0, tuple(int(n) for n in np.asarray(c))),)
        return found

    def join(self, old: Any, new: Any) -> Any:
        return old if old == new else ()

    def enter(self, flow: ControlFlow, body: Body, k: int, value: Any, inner: Var) -> Any:
        return None if k in body.sliced else value

    def leave(self, flow: ControlFlow, body: Body, k: int, value: Any, outer: Var) -> Any:
        return None if k in body.stacked or flow.op is Op.SHARD_MAP else value

    def made(self, step: Equation, values: Mapping[Var, Any]) -> Iterable[tuple[Var, Any]]:
        if not step.outputs or not jnp.issubdtype(step.output.dtype, jnp.integer):
            return ()
        out = step.output
        if step.op is Op.COUNT:
            dim = step.params["dimension"]
            return [(out, (_Along(dim, tuple(range(out.shape[dim]))),))] if _holds(out) else ()
        if step.op is Op.JOIN and step.row.name == "concatenate" and step.params["dimension"] == out.ndim - 1:
            parts = [values.get(v, ()) for v in step.inputs]
            pairs = zip(parts, (v.shape[-1] for v in step.inputs), strict=True)
            return [(out, tuple(c for known, n in pairs for c in (known if len(known) == n else (None,) * n)))]
        known = [values.get(v) for v in step.data]
        if step.op is Op.SELECT and self.facts.interval(step.inputs[0]) == (0, 0):  # where(i < 0, i + n, i)
            return [(out, known[0])] if known[0] else ()
        if step.row.moves and len(step.data) == 1 and known[0] and len(known[0]) == 1 and known[0][0] and _holds(out):
            along = known[0][0]
            there = image(step, 0, Axis(along.dim, step.inputs[0].shape[along.dim]))
            if there is not None and there.is_whole:
                return [(out, (_Along(there.dim, along.numbers),))]
            moved = None if along.numbers is None else _moved(step, along.dim, np.asarray(along.numbers))
            return [] if moved is None else [(out, (_Along(along.dim, tuple(int(n) for n in moved)),))]
        return ()


def _holds(v: Var) -> bool:
    """Tell whether an integer dtype can hold every index of the array."""
    return max(v.shape, default=0) <= np.iinfo(v.dtype).max
