"""Which axis carries independent examples: a property of the whole program."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.graph.activity import live_equations, reached_inside
from jrlrp.graph.axes import Axis, image
from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.program import Equation, Program, Var


class _MixedError(Exception):
    """Examples are mixed."""


def example_axes(program: Program, explained: Iterable[Var], outputs: Iterable[Var]) -> dict[Var, Axis]:
    """Return for each variable that depends on the explained inputs the axis of its independent examples.

    The examples are the slices along the leading axis of the explained inputs. If anything that leads to `outputs`
    mixes them, the inputs are one single example and the answer is empty. Variables inside control flow are there too.
    """
    explained = tuple(explained)
    sizes = {v.shape[0] if v.ndim else None for v in explained}
    if len(sizes) != 1 or None in sizes:
        return {}
    try:
        return _follow(program, {v: Axis(0, v.shape[0]) for v in explained}, outputs)
    except _MixedError:
        return {}


def _follow(program: Program, start: dict[Var, Axis], outputs: Iterable[Var]) -> dict[Var, Axis]:
    axes, counting = dict(start), own_indices(program)

    def find(eqn: Equation, k: int, axis: Axis) -> Axis | None:
        if eqn.primitive == "gather" and k == 0 and (dim := _picked(eqn, axis.dim, counting)) is not None:
            return replace(axis, dim=dim) if eqn.output.shape[dim] == eqn.inputs[0].shape[axis.dim] else None
        if eqn.primitive.startswith("scatter") and (dim := _placed(eqn, k, axis.dim, counting)) is not None:
            return replace(axis, dim=dim) if eqn.output.shape[dim] == eqn.inputs[k].shape[axis.dim] else None
        return image(eqn, k, axis)

    for eqn in live_equations(program, outputs):
        if isinstance(eqn, ControlFlow):
            axes.update(_enter(eqn, axes))
            continue
        there = {find(eqn, k, axes[v]) for k, v in enumerate(eqn.inputs) if v in axes}
        if there:
            axes.update(dict.fromkeys(eqn.outputs, _same(there)))
    return axes


def _same(axes: Iterable[Axis | None]) -> Axis:
    """Return the one axis that all of these are."""
    axis, *others = set(axes)
    if axis is None or others:
        raise _MixedError
    return axis


def _enter(eqn: ControlFlow, axes: dict[Var, Axis]) -> dict[Var, Axis]:
    """Return the axes of the outputs of control flow, and of all variables inside."""
    if eqn.primitive == "while" and axes.keys() & set(eqn.inputs):
        raise _MixedError
    if eqn.primitive == "shard_map" and _joins_shards(eqn, axes):
        raise _MixedError
    if eqn.primitive == "cond" and eqn.inputs[0] in axes:
        raise _MixedError  # one choice for all
    found: dict[Var, Axis] = {}
    for body in eqn.bodies:
        inside, results = _by_turns(eqn, body, axes) if _takes_turns(eqn, body, axes) else _together(eqn, body, axes)
        for k, axis in results.items():
            found[eqn.outputs[k]] = _same({axis, found.get(eqn.outputs[k], axis)})
        found.update(inside)
    return found


def _joins_shards(eqn: ControlFlow, axes: dict[Var, Axis]) -> bool:
    """Tell whether devices that have different examples exchange values."""
    apart: set[str] = set()
    for v, spec in zip(eqn.inputs, eqn.params["in_specs"], strict=True):
        if v in axes and axes[v].dim < len(spec):
            names = spec[axes[v].dim]
            apart.update(names if isinstance(names, tuple) else [] if names is None else [names])
    return any(apart & _mesh_axes(inner) for inner in eqn.bodies[0].program.equations)


def _mesh_axes(eqn: Equation) -> set[str]:
    """Return the mesh axes along which an equation, or what is inside it, exchanges values."""
    names = eqn.params.get("axes" if eqn.primitive.startswith("psum") else "axis_name", ())
    found = set(names) if isinstance(names, (tuple, list, frozenset)) else {names}
    for body in eqn.bodies if isinstance(eqn, ControlFlow) else ():
        found.update(*map(_mesh_axes, body.program.equations))
    return found


def _takes_turns(eqn: ControlFlow, body: Body, axes: dict[Var, Axis]) -> bool:
    """Tell whether each turn of a loop has one example."""
    found = [axes.get(eqn.inputs[body.operands[k]]) for k in body.sliced]
    return any(axis is not None and axis.dim == 0 for axis in found)


def _resized(axis: Axis, v: Var) -> Axis:
    """Return the axis with as many examples as `v` has of them: a shard has less than the whole."""
    size, rest = divmod(v.shape[axis.dim], axis.outer * axis.inner)
    if rest:
        raise _MixedError
    return replace(axis, size=size)


def _by_turns(eqn: ControlFlow, body: Body, axes: dict[Var, Axis]) -> tuple[dict[Var, Axis], dict[int, Axis]]:
    """Return the axes inside a loop each turn of which has one example: none; and those of its outputs."""
    apart = Axis(0, eqn.params["length"])
    for k, operand in enumerate(body.operands):
        if eqn.inputs[operand] in axes and (k not in body.sliced or axes[eqn.inputs[operand]] != apart):
            raise _MixedError
    program = body.program
    _, reached = reached_inside(eqn, body, axes, ended=False)
    outputs = [k for k, v in enumerate(program.outputs) if v in reached]
    if any(k not in body.stacked for k in outputs):
        raise _MixedError
    return {}, {result: apart for k in outputs if (result := body.results[k]) is not None}


def _together(eqn: ControlFlow, body: Body, axes: dict[Var, Axis]) -> tuple[dict[Var, Axis], dict[int, Axis]]:
    """Return the axes inside a body that has all examples at once, and those of its outputs, by number."""
    program = body.program
    start: dict[Var, Axis] = {}
    for k, (operand, v) in enumerate(zip(body.operands, program.inputs, strict=True)):
        axis = axes.get(eqn.inputs[operand])
        if axis is not None:
            axis = replace(axis, dim=axis.dim - 1) if k in body.sliced else axis
            start[v] = _resized(axis, v)
    while True:
        inside = _follow(program, start, program.outputs)
        carried = {
            program.inputs[k]: inside[program.outputs[turn]]
            for turn, k in body.carried
            if program.outputs[turn] in inside
        }
        later = {v: _same({axis, start.get(v, axis)}) for v, axis in carried.items()}
        if later.keys() <= start.keys():
            break
        start.update(later)
    results = {}
    for k, (v, result) in enumerate(zip(program.outputs, body.results, strict=True)):
        if v in inside and result is not None:
            axis = inside[v]
            axis = replace(axis, dim=axis.dim + 1) if k in body.stacked else axis
            results[result] = _resized(axis, eqn.outputs[result])
    return inside, results


def own_indices(program: Program) -> dict[Var, tuple[int | None, ...]]:
    """Return the integer arrays that count along one of their axes: jnp.arange, and what indexing makes of it.

    The value is that axis, for each component of an index that was put together of several.
    """
    counting: dict[Var, tuple[int | None, ...]] = {}
    known = {v: np.asarray(c) for v, c in program.constants.items() if v.ndim == 1 and _is_known(c)}
    for v, value in known.items():
        if v.dtype.kind in "iu" and np.array_equal(value, np.arange(v.size)):
            counting[v] = (0,)
    false = {v for v, value in known.items() if v.dtype == np.bool_ and not value.any()}  # the outcome of i < 0
    for eqn in program.equations:
        first = eqn.inputs[0] if eqn.inputs else None
        if eqn.primitive == "lt" and first in counting and getattr(eqn.inputs[1], "value", None) == 0:
            false.add(eqn.output)
        elif not all(_can_count(v) for v in eqn.outputs):
            continue
        elif eqn.primitive == "iota":
            counting[eqn.output] = (eqn.params["dimension"],)
        elif eqn.primitive == "concatenate" and eqn.params["dimension"] == eqn.output.ndim - 1:
            components = [counting.get(v, ()) for v in eqn.inputs]
            pairs = zip(components, (v.shape[-1] for v in eqn.inputs), strict=True)
            counting[eqn.output] = tuple(d for known, n in pairs for d in (known if len(known) == n else (None,) * n))
        elif eqn.primitive == "select_n" and first in false and eqn.inputs[1] in counting:
            counting[eqn.output] = counting[eqn.inputs[1]]  # where(i < 0, i + n, i)
        elif first in counting and eqn.primitive in ("broadcast_in_dim", "reshape", "convert_element_type"):
            (dim, *more) = counting[first]
            there = image(eqn, 0, Axis(dim, first.shape[dim])) if dim is not None and not more else None
            if there is not None and there.inner * there.outer == 1:
                counting[eqn.output] = (there.dim,)
    return counting


def _can_count(v: Var) -> bool:
    """Tell whether a dtype is an integer's that can hold every index of the array."""
    return jnp.issubdtype(v.dtype, jnp.integer) and max(v.shape, default=0) <= np.iinfo(v.dtype).max


def _is_known(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer) and not jnp.issubdtype(value.dtype, jax.dtypes.extended)


def _placed(eqn: Equation, k: int, dim: int, counting: dict[Var, tuple[int | None, ...]]) -> int | None:
    """Return where a scatter at `arange` leaves a dimension of its operand or updates."""
    numbers = eqn.params["dimension_numbers"]
    for component, target in enumerate(numbers.scatter_dims_to_operand_dims):
        along = counting.get(eqn.inputs[1], ())[component : component + 1]
        if target in numbers.inserted_window_dims and along and along[0] is not None:
            places = [d for d in range(eqn.inputs[2].ndim) if d not in numbers.update_window_dims]
            if along[0] >= len(places) or eqn.inputs[2].shape[places[along[0]]] != eqn.inputs[0].shape[target]:
                continue
            if (k == 0 and dim == target) or (k == 2 and dim == places[along[0]]):
                return target
    return None


def _picked(eqn: Equation, dim: int, counting: dict[Var, tuple[int | None, ...]]) -> int | None:
    """Return where a gather by `arange` leaves the dimension it counts along, as in `scores[arange(n), labels]`."""
    numbers = eqn.params["dimension_numbers"]
    components = counting.get(eqn.inputs[1], ())
    if dim not in numbers.start_index_map or dim not in numbers.collapsed_slice_dims:
        return None
    component = numbers.start_index_map.index(dim)
    along = components[component] if component < len(components) else None
    places = [d for d in range(eqn.output.ndim) if d not in numbers.offset_dims]
    return places[along] if along is not None and along < len(places) else None
