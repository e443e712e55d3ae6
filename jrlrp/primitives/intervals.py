"""The interval [lo, hi] that the entries of a value lie in: a known sign saves work, [0, 1] marks a gate.

A rule here gives the interval of an equation's first output from those of its operands.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

Interval = tuple[float, float]
UNKNOWN: Interval = (-math.inf, math.inf)


def of_literal(value: Any) -> Interval:
    known = complex(np.asarray(value))
    return UNKNOWN if known.imag or math.isnan(known.real) else (known.real, known.real)


def of_dtype(dtype: Any) -> Interval:
    """Return the interval of a value of which nothing but the dtype is known."""
    if dtype == np.bool_:
        return (0.0, 1.0)
    return (0.0, math.inf) if getattr(dtype, "kind", "") == "u" else UNKNOWN


def intersection(a: Interval, b: Interval) -> Interval:
    """Return what both intervals allow, or the second if they exclude each other: a cast that wraps."""
    lo, hi = max(a[0], b[0]), min(a[1], b[1])
    return (lo, hi) if lo <= hi else b


def met(a: Interval, b: Interval) -> Interval:
    """Return what both intervals allow: nothing, if the first number is the higher."""
    return max(a[0], b[0]), min(a[1], b[1])


def union(*x: Interval) -> Interval:
    return min(r[0] for r in x), max(r[1] for r in x)


def widened(old: Interval, new: Interval) -> Interval:
    """Return the new interval, with each end that has moved at infinity."""
    return (new[0] if new[0] >= old[0] else -math.inf), (new[1] if new[1] <= old[1] else math.inf)


def checked(interval: Interval) -> Interval:
    """Return the interval, or the whole line where an end is no number."""
    return UNKNOWN if math.isnan(interval[0]) or math.isnan(interval[1]) else interval


def bounded(lo: float, hi: float) -> Callable:
    return lambda eqn, *x: (lo, hi)


def same(eqn: Any, x: Interval, *rest: Interval) -> Interval:
    return x


def any_of(eqn: Any, *x: Interval) -> Interval:
    return union(*x)


def add(eqn: Any, x: Interval, y: Interval) -> Interval:
    return x[0] + y[0], x[1] + y[1]


def subtract(eqn: Any, x: Interval, y: Interval) -> Interval:
    return x[0] - y[1], x[1] - y[0]


def negate(eqn: Any, x: Interval) -> Interval:
    return -x[1], -x[0]


def multiply(eqn: Any, x: Interval, y: Interval) -> Interval:
    if eqn.inputs[0] is eqn.inputs[1]:
        return even(x, lambda v: v * v)
    return product(x, y)


def divide(eqn: Any, x: Interval, y: Interval) -> Interval:
    quotient = product(x, reciprocal(y))
    if not jnp.issubdtype(eqn.outputs[0].dtype, jnp.integer):
        return quotient
    if y[0] <= 0 <= y[1] or not all(map(math.isfinite, quotient)):  # of integers, x / 0 is some number
        return UNKNOWN
    return float(math.trunc(quotient[0])), float(math.trunc(quotient[1]))


def product(x: Interval, y: Interval) -> Interval:
    products = [0.0 if a == 0 or b == 0 else a * b for a in x for b in y]
    return min(products), max(products)


def reciprocal(y: Interval) -> Interval:
    if y[0] < 0 < y[1]:
        return UNKNOWN
    ends = [1 / v if v else (math.inf if y[1] > 0 else -math.inf) for v in y]
    return min(ends), max(ends)


def even(x: Interval, f: Callable[[float], float]) -> Interval:
    """Return the interval of an even function that rises from 0 on."""

    def end(v: float) -> float:
        try:
            return f(v) if math.isfinite(v) else math.inf
        except OverflowError:
            return math.inf

    ends = [end(v) for v in x]
    return (0.0 if x[0] <= 0 <= x[1] else min(ends)), max(ends)


def absolute(eqn: Any, x: Interval) -> Interval:
    return even(x, abs)


def rising(f: Callable[[float], float], lowest: float = -math.inf, highest: float = math.inf) -> Callable:
    """Return the rule of a rising function, from its values at the ends of the interval to its limits at infinity."""

    def end(v: float) -> float:
        if math.isinf(v):
            return lowest if v < 0 else highest
        try:
            return min(max(f(v), lowest), highest)
        except (OverflowError, ValueError):
            return lowest if v <= 0 else highest

    return lambda eqn, x: (end(x[0]), end(x[1]))


def power(eqn: Any, x: Interval) -> Interval:
    y = eqn.row.exponent(eqn)
    if y < 0:
        return reciprocal(_power_up(x, -y))
    return _power_up(x, y)


def _power_up(x: Interval, y: float) -> Interval:
    if y == int(y):
        try:
            return even(x, lambda v: v**y) if y % 2 == 0 else (x[0] ** y, x[1] ** y)
        except OverflowError:
            return (0.0, math.inf) if y % 2 == 0 or x[0] >= 0 else UNKNOWN
    lo, hi = max(x[0], 0.0), max(x[1], 0.0)  # of a negative number it is none
    return lo**y, hi**y


def raised(eqn: Any, x: Interval, y: Interval) -> Interval:
    """Return the interval of x to the power y, both of them values."""
    return (0.0, math.inf) if x[0] >= 0 else UNKNOWN


def largest(eqn: Any, x: Interval, y: Interval) -> Interval:
    return max(x[0], y[0]), max(x[1], y[1])


def smallest(eqn: Any, x: Interval, y: Interval) -> Interval:
    return min(x[0], y[0]), min(x[1], y[1])


def clamp(eqn: Any, lo: Interval, x: Interval, hi: Interval) -> Interval:
    return min(max(x[0], lo[0]), hi[0]), min(max(x[1], lo[1]), hi[1])


def select(eqn: Any, which: Interval, *cases: Interval) -> Interval:
    if which[0] == which[1] and which[0] in range(len(cases)):
        cases = (cases[int(which[0])],)
    possible = [x for x in cases if x[0] <= x[1]]
    return union(*possible) if possible else UNKNOWN


def less(eqn: Any, x: Interval, y: Interval) -> Interval:
    return (0.0, 0.0) if x[0] >= y[1] else (0.0, 1.0)  # of NaN it is false too


def greater(eqn: Any, x: Interval, y: Interval) -> Interval:
    return less(eqn, y, x)


def unequal(eqn: Any, x: Interval, y: Interval) -> Interval:
    same = eqn.inputs[0] is eqn.inputs[1] or x[0] == x[1] == y[0] == y[1]
    return (0.0, 0.0) if same else (0.0, 1.0)  # numbers equal themselves; NaN is none


def both(eqn: Any, x: Interval, y: Interval) -> Interval:
    return (0.0, 0.0) if (0.0, 0.0) in (x, y) else UNKNOWN


def remainder(eqn: Any, x: Interval, y: Interval) -> Interval:
    """Return the interval of what is left of a division that rounds towards zero: of the sign of what is divided."""
    size = max(abs(y[0]), abs(y[1]))
    if y[0] <= 0 <= y[1] and jnp.issubdtype(eqn.outputs[0].dtype, jnp.integer):  # what is left of x / 0 is x
        size = math.inf
    return max(-size, min(x[0], 0.0)), min(size, max(x[1], 0.0))


def cast(eqn: Any, x: Interval) -> Interval:
    dtype = eqn.outputs[0].dtype
    if dtype == np.bool_:
        return (0.0, 1.0)
    if not jnp.issubdtype(dtype, jnp.integer):
        return x
    known, limits = all(map(math.isfinite, x)), jnp.iinfo(dtype)
    if not known or x[0] < limits.min or x[1] > limits.max:  # it wraps, or saturates
        return UNKNOWN
    return float(math.floor(x[0])), float(math.ceil(x[1]))


def total(eqn: Any, x: Interval) -> Interval:
    """Return the interval of a sum of any number of values, none perhaps."""
    return (0.0 if x[0] >= 0 else -math.inf), (0.0 if x[1] <= 0 else math.inf)


def over_devices(eqn: Any, x: Interval) -> Interval:
    """Return the interval of a sum over devices, as many as a body of shard_map was told."""
    count = eqn.params.get("devices")
    return total(eqn, x) if count is None else (count * x[0], count * x[1])


def product_over_axes(eqn: Any, x: Interval) -> Interval:
    return (0.0, 1.0 if x[1] <= 1 else math.inf) if x[0] >= 0 else UNKNOWN


def contraction(eqn: Any, x: Interval, y: Interval) -> Interval:
    return total(eqn, product(x, y))


def gather(eqn: Any, x: Interval, *indices: Interval) -> Interval:
    fill = eqn.params.get("fill_value")  # None is NaN, which is in no interval
    return x if fill is None else union(x, (float(fill), float(fill)))


def scatter(eqn: Any, x: Interval, indices: Interval, updates: Interval) -> Interval:
    return union(x, updates)


def logistic(v: float) -> float:
    return 1 / (1 + math.exp(-v))
