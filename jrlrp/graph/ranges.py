"""The interval [lo, hi] that each variable's entries lie in: a known sign saves work, [0, 1] marks a gate."""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jrlrp.trace.program import Equation, Literal, Var

Range = tuple[float, float]
UNKNOWN: Range = (-math.inf, math.inf)


def range_of_literal(v: Literal) -> Range:
    value = complex(np.asarray(v.value))
    return UNKNOWN if value.imag or math.isnan(value.real) else (value.real, value.real)


def range_of_dtype(v: Var) -> Range:
    """Return the range of a value of which nothing but the dtype is known."""
    if v.dtype == np.bool_:
        return (0.0, 1.0)
    unsigned = getattr(v.dtype, "kind", "") == "u"
    return (0.0, math.inf) if unsigned else UNKNOWN


def range_of(eqn: Equation, x: Sequence[Range], k: int) -> Range:
    """Return the range of an equation's k-th output, from those of its operands."""
    if eqn.primitive == "sort":
        return x[k]
    rule = _RULES.get(eqn.primitive)
    if rule is None or (k > 0 and eqn.primitive not in ("split", "unstack")):
        return UNKNOWN
    lo, hi = rule(eqn, *x)
    return UNKNOWN if math.isnan(lo) or math.isnan(hi) else (lo, hi)


def intersection(a: Range, b: Range) -> Range:
    """Return what both intervals allow, or the second if they exclude each other: a cast that wraps."""
    lo, hi = max(a[0], b[0]), min(a[1], b[1])
    return (lo, hi) if lo <= hi else b


def union(*x: Range) -> Range:
    return min(r[0] for r in x), max(r[1] for r in x)


def widened(old: Range, new: Range) -> Range:
    """Return the new range, with each end that has moved at infinity."""
    return (new[0] if new[0] >= old[0] else -math.inf), (new[1] if new[1] <= old[1] else math.inf)


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _mul(eqn: Equation, x: Range, y: Range) -> Range:
    if eqn.inputs[0] is eqn.inputs[1]:
        return _even(x, lambda v: v * v)
    return _mul_any(x, y)


def _div(eqn: Equation, x: Range, y: Range) -> Range:
    return _mul_any(x, _reciprocal(y))


def _mul_any(x: Range, y: Range) -> Range:
    products = [_times(a, b) for a in x for b in y]
    return min(products), max(products)


def _reciprocal(y: Range) -> Range:
    if y[0] < 0 < y[1]:
        return UNKNOWN
    ends = [1 / v if v else (math.inf if y[1] > 0 else -math.inf) for v in y]
    return min(ends), max(ends)


def _even(x: Range, f: Callable[[float], float]) -> Range:
    ends = [f(v) if math.isfinite(v) else math.inf for v in x]
    return (0.0 if x[0] <= 0 <= x[1] else min(ends)), max(ends)


def _monotone(f: Callable[[float], float], lowest: float, highest: float) -> Callable:
    """A rising function, from its values at the ends of the range to its limits at infinity."""

    def end(v: float) -> float:
        if math.isinf(v):
            return lowest if v < 0 else highest
        try:
            return min(max(f(v), lowest), highest)
        except (OverflowError, ValueError):
            return lowest if v <= 0 else highest

    return lambda eqn, x: (end(x[0]), end(x[1]))


def _power(eqn: Equation, x: Range) -> Range:
    y = eqn.params["y"]
    if y < 0:
        return _reciprocal(_power_up(x, -y))
    return _power_up(x, y)


def _power_up(x: Range, y: int) -> Range:
    try:
        return _even(x, lambda v: v**y) if y % 2 == 0 else (x[0] ** y, x[1] ** y)
    except OverflowError:
        return (0.0, math.inf) if y % 2 == 0 or x[0] >= 0 else UNKNOWN


def _scale_of_sum(x: Range) -> Range:
    return (0.0 if x[0] >= 0 else -math.inf), (0.0 if x[1] <= 0 else math.inf)


def _contraction(eqn: Equation, x: Range, y: Range) -> Range:
    return _scale_of_sum(_mul_any(x, y))


def _select(eqn: Equation, which: Range, *cases: Range) -> Range:
    if which[0] == which[1] and which[0] in range(len(cases)):
        return cases[int(which[0])]
    return union(*cases)


def _not_equal(eqn: Equation, x: Range, y: Range) -> Range:
    return (0.0, 0.0) if eqn.inputs[0] is eqn.inputs[1] else (0.0, 1.0)  # numbers equal themselves; NaN is none


def _bounded(lo: float, hi: float) -> Callable:
    return lambda eqn, *x: (lo, hi)


def _keep(eqn: Equation, x: Range, *rest: Range) -> Range:
    return x


def _cast(eqn: Equation, x: Range) -> Range:
    if jnp.issubdtype(eqn.output.dtype, jnp.integer) and all(map(math.isfinite, x)):
        return float(math.floor(x[0])), float(math.ceil(x[1]))
    return x


def _keep_union(eqn: Equation, *x: Range) -> Range:
    return union(*x)


def _gather(eqn: Equation, x: Range, *rest: Range) -> Range:
    fill = eqn.params.get("fill_value")  # None is NaN, which is in no range
    return x if fill is None else union(x, (float(fill), float(fill)))


def _scatter(eqn: Equation, x: Range, indices: Range, updates: Range) -> Range:
    return union(x, updates)


def _logistic(v: float) -> float:
    return 1 / (1 + math.exp(-v))


_RULES: dict[str, Callable] = {
    "add": lambda eqn, x, y: (x[0] + y[0], x[1] + y[1]),
    "add_any": lambda eqn, x, y: (x[0] + y[0], x[1] + y[1]),
    "sub": lambda eqn, x, y: (x[0] - y[1], x[1] - y[0]),
    "neg": lambda eqn, x: (-x[1], -x[0]),
    "mul": _mul,
    "div": _div,
    "max": lambda eqn, x, y: (max(x[0], y[0]), max(x[1], y[1])),
    "min": lambda eqn, x, y: (min(x[0], y[0]), min(x[1], y[1])),
    "clamp": lambda eqn, lo, x, hi: (min(max(x[0], lo[0]), hi[1]), max(min(x[1], hi[1]), lo[0])),
    "select_n": _select,
    "ne": _not_equal,
    "gather": _gather,
    "scatter": _scatter,
    "abs": lambda eqn, x: _even(x, abs),
    "square": lambda eqn, x: _even(x, lambda v: v * v),
    "integer_pow": _power,
    "exp": _monotone(math.exp, 0.0, math.inf),
    "exp2": _monotone(lambda v: 2**v, 0.0, math.inf),
    "expm1": _monotone(math.expm1, -1.0, math.inf),
    "log": _monotone(math.log, -math.inf, math.inf),
    "log1p": _monotone(math.log1p, -math.inf, math.inf),
    "sqrt": _monotone(math.sqrt, 0.0, math.inf),
    "rsqrt": _bounded(0.0, math.inf),
    "logistic": _monotone(_logistic, 0.0, 1.0),
    "tanh": _monotone(math.tanh, -1.0, 1.0),
    "erf": _monotone(math.erf, -1.0, 1.0),
    "erfc": _bounded(0.0, 2.0),
    "sin": _bounded(-1.0, 1.0),
    "cos": _bounded(-1.0, 1.0),
    "sign": _bounded(-1.0, 1.0),
    "reduce_sum": lambda eqn, x: _scale_of_sum(x),
    "reduce_window_sum": lambda eqn, x: _scale_of_sum(x),
    "cumsum": lambda eqn, x: _scale_of_sum(x),
    "reduce_prod": lambda eqn, x: (0.0, 1.0 if x[1] <= 1 else math.inf) if x[0] >= 0 else UNKNOWN,
    "convert_element_type": _cast,
    "dot_general": _contraction,
    "conv_general_dilated": _contraction,
    **dict.fromkeys(
        """broadcast_in_dim reshape transpose squeeze slice rev reduce_precision reduce_max
        reduce_min cummax cummin stop_gradient sharding_constraint copy device_put top_k
        reduce_window_max dynamic_slice split unstack tile real""".split(),
        _keep,
    ),
    **dict.fromkeys("concatenate stack pad dynamic_update_slice".split(), _keep_union),
}
