"""Which axis carries independent examples: a property of the whole program."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.graph.axes import Axis, image
from jrlrp.trace.inline import Equation, Program, Var


def example_axes(program: Program, explained: Iterable[Var], live: Iterable[Equation]) -> dict[Var, Axis]:
    """Return for each variable that depends on the explained inputs the axis of its independent examples.

    The examples are the slices along the leading axis of the explained inputs. If any live equation mixes them, the
    inputs are one single example and the answer is empty.
    """
    explained = tuple(explained)
    sizes = {v.shape[0] if v.ndim else None for v in explained}
    if len(sizes) != 1 or None in sizes:
        return {}
    axes = {v: Axis(0, v.shape[0]) for v in explained}
    counting = own_indices(program)

    def find(eqn: Equation, k: int, axis: Axis) -> Axis | None:
        if eqn.primitive == "gather" and k == 0 and (dim := _picked(eqn, axis.dim, counting)) is not None:
            return replace(axis, dim=dim) if eqn.output.shape[dim] == eqn.inputs[0].shape[axis.dim] else None
        if eqn.primitive.startswith("scatter") and (dim := _placed(eqn, k, axis.dim, counting)) is not None:
            return replace(axis, dim=dim) if eqn.output.shape[dim] == eqn.inputs[k].shape[axis.dim] else None
        return image(eqn, k, axis)

    for eqn in live:
        there = {find(eqn, k, axes[v]) for k, v in enumerate(eqn.inputs) if v in axes}
        if there:
            axis = there.pop()
            if axis is None or there:
                return {}
            axes.update(dict.fromkeys(eqn.outputs, axis))
    return axes


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
    return v.dtype.kind in "iu" and max(v.shape, default=0) <= np.iinfo(v.dtype).max


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
