"""Which elementwise functions are f(tx) = t f(x) for all t > 0, by what they are computed with and not by trying."""

import math
from collections.abc import Iterable

import numpy as np

from jrlrp.primitives.row import Op
from jrlrp.trace.program import Equation, Literal, Var

_KEEP = (Op.NEG, Op.ABS, Op.CAST, Op.STOP, Op.RESHAPE, Op.SQUEEZE, Op.TRANSPOSE, Op.BROADCAST, Op.IDENTITY)
_LIKE = (Op.ADD, Op.SUB, Op.MAX, Op.MIN, Op.CLAMP, Op.SELECT)  # of values of one degree
_COMPARISONS = (Op.EQUAL, Op.LESS, Op.GREATER, Op.COMPARE)
ANY = -1  # the degree of 0 and of infinities, which no factor changes


def is_homogeneous(equations: Iterable[Equation], x: Var, output: Var) -> bool:
    """Tell whether a program is known to be homogeneous of degree 1 in x, so that its only kink is at 0."""
    degrees: dict[Var, int | None] = {x: 1}
    for outer in equations:
        for eqn in outer.flat:
            found = _degree(eqn, [degrees.get(v, _of_constant(v)) for v in eqn.inputs])
            degrees |= dict.fromkeys(eqn.outputs, found)
    return degrees.get(output) == 1


def _of_constant(v: Var) -> int:
    if not isinstance(v, Literal) or not np.issubdtype(np.asarray(v.value).dtype, np.number):
        return 0
    return ANY if v.value == 0 or math.isinf(v.value) else 0


def _degree(eqn: Equation, degrees: list[int | None]) -> int | None:
    """Return to which power of t the result grows with its operands', None if that is not known."""
    if None in degrees:
        return None
    if eqn.op is Op.SELECT and degrees[0] not in (0, ANY):
        return None
    own = degrees[1:] if eqn.op is Op.SELECT else degrees
    known = {degree for degree in own if degree != ANY}
    if known <= {0}:
        return 0 if known else ANY if eqn.op in (*_KEEP, *_LIKE) else 0
    if eqn.op in _KEEP:
        return degrees[0]
    if eqn.op in _LIKE or eqn.op in _COMPARISONS:
        if len(known) > 1:
            return None
        return 0 if eqn.op in _COMPARISONS else known.pop()
    if eqn.op in (Op.MUL, Op.DIV) and len(degrees) == 2 and ANY not in degrees:
        (a, b), sign = degrees, 1 if eqn.op is Op.MUL else -1
        return a + sign * b if a is not None and b is not None else None
    return None
