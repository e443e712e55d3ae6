"""The table of primitives: one row for each, and nothing that a pass knows of a primitive is anywhere else.

A new primitive gets its row here, by the maker of its family. What has no row is opaque: relevance that meets it is an
error with a way out.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax

from jrlrp.primitives import axes as at
from jrlrp.primitives import intervals as within
from jrlrp.primitives.makers import elementwise, ending, entry, every, movement, of_first_output, operands, unexplained
from jrlrp.primitives.row import Op, Row
from jrlrp.trace import compat


def _product_of_two(eqn: Any) -> tuple[int, int]:
    return (0, 1)


def _system(eqn: Any) -> range:
    """The operands of a linear solve after those of its matrix."""
    return range(sum(jax.tree.leaves(tuple(eqn.params["const_lengths"]))), len(eqn.inputs))


_TRUTH = (0.0, 1.0)
_bit = within.bounded(*_TRUTH)

_ARITHMETIC = [
    *elementwise("add add_jaxvals", within.add, Op.ADD, "arithmetic", linear=every, bends=False),
    *elementwise("sub", within.subtract, Op.SUB, "arithmetic", linear=every, bends=False),
    *elementwise("neg", within.negate, Op.NEG, "arithmetic", linear=every, bends=False),
    *elementwise("mul", within.multiply, Op.MUL, "arithmetic", linear=every, bends=False),
    *elementwise("div", within.divide, Op.DIV, "arithmetic", linear=operands(0), bends=False),
]

_CURVES = [
    *elementwise("exp", within.rising(math.exp, 0.0), Op.EXP, rising=True),
    *elementwise("exp2", within.rising(lambda v: 2.0**v, 0.0), Op.EXP2, rising=True),
    *elementwise("expm1", within.rising(math.expm1, -1.0), Op.EXPM1, rising=True),
    *elementwise("log", within.rising(math.log), Op.LOG, rising=True),
    *elementwise("log1p", within.rising(math.log1p), Op.LOG1P, rising=True),
    *elementwise("logistic", within.rising(within.logistic, 0.0, 1.0), Op.LOGISTIC, rising=True),
    *elementwise("tanh", within.rising(math.tanh, -1.0, 1.0), rising=True),
    *elementwise("erf", within.rising(math.erf, -1.0, 1.0), rising=True),
    *elementwise("erf_inv atanh sinh asinh cbrt tan", None, rising=True),
    *elementwise("asin atan", within.bounded(-math.pi / 2, math.pi / 2), rising=True),
    *elementwise("acosh", within.bounded(0.0, math.inf), rising=True),
    *elementwise("erfc", within.bounded(0.0, 2.0)),
    *elementwise("acos", within.bounded(0.0, math.pi)),
    *elementwise("sin cos", within.bounded(-1.0, 1.0)),
    *elementwise("cosh", within.bounded(1.0, math.inf)),
    *elementwise("sign", within.bounded(-1.0, 1.0)),
    *elementwise("abs", within.absolute, Op.ABS),
    *elementwise("floor", within.rising(math.floor), Op.FLOOR),
    *elementwise("ceil", within.rising(math.ceil)),
    *elementwise("round", within.rising(round)),
    *elementwise("integer_pow", within.power, Op.POWER, exponent=lambda eqn: float(eqn.params["y"])),
    *elementwise("square", within.power, Op.POWER, exponent=lambda eqn: 2.0),
    *elementwise("sqrt", within.power, Op.POWER, exponent=lambda eqn: 0.5, rising=True),
    *elementwise("rsqrt", within.bounded(0.0, math.inf), Op.POWER, exponent=lambda eqn: -0.5),
    *elementwise("pow", within.raised, Op.POW),
    *elementwise("max", within.largest, Op.MAX),
    *elementwise("min", within.smallest, Op.MIN),
    *elementwise("clamp", within.clamp, Op.CLAMP),
    *elementwise(
        "select_n", within.select, Op.SELECT, "movement", data=lambda eqn: range(1, len(eqn.inputs)), bends=False
    ),
    *elementwise("log2 one_minus_square polynomial", None, Op.FORMULA),
    *elementwise("bessel_i0e igamma igammac", within.bounded(0.0, 1.0)),
    *elementwise("bessel_i1e", within.bounded(-1.0, 1.0)),
    *elementwise("rem", within.remainder),
    *elementwise("atan2 digamma lgamma nextafter polygamma", None),
    *elementwise("igamma_grad_a regularized_incomplete_beta random_gamma zeta", None, kind="opaque"),
]

_CASTS = [
    *elementwise("convert_element_type", within.cast, Op.CAST, "movement", bends=False),
    *elementwise(
        """reduce_precision sharding_constraint device_put layout_constraint reshard mesh_cast pvary pcast copy name
        optimization_barrier""",
        within.same,
        Op.CAST,
        "movement",
        bends=False,
    ),
    *elementwise("real imag", within.same, kind="movement", linear=every, bends=False),
    *elementwise("complex", None, kind="movement", linear=every, bends=False),
    *elementwise("conj", within.same, kind="linear", linear=every, bends=False),
]

_MOVEMENTS = [
    movement("reshape", Op.RESHAPE, at.RESHAPE, within.same, constancy=True, data=operands(0)),
    movement("transpose", Op.TRANSPOSE, at.TRANSPOSE, within.same, constancy=True),
    movement("squeeze", Op.SQUEEZE, at.SQUEEZE, within.same, constancy=True),
    movement("broadcast_in_dim", Op.BROADCAST, at.BROADCAST, within.same, constancy=True, data=operands(0)),
    movement("tile", Op.TILE, at.TILE, within.same, constancy=True),
    movement("rev", Op.REVERSE, at.REVERSE, within.same, constancy=True),
    movement("slice", Op.SLICE, at.SLICE, within.same, constancy=True),
    movement("dynamic_slice", Op.DYNAMIC_SLICE, at.SLICE, within.same, constancy=True, data=operands(0)),
    movement("dynamic_update_slice", Op.DYNAMIC_UPDATE, at.DYNAMIC_UPDATE, within.any_of, data=operands(0, 1)),
    movement("pad", Op.PAD, at.PAD, within.any_of),
    movement("concatenate", Op.CONCATENATE, at.CONCATENATE, within.any_of),
    movement("stack", Op.STACK, at.STACK, within.any_of),
    movement("split", Op.PART, at.ALONG_AXIS, None, every_output=True),
    movement("unstack", Op.PART, at.UNSTACK, None, every_output=True),
    movement("gather", Op.GATHER, at.GATHER, within.gather, data=operands(0)),
    movement("scatter", Op.SCATTER, at.SCATTER, within.scatter, data=operands(0, 2)),
    movement("ppermute", Op.COLLECTIVE, at.STAYS, lambda eqn, x: within.union(x, (0.0, 0.0))),
    movement("pbroadcast", Op.COLLECTIVE, at.STAYS, within.same, constancy=True),
    movement("all_gather", Op.COLLECTIVE, None, within.same),
    movement("all_to_all", Op.COLLECTIVE, None, within.same),
]

_CHOICES = [
    *[
        entry(name, op, "max_pool", at.REDUCE, of_first_output(within.same), constancy=True, bends=True)
        for name, op in (("reduce_max", Op.MAXIMUM), ("reduce_min", Op.MINIMUM))
    ],
    *[
        entry(name, op, "max_pool", at.WINDOW, of_first_output(within.same), bends=True)
        for name, op in (("reduce_window_max", Op.WINDOW_MAXIMUM), ("reduce_window_min", Op.WINDOW_MINIMUM))
    ],
    *[
        entry(name, Op.CHOICE, "max_pool", at.ALONG_AXIS, of_first_output(within.same), constancy=True, bends=True)
        for name in ("cummax", "cummin")
    ],
    entry("sort", Op.CHOICE, "max_pool", at.SORT, lambda eqn, k, x: x[k], bends=True),
    entry("top_k", Op.CHOICE, "max_pool", at.TOP_K, of_first_output(within.same), bends=True),
    entry("approx_top_k", Op.CHOICE, "max_pool", at.APPROXIMATE_TOP_K, of_first_output(within.same), bends=True),
    *[
        entry(name, Op.COLLECTIVE, "max_pool", at.STAYS, of_first_output(within.same), constancy=True, bends=True)
        for name in ("pmax", "pmin")
    ],
    *[
        entry(
            name,
            Op.SCATTER_MAX,
            "max_pool",
            at.SCATTER,
            of_first_output(within.scatter),
            data=operands(0, 2),
            bends=True,
        )
        for name in ("scatter_max", "scatter_min")
    ],
]

_SUMS = [
    entry(
        "reduce_sum",
        Op.SUM,
        "average_pool",
        at.REDUCE,
        of_first_output(within.total),
        constancy=True,
        linear=every,
    ),
    entry(
        "reduce_window_sum",
        Op.WINDOW_SUM,
        "average_pool",
        at.WINDOW,
        of_first_output(within.total),
        linear=every,
    ),
    entry(
        "cumsum",
        Op.CUMULATIVE_SUM,
        "average_pool",
        at.ALONG_AXIS,
        of_first_output(within.total),
        linear=every,
    ),
    *[
        entry(name, Op.COLLECTIVE, "average_pool", at.STAYS, of_first_output(within.over_devices), linear=every)
        for name in ("psum", "psum_invariant")
    ],
]

_LINEAR = [
    entry(
        "dot_general",
        Op.DOT,
        "dense",
        at.DOT,
        of_first_output(within.contraction),
        constancy=True,
        linear=_product_of_two,
    ),
    entry(
        "conv_general_dilated",
        Op.CONV,
        "conv",
        at.CONV,
        of_first_output(within.contraction),
        linear=_product_of_two,
    ),
    entry(
        "scatter_add",
        Op.SCATTER_ADD,
        "average_pool",
        at.SCATTER,
        of_first_output(lambda eqn, x, i, u: within.add(eqn, x, within.total(eqn, u))),
        data=operands(0, 2),
        linear=operands(0, 2),
    ),
    entry("fft", Op.OTHER, "linear", at.FFT, None, linear=every),
    entry("triangular_solve", Op.OTHER, "linear", at.MATRICES, None, linear=operands(1)),
    entry("linear_solve", Op.OTHER, "linear", None, None, linear=_system),
    entry("reduce_scatter", Op.COLLECTIVE, "linear", None, of_first_output(within.total), linear=every),
    entry("select_and_scatter_add", Op.OTHER, "linear", None, None, data=operands(0), linear=operands(0)),
    entry("select_and_gather_add", Op.OTHER, "linear", None, None, data=operands(0), linear=operands(0)),
]

_ENDS = [
    *ending("eq", Op.EQUAL, _bit, at.STAYS),
    *ending("eq_to is_finite", Op.COMPARE, _bit, at.STAYS),
    *ending("lt", Op.LESS, within.less, at.STAYS),
    *ending("le lt_to le_to", Op.LESS, _bit, at.STAYS),
    *ending("gt", Op.GREATER, within.greater, at.STAYS),
    *ending("ge", Op.GREATER, _bit, at.STAYS),
    *ending("ne", Op.COMPARE, within.unequal, at.STAYS),
    *ending("and", Op.BOTH, within.both, at.STAYS),
    *ending("or not xor", Op.LOGIC, None, at.STAYS),
    *ending("stop_gradient", Op.STOP, within.same, at.STAYS),
    *ending("shift_left shift_right_arithmetic shift_right_logical population_count clz", axes=at.STAYS),
    *ending("argmax argmin reduce_and reduce_or reduce_xor", axes=at.REDUCE),
    entry("iota", Op.COUNT, "ends", None, lambda eqn, k, x: (0.0, float(eqn.params["shape"][eqn.params["dimension"]]))),
    *ending(
        """axis_index bitcast_convert_type create_token after_all empty2 random_bits random_fold_in random_seed
        random_split random_wrap random_unwrap random_clone rng_bit_generator rng_uniform threefry2x32 platform_index
        debug_print"""
    ),
]

_OPAQUE = [
    *unexplained("cholesky eig eigh hessenberg lu qr schur svd householder_product", at.MATRICES),
    *unexplained("tridiagonal tridiagonal_solve custom_lin get swap ragged_all_to_all scatter_mul select_and_scatter"),
    *unexplained("reduce reduce_window"),
    entry("reduce_prod", Op.PRODUCT, "opaque", at.REDUCE, of_first_output(within.product_over_axes), bends=True),
    *unexplained("cumprod cumlogsumexp", at.ALONG_AXIS),
]

_CONTROL = [
    entry(name, op, "control", None, None)
    for name, op in {
        "scan": Op.SCAN,
        "cond": Op.COND,
        "while": Op.WHILE,
        "remat": Op.REMAT,
        "shard_map": Op.SHARD_MAP,
    }.items()
]

# Those that only call a program, which is read in their place.
_CALLS = [
    entry(name, Op.OTHER, "control", None, None)
    for name in ("jit", "call", "closed_call", "call_hi_primitive", "custom_jvp_call", "custom_vjp_call", "composite")
]

# Operations that rewrites put together out of others, or add.
ADDED: Mapping[Op, Row] = {
    row.op: row
    for row in (
        entry("carry", Op.CARRY, "movement", at.AS_TOLD, None),
        entry("embedding", Op.EMBEDDING, "embedding", at.AS_TOLD, None),
        entry("full", Op.FULL, "ends", None, None),
        entry("broadcast", Op.BROADCAST, "movement", at.AS_TOLD, of_first_output(within.same), constancy=True),
        entry("pick", Op.PICK, "movement", at.AS_TOLD, of_first_output(within.same), data=lambda eqn: (0,)),
        *elementwise("identity", within.same, Op.IDENTITY, "movement", bends=False),
        entry("normalisation", Op.NORMALISE, "normalisation", None, None, bends=True),
        entry("softmax", Op.SOFTMAX, "softmax", None, lambda eqn, k, x: _TRUTH, bends=True),
        entry("log_sum_exp", Op.LOG_SUM_EXP, "log_sum_exp", at.REDUCE, None, bends=True),
    )
}

_ROWS: Mapping[str, Row] = {
    row.name: row
    for row in (
        *_ARITHMETIC,
        *_CURVES,
        *_CASTS,
        *_MOVEMENTS,
        *_CHOICES,
        *_SUMS,
        *_LINEAR,
        *_ENDS,
        *_OPAQUE,
        *_CONTROL,
        *_CALLS,
    )
}


@functools.cache
def _by_primitive() -> dict[Any, Row]:
    """Return the rows by the primitive objects that JAX exports; see `compat.outside` for the others."""
    return {primitive: row for name, row in _ROWS.items() if (primitive := compat.exported(name)) is not None}


def row_of(primitive: Any) -> Row | None:
    """Return the row of a primitive, None if it has none."""
    rows = _by_primitive()
    if primitive not in rows:
        name = compat.outside(primitive)
        if name is None:
            return None
        rows[primitive] = _ROWS[name]
    return rows[primitive]


def unknown(name: str) -> Row:
    """Return the row of a primitive that the table does not know."""
    return entry(name, Op.OTHER, "opaque", None, None, bends=True)


def opaque(row: Row) -> Row:
    """Return the row of a primitive in the form that no rule explains."""
    return replace(row, kind="opaque", interval=None, linear=None, bends=True)


def declared(name: str, kind: str) -> Row:
    """Return the row of a primitive that a user declares to be of a kind; see `register_kind`."""
    if kind == "activation":
        return elementwise(name, None)[0]
    if kind == "movement":
        return movement(name, Op.OTHER, None, None)
    linear = every if kind in ("average_pool", "linear") else None
    return entry(name, Op.OTHER, kind, None, None, linear=linear, bends=kind == "max_pool")


def named(name: str) -> Row:
    """Return the row of an operation that the library itself puts into programs."""
    return _ROWS[name]


def rows() -> Iterable[Row]:
    """Return all rows."""
    return _ROWS.values()
