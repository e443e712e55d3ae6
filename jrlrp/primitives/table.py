"""The table of primitives: one row for each, and nothing that a pass knows of a primitive is anywhere else.

A new primitive gets its row here, by the maker of its family. What has no row is opaque: relevance that meets it is an
error with a way out.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from jrlrp.primitives import axes as at
from jrlrp.primitives import intervals as within
from jrlrp.primitives.row import AxisFinder, Op, Row
from jrlrp.trace import compat

Rule = Callable[..., within.Interval]


def _every(eqn: Any) -> range:
    return range(len(eqn.inputs))


def _operands(*numbers: int) -> Callable[[Any], tuple[int, ...]]:
    return lambda eqn: numbers


def _of_first_output(rule: Rule | None) -> Any:
    if rule is None:
        return None
    return lambda eqn, k, x: within.UNKNOWN if k else within.checked(rule(eqn, *x))


def _row(
    name: str,
    op: Op,
    kind: str,
    axes: AxisFinder | None,
    interval: Any,
    *,
    pointwise: bool = False,
    constancy: bool = False,
    data: Callable = _every,
    linear: Callable | None = None,
    exponent: Callable | None = None,
    bends: bool = False,
    rising: bool = False,
) -> Row:
    """Return a row; what is left out here is said by every family below, or is an answer of none."""
    return Row(name, op, kind, axes, interval, pointwise, constancy, data, linear, exponent, bends, rising)


def _elementwise(
    names: str,
    interval: Rule | None,
    op: Op = Op.OTHER,
    kind: str = "activation",
    *,
    rising: bool = False,
    data: Callable = _every,
    linear: Callable | None = None,
    exponent: Callable | None = None,
    bends: bool = True,
) -> list[Row]:
    """Rows of functions of the entries at one place. Whatever they make of constants is one."""
    return [
        _row(
            name,
            op,
            kind,
            at.STAYS,
            _of_first_output(interval),
            pointwise=True,
            constancy=True,
            data=data,
            linear=linear,
            exponent=exponent,
            bends=bends,
            rising=rising,
        )
        for name in names.split()
    ]


def _movement(
    name: str,
    op: Op,
    axes: AxisFinder | None,
    interval: Any,
    *,
    constancy: bool = False,
    data: Callable = _every,
    every_output: bool = False,
) -> Row:
    """Row of what places, copies or selects values: linear in all of its data at once."""
    of_outputs = (lambda eqn, k, x: x[0]) if every_output else _of_first_output(interval)
    return _row(name, op, "movement", axes, of_outputs, constancy=constancy, data=data, linear=data)


def _ending(names: str, op: Op = Op.OTHER, interval: Rule | None = None, axes: AxisFinder | None = None) -> list[Row]:
    """Rows of what is no number that relevance could belong to: truth values, indices, held values."""
    pointwise = axes is at.STAYS
    return [
        _row(name, op, "ends", axes, _of_first_output(interval), pointwise=pointwise, constancy=pointwise)
        for name in names.split()
    ]


def _opaque(names: str, axes: AxisFinder | None = None, interval: Rule | None = None) -> list[Row]:
    """Rows of what has no rule, though something may be known of its values."""
    return [_row(name, Op.OTHER, "opaque", axes, _of_first_output(interval), bends=True) for name in names.split()]


def _product_of_two(eqn: Any) -> tuple[int, int]:
    return (0, 1)


def _system(eqn: Any) -> range:
    """The operands of a linear solve after those of its matrix."""
    return range(sum(jax.tree.leaves(tuple(eqn.params["const_lengths"]))), len(eqn.inputs))


_TRUTH = (0.0, 1.0)
_bit = within.bounded(*_TRUTH)

_ARITHMETIC = [
    *_elementwise("add add_jaxvals", within.add, Op.ADD, "arithmetic", linear=_every, bends=False),
    *_elementwise("sub", within.subtract, Op.SUB, "arithmetic", linear=_every, bends=False),
    *_elementwise("neg", within.negate, Op.NEG, "arithmetic", linear=_every, bends=False),
    *_elementwise("mul", within.multiply, Op.MUL, "arithmetic", linear=_every, bends=False),
    *_elementwise("div", within.divide, Op.DIV, "arithmetic", linear=_operands(0), bends=False),
]

_CURVES = [
    *_elementwise("exp", within.rising(math.exp, 0.0), Op.EXP, rising=True),
    *_elementwise("exp2", within.rising(lambda v: 2.0**v, 0.0), Op.EXP2, rising=True),
    *_elementwise("expm1", within.rising(math.expm1, -1.0), Op.EXPM1, rising=True),
    *_elementwise("log", within.rising(math.log), Op.LOG, rising=True),
    *_elementwise("log1p", within.rising(math.log1p), Op.LOG1P, rising=True),
    *_elementwise("logistic", within.rising(within.logistic, 0.0, 1.0), Op.LOGISTIC, rising=True),
    *_elementwise("tanh", within.rising(math.tanh, -1.0, 1.0), rising=True),
    *_elementwise("erf", within.rising(math.erf, -1.0, 1.0), rising=True),
    *_elementwise("erf_inv atanh sinh asinh cbrt tan", None, rising=True),
    *_elementwise("asin atan", within.bounded(-math.pi / 2, math.pi / 2), rising=True),
    *_elementwise("acosh", within.bounded(0.0, math.inf), rising=True),
    *_elementwise("erfc", within.bounded(0.0, 2.0)),
    *_elementwise("acos", within.bounded(0.0, math.pi)),
    *_elementwise("sin cos", within.bounded(-1.0, 1.0)),
    *_elementwise("cosh", within.bounded(1.0, math.inf)),
    *_elementwise("sign", within.bounded(-1.0, 1.0)),
    *_elementwise("abs", within.absolute, Op.ABS),
    *_elementwise("floor", within.rising(math.floor), Op.FLOOR),
    *_elementwise("ceil", within.rising(math.ceil)),
    *_elementwise("round", within.rising(round)),
    *_elementwise("integer_pow", within.power, Op.POWER, exponent=lambda eqn: float(eqn.params["y"])),
    *_elementwise("square", within.power, Op.POWER, exponent=lambda eqn: 2.0),
    *_elementwise("sqrt", within.power, Op.POWER, exponent=lambda eqn: 0.5, rising=True),
    *_elementwise("rsqrt", within.bounded(0.0, math.inf), Op.POWER, exponent=lambda eqn: -0.5),
    *_elementwise("pow", within.raised, Op.POW),
    *_elementwise("max", within.largest, Op.MAX),
    *_elementwise("min", within.smallest, Op.MIN),
    *_elementwise("clamp", within.clamp, Op.CLAMP),
    *_elementwise(
        "select_n", within.select, Op.SELECT, "movement", data=lambda eqn: range(1, len(eqn.inputs)), bends=False
    ),
    *_elementwise("bessel_i0e bessel_i1e igamma igammac", within.bounded(0.0, 1.0)),
    *_elementwise("rem", within.remainder),
    *_elementwise("atan2 digamma lgamma nextafter polygamma", None),
    *_elementwise("igamma_grad_a regularized_incomplete_beta random_gamma zeta", None, kind="opaque"),
]

_CASTS = [
    *_elementwise("convert_element_type", within.cast, Op.CAST, "movement", bends=False),
    *_elementwise(
        """reduce_precision sharding_constraint device_put layout_constraint reshard mesh_cast pvary pcast copy name
        optimization_barrier""",
        within.same,
        Op.CAST,
        "movement",
        bends=False,
    ),
    *_elementwise("real imag", within.same, kind="movement", linear=_every, bends=False),
    *_elementwise("complex", None, kind="movement", linear=_every, bends=False),
    *_elementwise("conj", within.same, kind="linear", linear=_every, bends=False),
]

_MOVEMENTS = [
    _movement("reshape", Op.RESHAPE, at.RESHAPE, within.same, constancy=True, data=_operands(0)),
    _movement("transpose", Op.TRANSPOSE, at.TRANSPOSE, within.same, constancy=True),
    _movement("squeeze", Op.SQUEEZE, at.SQUEEZE, within.same, constancy=True),
    _movement("broadcast_in_dim", Op.BROADCAST, at.BROADCAST, within.same, constancy=True, data=_operands(0)),
    _movement("tile", Op.TILE, at.TILE, within.same, constancy=True),
    _movement("rev", Op.REVERSE, at.REVERSE, within.same, constancy=True),
    _movement("slice", Op.SLICE, at.SLICE, within.same, constancy=True),
    _movement("dynamic_slice", Op.DYNAMIC_SLICE, at.SLICE, within.same, constancy=True, data=_operands(0)),
    _movement("dynamic_update_slice", Op.DYNAMIC_UPDATE, at.DYNAMIC_UPDATE, within.any_of, data=_operands(0, 1)),
    _movement("pad", Op.PAD, at.PAD, within.any_of),
    _movement("concatenate", Op.JOIN, at.CONCATENATE, within.any_of),
    _movement("stack", Op.JOIN, at.STACK, within.any_of),
    _movement("split", Op.PART, at.ALONG_AXIS, None, every_output=True),
    _movement("unstack", Op.PART, at.UNSTACK, None, every_output=True),
    _movement("gather", Op.GATHER, at.GATHER, within.gather, data=_operands(0)),
    _movement("scatter", Op.SCATTER, at.SCATTER, within.scatter, data=_operands(0, 2)),
    _movement("ppermute", Op.COLLECTIVE, at.STAYS, lambda eqn, x: within.union(x, (0.0, 0.0))),
    _movement("pbroadcast", Op.COLLECTIVE, at.STAYS, within.same, constancy=True),
    _movement("all_gather", Op.COLLECTIVE, None, within.same),
    _movement("all_to_all", Op.COLLECTIVE, None, within.same),
]

_CHOICES = [
    *[
        _row(name, op, "max_pool", at.REDUCE, _of_first_output(within.same), constancy=True, bends=True)
        for name, op in (("reduce_max", Op.MAXIMUM), ("reduce_min", Op.MINIMUM))
    ],
    *[
        _row(name, op, "max_pool", at.WINDOW, _of_first_output(within.same), bends=True)
        for name, op in (("reduce_window_max", Op.WINDOW_MAXIMUM), ("reduce_window_min", Op.WINDOW_MINIMUM))
    ],
    *[
        _row(name, Op.CHOICE, "max_pool", at.ALONG_AXIS, _of_first_output(within.same), constancy=True, bends=True)
        for name in ("cummax", "cummin")
    ],
    _row("sort", Op.CHOICE, "max_pool", at.SORT, lambda eqn, k, x: x[k], bends=True),
    _row("top_k", Op.CHOICE, "max_pool", at.TOP_K, _of_first_output(within.same), constancy=True, bends=True),
    _row("approx_top_k", Op.CHOICE, "max_pool", at.APPROXIMATE_TOP_K, _of_first_output(within.same), bends=True),
    *[
        _row(name, Op.COLLECTIVE, "max_pool", at.STAYS, _of_first_output(within.same), constancy=True, bends=True)
        for name in ("pmax", "pmin")
    ],
    *[
        _row(
            name,
            Op.SCATTER_MAX,
            "max_pool",
            at.SCATTER,
            _of_first_output(within.scatter),
            data=_operands(0, 2),
            bends=True,
        )
        for name in ("scatter_max", "scatter_min")
    ],
]

_SUMS = [
    _row(
        "reduce_sum",
        Op.SUM,
        "average_pool",
        at.REDUCE,
        _of_first_output(within.total),
        constancy=True,
        linear=_every,
    ),
    _row(
        "reduce_window_sum",
        Op.WINDOW_SUM,
        "average_pool",
        at.WINDOW,
        _of_first_output(within.total),
        linear=_every,
    ),
    _row(
        "cumsum",
        Op.CUMULATIVE_SUM,
        "average_pool",
        at.ALONG_AXIS,
        _of_first_output(within.total),
        linear=_every,
    ),
    *[
        _row(name, Op.COLLECTIVE, "average_pool", at.STAYS, _of_first_output(within.total), linear=_every)
        for name in ("psum", "psum_invariant")
    ],
]

_LINEAR = [
    _row(
        "dot_general",
        Op.DOT,
        "dense",
        at.DOT,
        _of_first_output(within.contraction),
        constancy=True,
        linear=_product_of_two,
    ),
    _row(
        "conv_general_dilated",
        Op.CONV,
        "conv",
        at.CONV,
        _of_first_output(within.contraction),
        linear=_product_of_two,
    ),
    _row(
        "scatter_add",
        Op.SCATTER_ADD,
        "average_pool",
        at.SCATTER,
        _of_first_output(lambda eqn, x, i, u: within.add(eqn, x, within.total(eqn, u))),
        data=_operands(0, 2),
        linear=_operands(0, 2),
    ),
    _row("fft", Op.OTHER, "linear", at.FFT, None, linear=_every),
    _row("triangular_solve", Op.OTHER, "linear", at.MATRICES, None, linear=_operands(1)),
    _row("linear_solve", Op.OTHER, "linear", None, None, linear=_system),
    _row("reduce_scatter", Op.COLLECTIVE, "linear", None, _of_first_output(within.total), linear=_every),
    _row("select_and_scatter_add", Op.OTHER, "linear", None, None, data=_operands(0), linear=_operands(0)),
    _row("select_and_gather_add", Op.OTHER, "linear", None, None, data=_operands(0), linear=_operands(0)),
]

_ENDS = [
    *_ending("eq", Op.EQUAL, _bit, at.STAYS),
    *_ending("le ge eq_to lt_to le_to is_finite", Op.COMPARE, _bit, at.STAYS),
    *_ending("lt", Op.COMPARE, within.less, at.STAYS),
    *_ending("gt", Op.COMPARE, within.greater, at.STAYS),
    *_ending("ne", Op.COMPARE, within.unequal, at.STAYS),
    *_ending("and", Op.BOTH, within.both, at.STAYS),
    *_ending("or not xor", Op.LOGIC, None, at.STAYS),
    *_ending("stop_gradient", Op.STOP, within.same, at.STAYS),
    *_ending("shift_left shift_right_arithmetic shift_right_logical population_count clz", axes=at.STAYS),
    *_ending("argmax argmin reduce_and reduce_or reduce_xor", axes=at.REDUCE),
    _row("iota", Op.COUNT, "ends", None, lambda eqn, k, x: (0.0, float(eqn.params["shape"][eqn.params["dimension"]]))),
    *_ending(
        """axis_index bitcast_convert_type create_token after_all empty2 random_bits random_fold_in random_seed
        random_split random_wrap random_unwrap random_clone rng_bit_generator rng_uniform threefry2x32"""
    ),
]

_OPAQUE = [
    *_opaque("cholesky eig eigh hessenberg lu qr schur svd householder_product", at.MATRICES),
    *_opaque("tridiagonal tridiagonal_solve custom_lin get swap ragged_all_to_all scatter_mul select_and_scatter"),
    *_opaque("reduce reduce_window"),
    *_opaque("reduce_prod", at.REDUCE, within.product_over_axes),
    *_opaque("cumprod cumlogsumexp", at.ALONG_AXIS),
]

_CONTROL = [
    _row(name, op, "control", None, None)
    for name, op in {
        "scan": Op.SCAN,
        "cond": Op.COND,
        "while": Op.WHILE,
        "remat": Op.REMAT,
        "shard_map": Op.SHARD_MAP,
    }.items()
]

# Those that only call a program, which is read in their place.
_CALLS = [_row(name, Op.OTHER, "control", None, None) for name in ("jit", "call", "closed_call", "custom_jvp_call", "custom_vjp_call", "composite")]

# Operations that rewrites put together out of others, or add.
ADDED: Mapping[Op, Row] = {
    row.op: row
    for row in (
        _row("carry", Op.CARRY, "movement", at.AS_TOLD, None),
        _row("embedding", Op.EMBEDDING, "embedding", at.AS_TOLD, None),
        _row("full", Op.FULL, "ends", None, None),
        _row("broadcast", Op.BROADCAST, "movement", at.AS_TOLD, _of_first_output(within.same), constancy=True),
        _row("pick", Op.GATHER, "movement", at.AS_TOLD, _of_first_output(within.same), data=lambda eqn: (0,)),
        *_elementwise("identity", within.same, Op.IDENTITY, "movement", bends=False),
        _row("normalisation", Op.NORMALISE, "normalisation", None, None, bends=True),
        _row("softmax", Op.SOFTMAX, "softmax", None, lambda eqn, k, x: _TRUTH, bends=True),
        _row("log_sum_exp", Op.LOG_SUM_EXP, "log_sum_exp", at.REDUCE, None, bends=True),
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
    return _row(name, Op.OTHER, "opaque", None, None, bends=True)


def declared(name: str, kind: str) -> Row:
    """Return the row of a primitive that a user declares to be of a kind; see `register_kind`."""
    if kind == "activation":
        return _elementwise(name, None)[0]
    if kind == "movement":
        return _movement(name, Op.OTHER, None, None)
    linear = _every if kind in ("average_pool", "linear") else None
    return _row(name, Op.OTHER, kind, None, None, linear=linear, bends=kind == "max_pool")


def named(name: str) -> Row:
    """Return the row of an operation that the library itself puts into programs."""
    return _ROWS[name]


def rows() -> Iterable[Row]:
    """Return all rows."""
    return _ROWS.values()
