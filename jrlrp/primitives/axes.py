"""Where an axis of an operand is found in the output, if the primitive keeps its slices apart.

One question serves three passes: along which axes a value may vary (what is a scalar, what a per-channel constant),
which axis of a layer's output is which axis of its weights, and which axis carries independent examples.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jrlrp.primitives.row import Axis, AxisFinder, Op


def image(eqn: Any, operand: int, axis: Axis) -> Axis | None:
    """Return where slices along an operand's axis stand in the outputs, or None if they are mixed or gone."""
    shape, out = eqn.inputs[operand].shape, eqn.outputs[0].shape
    if not shape or eqn.row.axes is None:
        return None
    there = eqn.row.axes(eqn, operand, axis)
    if there is None or there.outer * there.size * there.inner != out[there.dim]:
        return None
    return there


_SUMMING = (Op.SUM, Op.MAXIMUM, Op.MINIMUM, Op.DOT)  # an axis that has no place in the output is gone


def varying_along(eqn: Any, operands: Sequence[frozenset[int]]) -> frozenset[int] | None:
    """Return along which dimensions an output varies, given it of the operands; None if it may be any."""
    dims: set[int] = set()
    for k, v in enumerate(eqn.inputs):
        for dim in operands[k]:
            there = image(eqn, k, Axis(dim, v.shape[dim]))
            if there is None and eqn.op in _SUMMING:
                continue
            if there is None or not there.is_whole:
                return None
            dims.add(there.dim)
    return frozenset(dims)


def by_dimension(finder: Callable[[Any, int, int], int | None]) -> AxisFinder:
    """Return the finder of a primitive that moves whole dimensions: `finder(eqn, operand, dim)` is where one goes."""

    def find(eqn: Any, operand: int, axis: Axis) -> Axis | None:
        dim = finder(eqn, operand, axis.dim)
        return None if dim is None else replace(axis, dim=dim)

    return find


def _only(operands: Sequence[int], finder: Callable[[Any, int], int | None]) -> AxisFinder:
    return by_dimension(lambda eqn, operand, dim: finder(eqn, dim) if operand in operands else None)


def _unless(name: str) -> AxisFinder:
    return by_dimension(
        lambda eqn, operand, dim: None if eqn.params[name] % eqn.inputs[0].ndim == dim else dim  # of any operand
    )


def _without(removed: Callable[[Any], Iterable[int]]) -> AxisFinder:
    return by_dimension(lambda eqn, operand, dim: _after(dim, removed(eqn)))


def _after(dim: int, removed: Iterable[int]) -> int | None:
    removed = set(removed)
    return None if dim in removed else dim - sum(r < dim for r in removed)


def _reshape(eqn: Any, operand: int, axis: Axis) -> Axis | None:
    shape, out = eqn.inputs[0].shape, eqn.outputs[0].shape
    if (order := eqn.params.get("dimensions")) is not None:  # as of a transpose before it
        shape, axis = [shape[d] for d in order], replace(axis, dim=tuple(order).index(axis.dim))
    # In row-major order the slices are `size` runs, `stride` apart, of one repeating pattern.
    stride = axis.inner * int(np.prod(shape[axis.dim + 1 :]))
    if not stride * axis.size or 0 in out:
        return None
    if axis.size == 1 == axis.inner * axis.outer:  # runs of what comes after it: it may be any axis of size 1 there
        alike = [dim for dim, size in enumerate(out) if size == 1 and np.prod(out[dim:]) == stride]
        if alike:
            return replace(axis, dim=axis.dim if axis.dim in alike else alike[0])
    below = 1
    for dim in reversed(range(len(out))):
        if stride % below == 0 and (below * out[dim]) % (stride * axis.size) == 0 and out[dim] > 1:
            inner = stride // below
            return Axis(dim, axis.size, out[dim] // (inner * axis.size), inner)
        below *= out[dim]
    return None


def _dot(eqn: Any, operand: int, dim: int) -> int | None:
    contract, batch = eqn.params["dimension_numbers"]
    if dim in batch[operand]:
        return batch[operand].index(dim)
    free = _after(dim, [*contract[operand], *batch[operand]])
    if free is None:
        return None
    before = eqn.inputs[0].ndim - len(contract[0]) - len(batch[0]) if operand == 1 else 0
    return len(batch[0]) + before + free


def _conv(eqn: Any, operand: int, axis: Axis) -> Axis | None:
    """Where examples of a convolution go: along its batch, or along groups of features or of the batch, as by vmap."""
    numbers, p = eqn.params["dimension_numbers"], eqn.params
    groups, batches = p["feature_group_count"], p["batch_group_count"]
    lhs, out = numbers.lhs_spec, numbers.out_spec
    if operand == 1:
        return replace(axis, dim=out[1]) if axis.dim == numbers.rhs_spec[0] else None
    if axis.dim == lhs[0] and batches == 1:
        return replace(axis, dim=out[0])
    by_features = axis.dim == lhs[1] and groups > 1 and groups % axis.size == 0
    by_batches = axis.dim == lhs[0] and batches > 1 and batches % axis.size == 0
    if axis.outer == 1 and (by_features or by_batches):
        return Axis(out[1], axis.size, 1, eqn.outputs[0].shape[out[1]] // axis.size)
    return None


def _gather(eqn: Any, operand: int, dim: int) -> int | None:
    d, out = eqn.params["dimension_numbers"], range(eqn.outputs[0].ndim)
    places = [o for o in out if o not in d.offset_dims]
    if operand == 1:
        return places[dim] if dim < len(places) else None
    if dim in d.operand_batching_dims:
        return places[d.start_indices_batching_dims[d.operand_batching_dims.index(dim)]]
    offset = _after(dim, [*d.collapsed_slice_dims, *d.operand_batching_dims])
    moving = dim in d.start_index_map and eqn.params["slice_sizes"][dim] != eqn.inputs[0].shape[dim]
    return None if offset is None or moving else d.offset_dims[offset]


def _scatter(eqn: Any, operand: int, dim: int) -> int | None:
    d = eqn.params["dimension_numbers"]
    batch = dict(zip(d.operand_batching_dims, d.scatter_indices_batching_dims, strict=True))
    if operand == 0 and dim in batch:
        return dim
    if operand == 1:
        return next((k for k, index_dim in batch.items() if index_dim == dim), None)
    if operand == 2 and dim not in d.update_window_dims:
        place = _after(dim, d.update_window_dims)
        return next((k for k, index_dim in batch.items() if index_dim == place), None)
    window = [k for k in range(eqn.outputs[0].ndim) if k not in (*d.inserted_window_dims, *d.operand_batching_dims)]
    if operand == 2 and dim in d.update_window_dims:
        dim = window[d.update_window_dims.index(dim)]
    elif operand != 0:
        return None
    return dim if dim in window and dim not in d.scatter_dims_to_operand_dims else None


def _window(eqn: Any, operand: int, dim: int) -> int | None:
    p = eqn.params
    alone = p["window_dimensions"][dim] == 1 and p["window_strides"][dim] == 1 and tuple(p["padding"][dim]) == (0, 0)
    return dim if alone and p["base_dilation"][dim] == 1 else None


def _padded(eqn: Any, dim: int) -> int | None:
    return dim if tuple(eqn.params["padding_config"][dim]) == (0, 0, 0) else None


def _whole(eqn: Any, dim: int) -> int | None:  # of a slice: its full extent, as `image` sees from the sizes
    strides = eqn.params.get("strides")
    return dim if strides is None or strides[dim] == 1 else None


def _stacked(eqn: Any, operand: int, dim: int) -> int:
    return dim + (dim >= eqn.params["axis"])


def _tiled(eqn: Any, operand: int, axis: Axis) -> Axis:
    times = eqn.params["reps"][axis.dim]
    return replace(axis, outer=axis.outer * times)


def _before_last(count: Callable[[Any], int]) -> AxisFinder:
    """Dimensions before the last few ones stay where they are."""
    return by_dimension(lambda eqn, operand, dim: dim if dim < eqn.inputs[operand].ndim - count(eqn) else None)


AS_TOLD: AxisFinder = lambda eqn, operand, axis: eqn.places(operand, axis)  # of an equation that the library adds
STAYS: AxisFinder = by_dimension(lambda eqn, operand, dim: dim)
RESHAPE: AxisFinder = _reshape
BROADCAST = by_dimension(lambda eqn, operand, dim: eqn.params["broadcast_dimensions"][dim])
TRANSPOSE = by_dimension(lambda eqn, operand, dim: eqn.params["permutation"].index(dim))
SQUEEZE = _without(lambda eqn: eqn.params["dimensions"])
REDUCE = _without(lambda eqn: eqn.params["axes"])
REVERSE = by_dimension(lambda eqn, operand, dim: None if dim in eqn.params["dimensions"] else dim)
PAD = _only([0], _padded)
SLICE = _only([0], _whole)
DYNAMIC_UPDATE = _only([0, 1], lambda eqn, dim: dim)
CONCATENATE = _unless("dimension")
ALONG_AXIS = _unless("axis")
SORT = _unless("dimension")
STACK = by_dimension(_stacked)
UNSTACK = _without(lambda eqn: [eqn.params["axis"]])
TILE: AxisFinder = _tiled
GATHER = by_dimension(_gather)
SCATTER = by_dimension(_scatter)
DOT = by_dimension(_dot)
CONV: AxisFinder = _conv
WINDOW = by_dimension(_window)
FFT = _before_last(lambda eqn: len(eqn.params["fft_lengths"]))
MATRICES = _before_last(lambda eqn: 2)
TOP_K = by_dimension(lambda eqn, operand, dim: dim if eqn.params.get("axis", eqn.inputs[0].ndim - 1) != dim else None)
APPROXIMATE_TOP_K = by_dimension(
    lambda eqn, operand, dim: None if eqn.params["reduction_dimension"] % eqn.inputs[0].ndim == dim else dim
)
