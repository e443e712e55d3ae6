"""The batch axis: which axis of a value carries independent examples. A property of the whole program.

The examples are the slices along the leading axis of the explained inputs. A value keeps them apart if each of its
slots along some axis depends on one example at most, in whatever order. Where they mix, the inputs are one example.
What chooses among values (an index, a truth value) mixes nothing: no relevance comes to it.
"""

from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np

from jrlrp.analyses.counting import Along, Counting
from jrlrp.analyses.facts import Facts
from jrlrp.analyses.slots import NOBODY, One, Slots, agreed, cut, moved, put, slots_of
from jrlrp.primitives.axes import image
from jrlrp.primitives.row import Axis, Op
from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.inline import KeptCall
from jrlrp.trace.program import Equation, Program, Region, Var
from jrlrp.trace.walk import Walk


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
    """Where the examples are in each variable that depends on the explained inputs; empty if they are one example.

    Attributes:
      slots: by variable, those of bodies too; `axes`: their axes alone.
      mixed: the equation at which the examples meet, None if they do not.
      lost: whether it is only not known there that they stay apart.
    """

    slots: Mapping[Var, Slots] = field(default_factory=dict)
    mixed: Equation | None = None
    lost: bool = False

    @cached_property
    def axes(self) -> Mapping[Var, Axis]:
        return {v: slots.axis for v, slots in self.slots.items()}


def batch_of(program: Program, explained: Iterable[Var], needed: Iterable[Var], facts: Facts) -> Batch:
    """Return where the examples are in each variable among `needed`: those that relevance passes."""
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
    return Batch({v: value for v, value in walk.values.items() if isinstance(value, Slots)})


Value = Slots | One | Alone | Mixed
_SCATTERS = (Op.SCATTER, Op.SCATTER_ADD, Op.SCATTER_MAX)


class _Examples(Walk[Value]):
    def __init__(self, program: Program, needed: set[Var], facts: Facts):
        super().__init__()
        self.needed, self.facts = needed, facts
        self.counting = Counting(facts)
        self.counting.over(program.equations, self.counting.known(program))
        self._at: Equation | None = None  # where values are joined

    def made(self, step: Equation, values: Mapping[Var, Value]) -> Iterable[tuple[Var, Value]]:
        return self._made(step, values) if self.needed.intersection(step.outputs) else ()

    def _made(self, step: Equation, values: Mapping[Var, Value]) -> Iterable[tuple[Var, Value]]:
        known = {k: values[v] for k, v in enumerate(step.inputs) if v in values}
        if not known:
            return ()
        self._at = step
        if isinstance(step, (Region, KeptCall)):
            inner = ChainMap[Var, Value]({}, cast(dict, values))  # only the first is written to
            for eqn in step.equations if isinstance(step, Region) else step.body:
                inner.update(self._made(eqn, inner))
            return [(v, inner[v]) for v in step.outputs if v in inner]
        data = known.keys() & set(step.data_operands)
        known = {k: value for k, value in known.items() if k in data or not data}
        return [(v, self._result(step, n, known)) for n, v in enumerate(step.outputs) if v.size]

    def _result(self, step: Equation, n: int, known: Mapping[int, Value]) -> Value:
        """Return the value of the n-th output, given those of the operands that matter."""
        mixed = next((value for value in known.values() if isinstance(value, Mixed)), None)
        if mixed is not None:
            return mixed
        if any(isinstance(value, Alone) for value in known.values()):
            first, *rest = known.values()
            return first if all(value == first for value in rest) else Mixed(step, False)
        if step.op in (Op.CONCATENATE, Op.STACK) and (joined := self._joined(step, known)) is not None:
            return joined
        result: Value | None = None
        for k, value in known.items():
            place = self._place(step, n, k, value) if isinstance(value, Slots) else value
            if place is None:
                return Mixed(step, _is_obscure(step))
            result = place if result is None else self.join(result, place)
        assert result is not None
        return result

    def _place(self, eqn: Equation, n: int, k: int, slots: Slots) -> Value | None:
        """Return where an operand's examples stand in an output; None if they mix, or that is not known."""
        axis = image(eqn, k, slots.axis)
        if axis is not None and axis.size == slots.axis.size:
            return replace(slots, axis=axis)
        dim, entries = slots.axis.dim, slots.entries
        found = None if entries is None else self._moved(eqn, n, k, dim, entries)
        if found is not None:
            there = slots_of(*found, slots.axis)
            kept = eqn.row.moves or (there.axis.size, there.order) == (slots.axis.size, slots.order)
            return there if kept else None  # rules take the slots of a layer's input for those of its output
        if slots.axis.size == 1:
            return One(slots.only)
        return self._by_index(eqn, k, slots) if slots.axis.is_whole else None

    def _moved(self, eqn: Equation, n: int, k: int, dim: int, entries: np.ndarray) -> tuple[int, np.ndarray] | None:
        """Return where an operand's entries along a dimension are in an output, if that is known."""
        out = eqn.outputs[n].shape
        if eqn.op is Op.DYNAMIC_SLICE and k == 0:
            start = self._known(eqn.inputs[1 + dim])
            return None if start is None else (dim, cut(entries, start, out[dim]))
        if eqn.op is Op.DYNAMIC_UPDATE and k == 1:
            start = self._known(eqn.inputs[2 + dim])
            return None if start is None else (dim, put(out[dim], entries, start))
        if eqn.op in _SCATTERS:
            return (dim, entries) if k == 0 else self._scattered(eqn, k, dim, entries)
        return moved(eqn, n, k, dim, entries)

    def _known(self, v: Var) -> int | None:
        """Return the integer that all entries of a variable are, None if that is not known."""
        lo, hi = self.facts.interval(v)
        return int(lo) if lo == hi and np.isfinite(lo) else None

    def _joined(self, eqn: Equation, known: Mapping[int, Value]) -> Value | None:
        """Return the slots of what is put side by side; what depends on no example is padding."""
        along, found = eqn.params["axis" if eqn.op is Op.STACK else "dimension"], []
        axis = Axis(along, 1)
        for k, v in enumerate(eqn.inputs):
            value, size = known.get(k), 1 if eqn.op is Op.STACK else v.shape[along]
            if value is None:
                found.append(np.full(size, NOBODY))
            elif isinstance(value, One) and isinstance(value.number, int):
                found.append(np.full(size, value.number))
            elif isinstance(value, Slots) and eqn.op is Op.CONCATENATE and value.axis.dim == along:
                if value.entries is None:
                    return None
                found.append(value.entries)
                axis = max(axis, value.axis, key=lambda axis: axis.inner)
            else:
                return None
        only = {value for value in known.values() if isinstance(value, One)}
        if len(only) == 1 == len(set(known.values())):
            return only.pop()
        return slots_of(along, np.concatenate(found), axis)

    def _by_index(self, eqn: Equation, k: int, slots: Slots) -> Slots | None:
        """Return the slots of what is picked along the examples by an index for each, or from an index on."""
        if k != 0:
            return None
        if eqn.op is Op.DYNAMIC_SLICE:
            order = ("by", slots.order, eqn.inputs[1 + slots.axis.dim])
            return Slots(replace(slots.axis, size=eqn.output.shape[slots.axis.dim]), order)
        if eqn.op is not Op.GATHER:
            return None
        d, dim, index = eqn.params["dimension_numbers"], slots.axis.dim, eqn.inputs[1]
        if dim not in d.start_index_map or dim not in d.collapsed_slice_dims:
            return None
        places = [place for place in range(eqn.output.ndim) if place not in d.offset_dims]
        along = self._counted(index, d.start_index_map.index(dim))
        if along is None and index.ndim == 2 and index.shape[-1] == 1:
            along = Along(0, None)
        if along is None or along.dim >= len(places):
            return None
        there, known = places[along.dim], slots.entries
        if along.numbers is not None and known is not None:
            number = [known[i] if 0 <= i < len(known) else NOBODY for i in along.numbers]
            return slots_of(there, np.asarray(number), slots.axis)
        return Slots(Axis(there, eqn.output.shape[there]), ("by", slots.order, index))

    def _counted(self, index: Var, component: int) -> Along | None:
        """Return along which axis a component of an index counts."""
        counted = self.counting.values.get(index, ())
        return counted[component] if component < len(counted) else None

    def _scattered(self, eqn: Equation, k: int, dim: int, entries: np.ndarray) -> tuple[int, np.ndarray] | None:
        """Return where a scatter puts the entries of its updates: at a counted index, or a window at a known one."""
        d, size = eqn.params["dimension_numbers"], eqn.output.shape
        if k != 2:
            return None
        if dim in d.update_window_dims:
            alone = (*d.inserted_window_dims, *d.operand_batching_dims)
            window = [target for target in range(eqn.output.ndim) if target not in alone]
            target = window[d.update_window_dims.index(dim)]
            start = self._known(eqn.inputs[1]) if target in d.scatter_dims_to_operand_dims else 0
            return None if start is None else (target, put(size[target], entries, start))
        place = [place for place in range(eqn.inputs[2].ndim) if place not in d.update_window_dims].index(dim)
        for component, target in enumerate(d.scatter_dims_to_operand_dims):
            along = self._counted(eqn.inputs[1], component)
            if target in d.inserted_window_dims and along is not None and along.numbers and along.dim == place:
                found, inside = np.full(size[target], NOBODY), [n for n in along.numbers if n < size[target]]
                found[inside] = entries[: len(inside)]
                return (target, found) if len(set(along.numbers)) == len(inside) else None
        return None

    def join(self, old: Value, new: Value) -> Value:
        if old == new:
            return old
        for one, other in ((old, new), (new, old)):
            alike = isinstance(one, Slots) and isinstance(other, One) and one.only == other.number
            if alike or isinstance(one, Mixed):
                return one
        both = agreed(old, new) if isinstance(old, Slots) and isinstance(new, Slots) else None
        assert self._at is not None
        return Mixed(self._at, False) if both is None else both

    def control(self, step: Any) -> ControlFlow | None:
        flow = super().control(step)
        return None if flow is None or flow.op is Op.WHILE else flow

    def through(self, step: Any, flow: ControlFlow, values: Mapping[Var, Value]) -> Iterable[tuple[Var, Value]]:
        self._at = flow
        known = {v: values[v] for v in flow.inputs if v in values}
        if flow.op is Op.SHARD_MAP and _exchanged(flow, known):
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


def _resized(flow: ControlFlow, slots: Slots, v: Var) -> Value:
    """Return the slots with as many examples as `v` has of them: a shard has less than the whole."""
    axis = slots.axis
    size, rest = divmod(v.shape[axis.dim], axis.outer * axis.inner)
    if rest or (size != axis.size and slots.order is not None):
        return Mixed(flow, True)
    return replace(slots, axis=replace(axis, size=size))


def _exchanged(flow: ControlFlow, known: Mapping[Var, Value]) -> bool:
    """Tell whether devices that have different examples exchange values."""
    axes = {v: slots.axis for v, slots in known.items() if isinstance(slots, Slots)}
    along = apart(flow, axes)
    return any(along & _mesh_axes(inner) for inner in flow.bodies[0].program.equations)


def apart(flow: ControlFlow, axes: Mapping[Var, Axis]) -> frozenset[str]:
    """Return the axes of a shard_map's mesh along which examples lie, as the batch axes of its operands say."""
    found: set[str] = set()
    for v, spec in zip(flow.inputs, flow.params.get("in_specs", ()), strict=False):
        axis = axes.get(v)
        if axis is not None and axis.dim < len(spec):
            names = spec[axis.dim]
            found.update(names if isinstance(names, tuple) else [] if names is None else [names])
    return frozenset(found)


def _mesh_axes(eqn: Equation) -> set[str]:
    """Return the mesh axes along which an equation, or what is inside it, exchanges values."""
    found: set[str] = set()
    if eqn.op is Op.COLLECTIVE:
        names = eqn.params.get("axes", eqn.params.get("axis_name", ()))
        found = set(names) if isinstance(names, (tuple, list, frozenset)) else {names}
    for body in eqn.bodies if isinstance(eqn, ControlFlow) else ():
        found.update(*map(_mesh_axes, body.program.equations))
    return found
