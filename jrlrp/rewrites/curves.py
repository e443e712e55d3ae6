"""Functions of one variable that a program computes entry by entry, and what their values say of them."""

import heapq
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from jrlrp.analyses.facts import Facts
from jrlrp.primitives.intervals import Interval
from jrlrp.primitives.row import Op
from jrlrp.trace import compat
from jrlrp.trace.inline import computed_by
from jrlrp.trace.program import Added, Equation, Region, Var

_POINTS = 41
_FAR = 1e4  # beyond it, sums of squares and roots are noise in float64


def one_source(
    eqn: Equation,
    v: Var,
    definition: Mapping[Var, Equation],
    position: Mapping[Var, int],
    facts: Facts,
    dependent: set[Var],
) -> tuple[Var, tuple[Var, ...]] | None:
    """Return the nearest value that `v`, an output of an equation, is a function of, by numbers and labels alone.

    Labels, two at most, are values that depend on no explained input. None if there is no such value.
    """
    if not _is_pointwise(eqn):
        return None
    labels: dict[Var, None] = {}
    pending: list[tuple[int, int, Var]] = []
    met: set[Var] = set()

    def read(operands: Sequence[Var]) -> None:
        for x in operands:
            if x not in dependent:
                labels.update(dict.fromkeys(_leaves(x, definition, facts)))
            elif x not in met:
                met.add(x)
                heapq.heappush(pending, (-position.get(x, -1), id(x), x))

    read(_operands(eqn, v))
    while pending and (len(pending) > 1 or not jnp.issubdtype(pending[0][2].dtype, jnp.floating)):
        u = heapq.heappop(pending)[2]
        inner = definition.get(u)
        if len(labels) > 2 or inner is None or not _is_pointwise(inner):
            return None
        read(_operands(inner, u))
    if not pending or len(labels) > 2:
        return None
    source = pending[0][2]
    alike = all(x.shape == v.shape for x in (source, *labels))
    return (source, tuple(labels)) if alike and _passes(source, v, definition) else None


def _is_pointwise(eqn: Equation) -> bool:
    """Tell whether an equation computes each entry from those at the same place, by no rule of the user's."""
    if eqn.op is Op.IDENTITY:
        return True
    plain = eqn.rule is None and not eqn.has_effects
    return plain and all(inner.row.pointwise and inner.row.kind != "opaque" for inner in computed_by(eqn))


def _operands(eqn: Equation, v: Var) -> Sequence[Var]:
    """Return what an output of a pointwise equation is a function of."""
    if len(eqn.outputs) > 1:
        return [eqn.inputs[eqn.outputs.index(v)]]
    return eqn.data if eqn.op is Op.IDENTITY else eqn.inputs


def _leaves(v: Var, definition: Mapping[Var, Equation], facts: Facts) -> set[Var]:
    """Return the values but numbers that a value which depends on no input is made of, entry by entry."""
    found, pending, met = set(), [v], set()
    while pending:
        v = pending.pop()
        if v in met or facts[v].number:
            continue
        met.add(v)
        eqn = definition.get(v)
        if eqn is None or not _is_pointwise(eqn):
            found.add(v)
        else:
            pending += _operands(eqn, v)
    return found


def _passes(source: Var, sink: Var, definition: Mapping[Var, Equation]) -> bool:
    """Tell whether a value comes to another one as more than a truth value or a held number."""
    reached = {source}
    for eqn in between(source, sink, definition):
        if eqn.row.kind != "ends" and reached.intersection(eqn.data):
            reached.update(eqn.outputs)
    return sink in reached


def between(source: Var, sink: Var, definition: Mapping[Var, Equation]) -> list[Equation]:
    """Return the pointwise equations that make `sink` of `source`, in order."""
    order: list[Equation] = []
    done: set[Equation] = set()
    pending: list[tuple[Var, bool]] = [(sink, False)]
    while pending:
        v, left = pending.pop()
        eqn = definition.get(v)
        if v is source or eqn is None or eqn in done or not _is_pointwise(eqn):
            continue
        if left:
            done.add(eqn)
            order.append(eqn)
        else:
            pending += [(v, True), *((u, False) for u in _operands(eqn, v))]
    return order


class Curve:
    """A function of one variable, as far as it has been followed back from its value.

    Attributes:
      matters: whether it is a head: nonlinear, and not 0 at 0 since it was followed last.
      scales: whether all of it multiplies by a number.
    """

    def __init__(self) -> None:
        self.matters, self.scales, self._bends = False, True, False
        self._zero, self._known = 0.0, True  # the value at 0, and whether that is up to date
        self._parts: list[tuple[Sequence[Equation], Var, Var, Facts]] = []  # from the last to the first

    def extend(self, part: Sequence[Equation], source: Var, sink: Var, labels: Sequence[Var], facts: Facts) -> int:
        """Go on to `source`; return 1 if the value at `sink` rises with it, −1 if it falls, 0 for neither.

        A label has to turn the one into the other; a second one is what the first is not.
        """
        interval = facts.interval(source)
        at = lambda grid, *known: values_at(part, source, sink, grid, facts, dict(zip(labels, known, strict=False)))
        values, everywhere = at(np.append(_grid(interval), 0.0), 0, 1), _everywhere(interval)
        sign = _direction(at(everywhere, 0, 1))
        if labels:
            sign = sign if sign == -_direction(at(everywhere, 1, 0)) else 0
        if not sign:
            return 0
        self._parts.append((part, source, sink, facts))
        straight = _is_straight(values[:-1])
        self.scales = self.scales and straight and values[-1] == 0
        self._bends = self._bends or not straight
        self._known = self._known and values[-1] == 0
        able = self._bends and interval[0] <= 0 <= interval[1] and not (straight and values[-1] == 0)
        self.matters = not straight if labels else able and self._at_zero() != 0
        return sign

    def _at_zero(self) -> float:
        if not self._known:
            self._zero, self._known = 0.0, True
            for part, source, sink, facts in reversed(self._parts):
                self._zero = float(values_at(part, source, sink, np.array([self._zero]), facts, {})[0])
        return self._zero


def _grid(interval: Interval) -> np.ndarray:
    low, high = max(interval[0], -20.0), min(interval[1], 20.0)
    return np.linspace(low, high if high > low else low + 20.0, _POINTS)


def _everywhere(interval: Interval) -> np.ndarray:
    """Return points of an interval, near 0 and far from it, in step with no wave."""
    far = np.geomspace(1e-3, _FAR, 401)
    points = np.unique(np.concatenate([-far, np.linspace(-20, 20, 997), far, _grid(interval)]))
    return points[(points >= interval[0]) & (points <= interval[1])]


def values_at(
    part: Sequence[Equation],
    source: Var,
    sink: Var,
    points: np.ndarray,
    facts: Facts,
    labels: Mapping[Var, int] = MappingProxyType({}),
) -> np.ndarray:
    """Return the values of a function at points, in full precision; NaN where it has none."""
    known: dict[Var, np.ndarray | None] = {}
    known |= {v: np.full(points.shape, value, _full(v.dtype)) for v, value in labels.items()}
    known[source] = points
    for eqn in part:
        whole = eqn.op is Op.IDENTITY or (isinstance(eqn, Region) and eqn.function is not None)
        for inner in (eqn,) if whole else computed_by(eqn):
            read = [known[v] if v in known else _number(v, facts, points) for v in inner.inputs]
            with np.errstate(all="ignore"):
                known.update(zip(inner.outputs, _applied(inner, read), strict=True))
    made = known.get(sink)
    return np.full(points.shape, math.nan) if made is None else np.asarray(made, np.float64)


def _number(v: Var, facts: Facts, points: np.ndarray) -> np.ndarray | None:
    """Return a number that stands in the program, at each of some points; None for what is none."""
    low, high = facts.interval(v)
    return np.full(points.shape, low, _full(v.dtype)) if facts[v].number and low == high else None


def _full(dtype: Any) -> Any:
    """Return the full precision of a dtype."""
    return np.float64 if jnp.issubdtype(dtype, jnp.floating) else dtype


def _applied(eqn: Equation, operands: Sequence[Any]) -> Sequence[Any]:
    """Return what an equation makes of known operands, in full precision; None for what it makes of others."""
    if eqn.op in (Op.IDENTITY, Op.STOP):
        return operands[:1]
    if eqn.op is Op.CAST:
        pairs = zip(operands, eqn.outputs, strict=True)
        return [None if x is None else np.asarray(x).astype(_full(v.dtype)) for x, v in pairs]
    if any(x is None for x in operands[: len(eqn.operands)]):
        return [None] * len(eqn.outputs)
    if isinstance(eqn, Region):
        return eqn.bind_all(operands)  # its own equations may count axes, which points have not
    return eqn.run(operands) if isinstance(eqn, Added) else compat.bind_to_numbers(eqn.eqn, operands)


def _direction(values: np.ndarray) -> int:
    """Return 1 for values that rise (or stay, here and there), −1 for such that fall, 0 for others."""
    known = values[np.isfinite(values)]
    if len(known) * 3 <= len(values):
        return 0
    steps = np.diff(known)
    slack = 1e-5 * np.maximum(np.abs(known[1:]), np.abs(known[:-1]))
    rises, falls = bool(np.any(steps > slack)), bool(np.any(steps < -slack))
    return rises - falls if rises != falls else 0


def _is_straight(values: np.ndarray) -> bool:
    bends = np.abs(np.diff(values, 2))
    return bool(np.all(bends <= 1e-5 * np.abs(values).max()))
