"""What is known of every value before anything runs: its interval, where it varies, whether it is a single scalar."""

import math
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from jrlrp.primitives.axes import varying_along
from jrlrp.primitives.intervals import UNKNOWN, Interval, intersection, met, of_dtype, of_literal, union, widened
from jrlrp.primitives.row import Op
from jrlrp.trace import compat
from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.program import Equation, Literal, Program, Region, Var
from jrlrp.trace.walk import Walk


@dataclass(frozen=True)
class Fact:
    """What is known of one variable.

    Attributes:
      interval: the interval that its entries lie in.
      varying: the dimensions along which they may differ.
      scalar: whether all of them are those of a value of shape (). An array with one entry is an array, like the bias
        of a layer with one unit.
      number: whether that scalar is a number that stands in the program.
      fixed: whether it is computed from numbers that stand in the program, and from nothing else.
    """

    interval: Interval
    varying: frozenset[int]
    scalar: bool = False
    number: bool = False
    fixed: bool = False

    def joined(self, other: "Fact") -> "Fact":
        """Return what holds of both."""
        flags = self.scalar and other.scalar, self.number and other.number, self.fixed and other.fixed
        return Fact(union(self.interval, other.interval), self.varying | other.varying, *flags)

    def slices(self, v: Var) -> "Fact":
        """Return the fact of slices `v` along the leading axis."""
        return replace(self, varying=frozenset(d - 1 for d in self.varying if d), scalar=self.scalar or not v.shape)

    def stack(self) -> "Fact":
        """Return the fact of a stack of such slices."""
        varying = frozenset({0, *(d + 1 for d in self.varying)})
        return Fact(self.interval, varying, self.number, self.number, self.fixed)


class Facts(Walk[Fact]):
    """The facts of all variables of a program and of the bodies of its control flow.

    `numbers` are the small arrays of whole numbers that it closes over, by their variables: indices and masks.
    """

    def __init__(self, program: Program):
        super().__init__()
        self.definition: dict[Var, Equation] = {}
        found = {v: _whole_numbers(c) for v, c in program.constants.items()}
        self.numbers = {v: numbers for v, numbers in found.items() if numbers is not None}
        self.over(program.equations, {v: _of_numbers(v, c) for v, c in self.numbers.items()})

    def __getitem__(self, v: Var) -> Fact:
        fact = self.look(self.values, v)
        return _unknown(v) if fact is None else fact

    def interval(self, v: Var) -> Interval:
        return self[v].interval

    def varying(self, v: Var) -> frozenset[int]:
        return self[v].varying

    def add(self, eqn: Equation) -> None:
        """Take in an equation that was put into the program, with outputs of its own."""
        self.values.update(self.made(eqn, self.values))

    def look(self, values: Mapping[Var, Fact], v: Var) -> Fact | None:
        if isinstance(v, Literal):
            return Fact(of_literal(v.value), frozenset(), True, True, True)
        return values.get(v)

    def join(self, old: Fact, new: Fact) -> Fact:
        return old.joined(new)

    def widen(self, old: Fact, new: Fact) -> Fact:
        return replace(new, interval=widened(old.interval, new.interval))

    def enter(self, flow: ControlFlow, body: Body, k: int, value: Fact | None, inner: Var) -> Fact | None:
        value = _unknown(inner) if value is None else value
        return value.slices(inner) if k in body.sliced else value

    def leave(self, flow: ControlFlow, body: Body, k: int, value: Fact | None, outer: Var) -> Fact | None:
        value = _unknown(body.program.outputs[k]) if value is None else value
        return value.stack() if k in body.stacked else value

    def made(self, step: Equation, values: Mapping[Var, Fact]) -> Iterable[tuple[Var, Fact]]:
        self.definition.update(dict.fromkeys(step.outputs, step))
        if isinstance(step, Region):
            known = ChainMap[Var, Fact]({}, cast(dict, values))  # only the first is written to
            for eqn in step.equations:
                known.update(self.made(eqn, known))
            self.definition.update(dict.fromkeys(step.outputs, step))
            return [(v, self._narrowed(step, k, known, known[v])) for k, v in enumerate(step.outputs)]
        found = [self._known(v, values) for v in step.inputs]
        return [(v, self._fact(step, k, v, found, values)) for k, v in enumerate(step.outputs)]

    def _known(self, v: Var, values: Mapping[Var, Fact]) -> Fact:
        fact = self.look(values, v)
        return _unknown(v) if fact is None else fact

    def _narrowed(self, eqn: Equation, k: int, known: Mapping[Var, Fact], fact: Fact) -> Fact:
        """Return the fact of what a region makes: what its row says holds too."""
        if eqn.row.interval is None:
            return fact
        found = eqn.row.interval(eqn, k, [self._known(v, known).interval for v in eqn.data])
        return replace(fact, interval=intersection(found, fact.interval))

    def _fact(self, eqn: Equation, k: int, out: Var, known: list[Fact], values: Mapping[Var, Fact]) -> Fact:
        """Return the fact of an equation's k-th output."""
        row, everywhere = eqn.row, frozenset(d for d, n in enumerate(out.shape) if n != 1)
        steady = row.pointwise or row.constancy
        number = steady and bool(known) and all(fact.number for fact in known)
        scalar = not out.shape or (steady and bool(known) and all(fact.scalar for fact in known))
        varying = varying_along(eqn, [fact.varying for fact in known]) if steady else None
        if row.op is Op.COUNT:
            varying = frozenset([eqn.params["dimension"]])
        where = everywhere if varying is None else varying & everywhere
        interval = intersection(self._interval(eqn, k, known, values), of_dtype(out.dtype))
        fixed = all(fact.fixed for fact in known) and not eqn.has_effects and (bool(known) or row.op is Op.COUNT)
        return Fact(interval, where, scalar, number, fixed)

    def _interval(self, eqn: Equation, k: int, known: list[Fact], values: Mapping[Var, Fact]) -> Interval:
        if eqn.row.interval is None:
            return of_dtype(eqn.outputs[k].dtype)
        intervals = [fact.interval for fact in known]
        if eqn.op is Op.SELECT and len(eqn.inputs) == 3:
            test, *cases = eqn.inputs
            intervals[1:] = [met(self._where(test, n, v, values), intervals[n + 1]) for n, v in enumerate(cases)]
        return intersection(self._relation(eqn, values), eqn.row.interval(eqn, k, intervals))

    def _where(self, test: Var, truth: int, v: Var, values: Mapping[Var, Fact]) -> Interval:
        """Return the interval that a value lies in where a test of it has the given outcome."""
        eqn = self.definition.get(test)
        if eqn is None or eqn.op not in (Op.LESS, Op.GREATER) or v not in eqn.inputs:
            return UNKNOWN
        k = eqn.inputs.index(v)
        lo, hi = self._known(eqn.inputs[1 - k], values).interval
        below = ((eqn.op is Op.LESS) == (k == 0)) == bool(truth)
        return (-math.inf, hi) if below else (lo, math.inf)

    def _relation(self, eqn: Equation, values: Mapping[Var, Fact]) -> Interval:
        """Return what follows from how two operands are related: x − floor(x) lies in [0, 1]."""
        return self._fraction(eqn.inputs[0], eqn.inputs[1], values) if eqn.op is Op.SUB else UNKNOWN

    def _fraction(self, x: Var, whole: Var, values: Mapping[Var, Fact]) -> Interval:
        """Return the interval of x less a whole number that is made of it, by floor or by a cast towards zero."""
        (lo, hi), pending, found, cut = self._known(x, values).interval, [whole], [], False
        while pending:
            v = pending.pop()
            eqn = self.definition.get(v)
            if v is x and cut:
                found.append((0.0 if lo >= 0 else -1.0, 0.0 if hi <= 0 else 1.0))
            elif eqn is not None and eqn.op is Op.FLOOR and eqn.inputs[0] is x:
                found.append((0.0, 1.0))
            elif eqn is not None and eqn.op in (Op.CAST, Op.IDENTITY):
                cut = cut or jnp.issubdtype(eqn.output.dtype, jnp.integer)
                pending.append(eqn.data[0])
            elif eqn is not None and eqn.op is Op.SELECT and len(eqn.data) == 2:
                within = [met(self._where(eqn.inputs[0], n, x, values), (lo, hi)) for n in (0, 1)]
                pending += [u for u, (low, high) in zip(eqn.data, within, strict=True) if low < high]
            else:
                return UNKNOWN
        return union(*found) if found else UNKNOWN


def _whole_numbers(value: Any) -> np.ndarray | None:
    """Return a constant if it is a known array of few whole numbers, an index say, or of zeros and ones."""
    found = compat.known(value, 10_000)
    if found is None or not found.size:
        return None
    whole = jnp.issubdtype(found.dtype, jnp.integer) or found.dtype == bool
    return found if whole or (jnp.issubdtype(found.dtype, jnp.floating) and np.isin(found, (0, 1)).all()) else None


def _of_numbers(v: Var, known: np.ndarray) -> Fact:
    return replace(_unknown(v), interval=(float(known.min()), float(known.max())))


def _unknown(v: Var) -> Fact:
    return Fact(of_dtype(v.dtype), frozenset(d for d, n in enumerate(v.shape) if n != 1), not v.shape)
