"""The makers of rows: one for each family of primitives, which says what all of a family have in common."""

from collections.abc import Callable
from typing import Any

from jrlrp.primitives import axes as at
from jrlrp.primitives import intervals as within
from jrlrp.primitives.row import AxisFinder, Op, Row

Rule = Callable[..., within.Interval]


def every(eqn: Any) -> range:
    return range(len(eqn.inputs))


def operands(*numbers: int) -> Callable[[Any], tuple[int, ...]]:
    return lambda eqn: numbers


def of_first_output(rule: Rule | None) -> Any:
    if rule is None:
        return None
    return lambda eqn, k, x: within.UNKNOWN if k else within.checked(rule(eqn, *x))


def entry(
    name: str,
    op: Op,
    kind: str,
    axes: AxisFinder | None,
    interval: Any,
    *,
    pointwise: bool = False,
    constancy: bool = False,
    data: Callable = every,
    linear: Callable | None = None,
    exponent: Callable | None = None,
    bends: bool = False,
    rising: bool = False,
) -> Row:
    """Return a row; what is left out here is said by every family below, or is an answer of none."""
    return Row(name, op, kind, axes, interval, pointwise, constancy, data, linear, exponent, bends, rising)


def elementwise(
    names: str,
    interval: Rule | None,
    op: Op = Op.OTHER,
    kind: str = "activation",
    *,
    rising: bool = False,
    data: Callable = every,
    linear: Callable | None = None,
    exponent: Callable | None = None,
    bends: bool = True,
) -> list[Row]:
    """Rows of functions of the entries at one place. Whatever they make of constants is one."""
    return [
        entry(
            name,
            op,
            kind,
            at.STAYS,
            of_first_output(interval),
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


def movement(
    name: str,
    op: Op,
    axes: AxisFinder | None,
    interval: Any,
    *,
    constancy: bool = False,
    data: Callable = every,
    every_output: bool = False,
) -> Row:
    """Row of what places, copies or selects values: linear in all of its data at once."""
    of_outputs = (lambda eqn, k, x: x[0]) if every_output else of_first_output(interval)
    return entry(name, op, "movement", axes, of_outputs, constancy=constancy, data=data, linear=data)


def ending(names: str, op: Op = Op.OTHER, interval: Rule | None = None, axes: AxisFinder | None = None) -> list[Row]:
    """Rows of what is no number that relevance could belong to: truth values, indices, held values."""
    pointwise = axes is at.STAYS
    return [
        entry(name, op, "ends", axes, of_first_output(interval), pointwise=pointwise, constancy=pointwise)
        for name in names.split()
    ]


def unexplained(names: str, axes: AxisFinder | None = None, interval: Rule | None = None) -> list[Row]:
    """Rows of what has no rule, though something may be known of its values."""
    return [entry(name, Op.OTHER, "opaque", axes, of_first_output(interval), bends=True) for name in names.split()]
