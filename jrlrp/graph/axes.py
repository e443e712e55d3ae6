"""Where an axis of an operand is found in the output, if the primitive keeps its slices apart.

One table serves three questions: along which axes a value may vary (what is a scalar, what a per-channel constant),
which axis of a layer's output is which axis of its weights, and, in `examples.py`, which axis carries independent
examples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jrlrp.graph.kinds import is_pointwise
from jrlrp.trace.program import Added, Equation, Var


@dataclass(frozen=True)
class Axis:
    """`size` slices along dimension `dim`, whose index is (outer, slice, inner) where a reshape merged axes."""

    dim: int
    size: int
    outer: int = 1
    inner: int = 1


def image(eqn: Equation, operand: int, axis: Axis) -> Axis | None:
    """Return where slices along an operand's axis stand in the outputs, or None if they are mixed or gone."""
    shape, out = eqn.inputs[operand].shape, eqn.outputs[0].shape
    if not shape:
        return None
    if isinstance(eqn, Added):
        return eqn.places(operand, axis)
    if eqn.primitive == "reshape":
        return None if eqn.params.get("dimensions") is not None else _reshaped(axis, shape, out)
    if is_pointwise(eqn) or eqn.primitive in _SAME_PLACE:
        dim: int | None = axis.dim
    else:
        finder = _FINDERS.get(eqn.primitive)
        dim = finder(eqn, operand, axis.dim) if finder else None
    if dim is None or out[dim] != shape[axis.dim]:
        return None
    return Axis(dim, axis.size, axis.outer, axis.inner)


def _reshaped(axis: Axis, shape: tuple[int, ...], out: tuple[int, ...]) -> Axis | None:
    # In row-major order the slices are `size` runs, `stride` apart, of one repeating pattern.
    stride = axis.inner * int(np.prod(shape[axis.dim + 1 :]))
    if not stride * axis.size or 0 in out:
        return None
    below = 1
    for dim in reversed(range(len(out))):
        if stride % below == 0 and (below * out[dim]) % (stride * axis.size) == 0 and out[dim] > 1:
            inner = stride // below
            return Axis(dim, axis.size, out[dim] // (inner * axis.size), inner)
        below *= out[dim]
    return None


def _after(dim: int, removed: Iterable[int]) -> int | None:
    removed = set(removed)
    return None if dim in removed else dim - sum(r < dim for r in removed)


def _dot(eqn, operand, dim):
    contract, batch = eqn.params["dimension_numbers"]
    if dim in batch[operand]:
        return batch[operand].index(dim)
    free = _after(dim, [*contract[operand], *batch[operand]])
    if free is None:
        return None
    before = eqn.inputs[0].ndim - len(contract[0]) - len(batch[0]) if operand == 1 else 0
    return len(batch[0]) + before + free


def _conv(eqn, operand, dim):
    numbers = eqn.params["dimension_numbers"]
    if operand == 0:
        alone = dim == numbers.lhs_spec[0] and eqn.params["batch_group_count"] == 1
        return numbers.out_spec[0] if alone else None
    return numbers.out_spec[1] if dim == numbers.rhs_spec[0] else None


def _gather(eqn, operand, dim):
    d, out = eqn.params["dimension_numbers"], range(eqn.output.ndim)
    places = [o for o in out if o not in d.offset_dims]
    if operand == 1:
        return places[dim] if dim < len(places) else None
    if dim in d.operand_batching_dims:
        return places[d.start_indices_batching_dims[d.operand_batching_dims.index(dim)]]
    offset = _after(dim, [*d.collapsed_slice_dims, *d.operand_batching_dims])
    moving = dim in d.start_index_map and eqn.params["slice_sizes"][dim] != eqn.inputs[0].shape[dim]
    return None if offset is None or moving else d.offset_dims[offset]


def _scatter(eqn, operand, dim):
    d = eqn.params["dimension_numbers"]
    batch = dict(zip(d.operand_batching_dims, d.scatter_indices_batching_dims, strict=True))
    if operand == 0 and dim in batch:
        return dim
    if operand == 2 and dim not in d.update_window_dims:
        place = _after(dim, d.update_window_dims)
        return next((k for k, index_dim in batch.items() if index_dim == place), None)
    window = [k for k in range(eqn.output.ndim) if k not in (*d.inserted_window_dims, *d.operand_batching_dims)]
    if operand == 2 and dim in d.update_window_dims:
        dim = window[d.update_window_dims.index(dim)]
    elif operand != 0:
        return None
    return dim if dim in window and dim not in d.scatter_dims_to_operand_dims else None


def _window(eqn, operand, dim):
    p = eqn.params
    alone = p["window_dimensions"][dim] == 1 and p["window_strides"][dim] == 1 and tuple(p["padding"][dim]) == (0, 0)
    return dim if alone and p["base_dilation"][dim] == 1 else None


def _unless(name):
    return lambda eqn, operand, dim: None if eqn.params[name] % eqn.inputs[0].ndim == dim else dim


def _first_operand(finder):
    return lambda eqn, operand, dim: finder(eqn, dim) if operand == 0 else None


def _reduced(eqn, operand, dim):
    return _after(dim, eqn.params["axes"])


def _broadcast(eqn, operand, dim):
    return eqn.params["broadcast_dimensions"][dim]


def _transposed(eqn, operand, dim):
    return eqn.params["permutation"].index(dim)


def _squeezed(eqn, operand, dim):
    return _after(dim, eqn.params["dimensions"])


def _reversed(eqn, operand, dim):
    return None if dim in eqn.params["dimensions"] else dim


def _padded(eqn, dim):
    return dim if tuple(eqn.params["padding_config"][dim]) == (0, 0, 0) else None


def _whole(eqn, dim):  # of a slice: its full extent, as `image` sees from the sizes; a stride keeps order only if 1
    strides = eqn.params.get("strides")
    return dim if strides is None or strides[dim] == 1 else None


def _stacked(eqn, operand, dim):
    axis = eqn.params["axis"]
    return dim + (dim >= axis)


def _unstacked(eqn, operand, dim):
    return _after(dim, [eqn.params["axis"]])


def _matrix_batch(eqn, operand, dim):
    return dim if dim < eqn.inputs[operand].ndim - 2 else None


_SAME_PLACE = frozenset(
    "pvary pcast pbroadcast ppermute psum psum_invariant mesh_cast reshard layout_constraint".split()
)
_FINDERS = {
    "broadcast_in_dim": _broadcast,
    "transpose": _transposed,
    "squeeze": _squeezed,
    "rev": _reversed,
    "slice": _first_operand(_whole),
    "dynamic_slice": _first_operand(_whole),
    "dynamic_update_slice": lambda eqn, operand, dim: dim if operand < 2 else None,
    "pad": _first_operand(_padded),
    "concatenate": _unless("dimension"),
    "split": _unless("axis"),
    "stack": _stacked,
    "unstack": _unstacked,
    "gather": _gather,
    "sort": _unless("dimension"),
    "top_k": lambda eqn, operand, dim: dim if eqn.params.get("axis", eqn.inputs[0].ndim - 1) != dim else None,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "fft": lambda eqn, operand, dim: dim if dim < eqn.inputs[0].ndim - len(eqn.params["fft_lengths"]) else None,
    "triangular_solve": _matrix_batch,
    "cholesky": _matrix_batch,
    **dict.fromkeys(
        "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin".split(), _reduced
    ),
    **dict.fromkeys("cumsum cummax cummin cumprod cumlogsumexp".split(), _unless("axis")),
    **dict.fromkeys("reduce_window_sum reduce_window_max reduce_window_min".split(), _window),
    **dict.fromkeys(
        "scatter scatter-add scatter_add scatter-max scatter_max scatter-min scatter_min".split(), _scatter
    ),
}


def varying_along(eqn: Equation, operands: Sequence[frozenset[int]]) -> frozenset[int] | None:
    """Return along which dimensions an output varies, given it of the operands; None if it may be any."""
    dims: set[int] = set()
    for k, v in enumerate(eqn.inputs):
        for dim in operands[k]:
            there = image(eqn, k, Axis(dim, v.shape[dim]))
            if there is None or there.outer * there.inner != 1:
                return None
            dims.add(there.dim)
    return frozenset(dims)


def varying_anywhere(v: Var) -> frozenset[int]:
    """Return the dimensions along which a value that nothing is known of may vary."""
    return frozenset(d for d, n in enumerate(v.shape) if n != 1)
