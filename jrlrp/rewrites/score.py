"""The score that is explained: a network's last increasing function is no part of what it has learnt.

A final softmax or sigmoid is explained at its logits, and so is what is monotone in one: a logarithm, a clip, an index
or a negation after it, a label's cross-entropy. Any other last increasing function that is not 0 at 0 is explained at
its argument: exp, softplus, 1 + tanh. A decreasing one is explained at its argument's negative.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp

from jrlrp.analyses.activity import dependent_on
from jrlrp.analyses.facts import Facts
from jrlrp.primitives.intervals import Interval
from jrlrp.primitives.row import Op
from jrlrp.primitives.table import named
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.program import Added, Equation, Program, Var


def explain_at_score(program: Program, explained: int) -> tuple[Program, tuple[Var, ...]]:
    """Return the variables that the first `explained` outputs are explained at, and the program that makes them."""
    dependent = dependent_on(program, program.inputs)
    return _at_score(program, Facts(program), dependent, program.outputs[:explained])


def _at_score(
    program: Program, facts: Facts, dependent: set[Var], wanted: Iterable[Var]
) -> tuple[Program, tuple[Var, ...]]:
    search = _Search(program, facts, dependent)
    outputs = tuple(search.score(v) or v for v in wanted)
    equations = (*(search.wider.get(eqn, eqn) for eqn in program.equations), *search.added)
    return replace(program, equations=equations), outputs


@dataclass(frozen=True)
class _Step:
    """A step from an output back: an equation whose first operand goes on, or the sign of a function."""

    equation: Equation | None = None
    operand: int = 0
    sign: int = 1
    sums: bool = False  # of several, so that only logarithms of probabilities may come before


class _Search:
    def __init__(self, program: Program, facts: Facts, dependent: set[Var]):
        self.definition, self.facts, self.dependent = program.definition, facts, dependent
        self.position = {v: k for k, v in enumerate(self.definition)}
        self.added: list[Equation] = []
        self.wider: dict[Equation, ControlFlow] = {}

    def score(self, v: Var) -> Var | None:
        """Return the variable that an output is explained at; None if that is the output itself."""
        steps: list[_Step] = []
        curve = _Curve(self.facts)
        best: tuple[Var, int] | None = None
        while (eqn := self.definition.get(v)) is not None:
            logits = self._logits(eqn, logarithm=any(step.sums for step in steps))
            if logits is not None:
                return self._again(steps, logits)
            if isinstance(eqn, ControlFlow):
                handed = self._handed_out(eqn, v)
                return self._again(steps, handed) if handed is not None else self._best(steps, best)
            apart = self._difference(eqn)
            if apart is not None:
                return self._again(steps, apart)
            step, source = self._step(eqn, v, curve)
            if step is None or source is None:
                break
            steps.append(step)
            v = source
            if curve.matters and not any(s.sums for s in steps):
                best = v, len(steps)
                curve = _Curve(self.facts)
        return self._best(steps, best)

    def _best(self, steps: list[_Step], best: tuple[Var, int] | None) -> Var | None:
        return None if best is None else self._again(steps[: best[1]], best[0])

    def _step(self, eqn: Equation, v: Var, curve: "_Curve") -> tuple[_Step | None, Var | None]:
        """Return the step back over an equation, and the variable that it leads to."""
        if eqn.row.pointwise and eqn.op is not Op.SELECT and not _is_labelled(eqn, self):
            source = self._source(eqn)
            if source is None or source.shape != v.shape:
                return None, None
            sign = curve.extend(source, v, self.definition)
            return (_Step(sign=sign), source) if sign else (None, None)
        if _is_labelled(eqn, self):
            k = next(k for k, x in enumerate(eqn.inputs) if x in self.dependent)
            return _Step(eqn, k, sums=True), eqn.inputs[k]
        if eqn.op is Op.SUM or (eqn.op is Op.DOT and self._is_weighted(eqn)):
            k = next(k for k, x in enumerate(eqn.inputs) if x in self.dependent)
            return _Step(eqn, k, sums=True), eqn.inputs[k]
        if eqn.op is Op.MAXIMUM or (eqn.row.moves and self._moves_one(eqn)):
            return _Step(eqn, eqn.data_operands[0]), eqn.data[0]
        return None, None

    def _moves_one(self, eqn: Equation) -> bool:
        """Tell whether nothing but one operand that depends on the inputs is moved."""
        return len(eqn.outputs) == 1 and len(eqn.data) == 1

    def _is_weighted(self, eqn: Equation) -> bool:
        """Tell whether one operand of a product depends on no input and is not negative: the weights of labels."""
        others = [v for v in eqn.inputs if v not in self.dependent]
        return len(others) == 1 and len(eqn.inputs) == 2 and self.facts.interval(others[0])[0] >= 0

    def _source(self, eqn: Equation) -> Var | None:
        """Return the nearest value that a pointwise equation's output is a function of, by numbers alone."""
        pending = {v for v in eqn.inputs if v in self.dependent}
        if any(v not in self.dependent and not self.facts[v].number for v in eqn.inputs):
            return None
        while len(pending) > 1:
            latest = max(pending, key=lambda v: self.position.get(v, -1))
            inner = self.definition.get(latest)
            if inner is None or not inner.row.pointwise or not jnp.issubdtype(inner.output.dtype, jnp.inexact):
                if inner is None or inner.output.dtype != bool or not inner.row.pointwise:
                    return None
            if any(v not in self.dependent and not self.facts[v].number for v in inner.inputs):
                return None
            pending.discard(latest)
            pending.update(v for v in inner.inputs if v in self.dependent)
        return next(iter(pending), None)

    def _logits(self, eqn: Equation, logarithm: bool) -> Var | None:
        """Return the logits of a softmax, or of its logarithm."""
        if eqn.op is Op.SOFTMAX:
            return None if logarithm else eqn.data[0]
        if eqn.op is Op.SUB and len(eqn.data) == 2:
            x, total = eqn.data
            made = self.definition.get(_unspread(total, self.definition))
            if made is not None and made.op is Op.LOG_SUM_EXP and made.data[0] is x:
                return x
        return None

    def _difference(self, eqn: Equation) -> Var | None:
        """Return log Σ exp(z) − z_y at −z_y, and a difference of such logarithms at that of their logits."""
        if eqn.op is not Op.SUB or len(eqn.data) != 2:
            return None
        total, other = eqn.data
        made = self.definition.get(_unspread(total, self.definition))
        if made is not None and made.op is Op.LOG_SUM_EXP and self._is_part_of(other, made.data[0]):
            return self._add("neg", [other], lambda x: [-x])
        if any(self._log_probability(v) is None for v in (total, other)):
            return None
        if self._log_probability(total) is not self._log_probability(other):
            return None
        a, b = self.score(total), self.score(other)
        return self._add("sub", [a, b], lambda x, y: [x - y]) if a is not None and b is not None else None

    def _log_probability(self, v: Var) -> Var | None:
        """Return the logits that a value is moved or picked from the log-softmax of."""
        while (eqn := self.definition.get(v)) is not None:
            if (logits := self._logits(eqn, logarithm=True)) is not None:
                return logits
            if not (eqn.row.moves and self._moves_one(eqn)):
                return None
            v = eqn.data[0]
        return None

    def _is_part_of(self, v: Var, whole: Var) -> bool:
        while v is not whole and (eqn := self.definition.get(v)) is not None:
            if not (eqn.row.moves and self._moves_one(eqn)):
                return False
            v = eqn.data[0]
        return v is whole

    def _add(self, name: str, inputs: Sequence[Var | None], function: object) -> Var:
        operands = tuple(v for v in inputs if v is not None)
        out = Var(operands[0].shape, operands[0].dtype)
        where = self.definition.get(operands[0])
        path, source = (where.path, where.source) if where is not None else ("", "")
        self.added.append(Added(named(name), operands, (out,), {}, path, source, None, function))  # type: ignore[arg-type]
        return out

    def _again(self, steps: Sequence[_Step], v: Var) -> Var:
        """Return what the steps make of another variable."""
        sign = math.prod(step.sign for step in steps)
        for step in reversed(steps):
            eqn = step.equation
            if eqn is None:
                continue
            out = Var(eqn.output.shape, v.dtype)
            inputs = tuple(v if k == step.operand else x for k, x in enumerate(eqn.inputs))
            self.added.append(replace(eqn, inputs=inputs, outputs=(out,)))
            v = out
        return v if sign > 0 else self._add("neg", [v], lambda x: [-x])

    def _handed_out(self, eqn: ControlFlow, v: Var) -> Var | None:
        found = _handing_out(self.wider.get(eqn, eqn), eqn, self.facts, self.dependent, eqn.outputs.index(v))
        if found is None:
            return None
        self.wider[eqn] = found
        return found.outputs[-1]


def _is_labelled(eqn: Equation, search: _Search) -> bool:
    """Tell a product of a value with weights that depend on no input, as of a label's cross-entropy."""
    return eqn.op is Op.MUL and search._is_weighted(eqn) and not any(search.facts[v].number for v in eqn.inputs)


def _unspread(v: Var, definition: dict[Var, Equation]) -> Var:
    """Return a value before axes were added to it."""
    while (eqn := definition.get(v)) is not None and eqn.op in (Op.BROADCAST, Op.RESHAPE, Op.SQUEEZE, Op.CAST):
        v = eqn.data[0]
    return v


class _Curve:
    """A function of one variable, as far as it has been followed back."""

    def __init__(self, facts: Facts):
        self.facts = facts
        self.parts: list[list[Equation]] = []  # from the last to the first
        self.sources: list[tuple[Var, Var]] = []
        self.matters = False

    def extend(self, source: Var, sink: Var, definition: dict[Var, Equation]) -> int:
        """Go on to `source`; return 1 if the value at `sink` rises with it, −1 if it falls, 0 for neither."""
        part = _between(source, sink, definition)
        self.parts.append(part)
        self.sources.append((source, sink))
        interval = self.facts.interval(source)
        values = [_value(self.facts, part, source, sink, x) for x in _grid(interval)]
        known = [v for v in values if v is not None and not math.isnan(v)]
        sign = _direction(known) if len(known) > len(values) // 3 else int(len(part) == 1 and part[0].row.rising)
        bends = any(eqn.row.bends for part in self.parts for eqn in part)
        self.matters = bool(sign) and bends and self._at_zero() != 0
        return sign

    def _at_zero(self) -> float:
        value: float | None = 0.0
        for part, (source, sink) in zip(reversed(self.parts), reversed(self.sources), strict=True):
            value = None if value is None else _value(self.facts, part, source, sink, value)
        return 0.0 if value is None else value


def _between(source: Var, sink: Var, definition: dict[Var, Equation]) -> list[Equation]:
    found: dict[Equation, None] = {}
    pending = [sink]
    while pending:
        v = pending.pop()
        eqn = definition.get(v)
        if v is source or eqn is None or not eqn.row.pointwise:
            continue
        found.pop(eqn, None)  # so that it comes before all that reads it
        found[eqn] = None
        pending += eqn.inputs
    return list(reversed(found))


def _grid(interval: Interval) -> list[float]:
    low, high = max(interval[0], -20.0), min(interval[1], 20.0)
    return [low + (high - low) * k / 40 for k in range(41)]


def _value(facts: Facts, part: Sequence[Equation], source: Var, sink: Var, x: float) -> float | None:
    """Return the value of a function at a number, by the arithmetic of intervals that hold that number alone."""
    known: dict[Var, Interval] = {source: (x, x)}
    for eqn in part:
        operands = [known.get(v, _number(facts, v)) for v in eqn.inputs]
        if eqn.row.interval is None or any(o is None for o in operands):
            return None
        known[eqn.output] = eqn.row.interval(eqn, 0, operands)  # type: ignore[arg-type]
    low, high = known.get(sink, (0.0, 1.0))
    return low if low == high else None


def _number(facts: Facts, v: Var) -> Interval | None:
    return facts.interval(v) if facts[v].number else None


def _direction(values: Sequence[float]) -> int:
    steps = [b - a for a, b in zip(values, values[1:], strict=False)]
    slack = 1e-12 * max(map(abs, values), default=0)
    if not any(abs(s) > slack for s in steps):
        return 0
    return 1 if all(s >= -slack for s in steps) else -1 if all(s <= slack for s in steps) else 0


def _handing_out(
    eqn: ControlFlow, original: ControlFlow, facts: Facts, dependent: set[Var], k: int
) -> ControlFlow | None:
    """Return control flow with one more output, what its k-th is explained at; None if that is itself in some body."""
    bodies, made = [], []
    for body in eqn.bodies:
        if k not in body.results or body.results.index(k) in dict(body.carried):
            return None
        place = body.results.index(k)
        own = body.program.outputs[place]
        program, (score,) = _at_score(body.program, facts, dependent, [own])
        if score is own:
            return None
        program = replace(program, outputs=(*program.outputs, score))
        stacked = {len(body.results)} if place in body.stacked else set()
        results = (*body.results, len(eqn.outputs))
        bodies.append(replace(body, program=program, results=results, stacked=body.stacked | stacked))
        made.append((score.shape, score.dtype))
    if len(set(made)) != 1:
        return None
    params = dict(eqn.params)
    if "out_specs" in params:
        params["out_specs"] = (*params["out_specs"], params["out_specs"][k])
    handed = Var(eqn.outputs[k].shape, made[0][1])
    return replace(eqn, outputs=(*eqn.outputs, handed), params=params, bodies=tuple(bodies))
