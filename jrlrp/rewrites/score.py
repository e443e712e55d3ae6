"""The score that is explained: a network's last increasing function is no part of what it has learnt.

A final softmax or sigmoid is explained at its logits, and so is what is monotone in one: a logarithm, a clip, an index
or a negation after it, a label's cross-entropy. Any other last increasing function that is not 0 at 0 is explained at
its argument: exp, softplus, 1 + tanh. A decreasing one is explained at its argument's negative.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp

from jrlrp.analyses.activity import dependent_on
from jrlrp.analyses.facts import Facts
from jrlrp.primitives.axes import image
from jrlrp.primitives.row import Axis, Op
from jrlrp.primitives.table import named
from jrlrp.rewrites.curves import Curve, between, one_source
from jrlrp.rewrites.labels import Labels
from jrlrp.trace import compat
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.groups import Axes, Group
from jrlrp.trace.program import Added, Equation, Literal, Program, Var

_FUNCTIONS: Mapping[Op, Callable] = {Op.NEG: operator.neg, Op.SUB: operator.sub, Op.MUL: operator.mul}


def explain_at_score(program: Program, explained: int) -> tuple[Program, tuple[Var, ...]]:
    """Return the variables that the first `explained` outputs are explained at, and the program that makes them."""
    dependent = dependent_on(program, program.inputs)
    return compat.with_numbers(lambda: _at_score(program, Facts(program), dependent, program.outputs[:explained]))


def _at_score(
    program: Program, facts: Facts, dependent: set[Var], wanted: Iterable[Var], mixed: bool = False
) -> tuple[Program, tuple[Var, ...]]:
    search = _Search(program, facts, dependent)
    outputs = tuple(search.score(v, mixed) or v for v in wanted)
    equations = (*(search.wider.get(eqn, eqn) for eqn in program.equations), *search.added)
    return replace(program, equations=equations), outputs


@dataclass(frozen=True)
class _Step:
    """A step from an output back, over an equation one operand of which goes on, or over a function of one value.

    Attributes:
      source: the value that it leads to.
      equation: the equation; None for a function.
      sign: of the function; `label`: what turns it from that sign (at 0) to the other (at 1).
      weights: what the equation multiplies by; `sums`: whether it adds several terms.
      mixes: whether it makes one value of several, so that only logarithms of probabilities are explained before it.
      logarithm: whether it takes one.
    """

    source: Var
    equation: Equation | None = None
    operand: int = 0
    place: int = 0
    sign: int = 1
    label: Var | None = None
    weights: Var | None = None
    sums: bool = False
    mixes: bool = False
    logarithm: bool = False


class _Search:
    """The search for the score of a program's or a body's output.

    `added` are the equations that make scores; `wider` is control flow that hands out one more value each; `picking`
    are products with weights that leave one entry.
    """

    def __init__(self, program: Program, facts: Facts, dependent: set[Var]):
        self.definition, self.facts, self.dependent = program.definition, facts, dependent
        self.labels = Labels(program, facts, dependent)
        self.position = {v: k for k, v in enumerate(self.definition)}
        self.added: list[Equation] = []
        self.wider: dict[Equation, ControlFlow] = {}
        self.picking: set[Equation] = set()

    def score(self, v: Var, mixed: bool = False) -> Var | None:
        """Return the variable that an output is explained at; None if that is the output itself.

        With `mixed`, only logarithms of probabilities are explained at their logits.
        """
        steps: list[_Step] = []
        curve, best, scaled = Curve(), 0, False
        while (eqn := self.definition.get(v)) is not None:
            if (logits := self._at_logits(eqn, steps, mixed)) is not None:
                return logits
            if isinstance(eqn, ControlFlow):
                handed = self._handed_out(eqn, v, mixed)
                return self._again(steps, handed if handed is not None else v, best if handed is None else None)
            step = self._step(eqn, v, curve)
            if step is None:
                break
            steps.append(step)
            mixed = step.mixes or (mixed and not step.logarithm)
            if step.equation is None and not (mixed and step.label is None):
                scaled = scaled and curve.scales and not self._is_mean(step.source)
                if curve.matters or scaled:
                    best, scaled, curve = len(steps), True, Curve()
            v = step.source
        return self._again(steps, v, best)

    def _is_mean(self, v: Var) -> bool:
        """Tell whether a value is a sum, so that a number's multiple of it is a mean."""
        eqn = self.definition.get(self.labels.core(v))
        return eqn is not None and eqn.row.kind == "average_pool"

    def _step(self, eqn: Equation, v: Var, curve: Curve) -> _Step | None:
        """Return the step back over an equation, None if no one value goes on there."""
        if (step := self._function(eqn, v, curve)) is not None:
            return step
        if (weighted := self.labels.weights(eqn)) is not None:
            k, weights = weighted
            if eqn.op is Op.DOT:
                mixes = not self.labels.picks(weights, eqn.params["dimension_numbers"][0][1 - k])
                return _Step(eqn.inputs[k], eqn, k, weights=weights, sums=True, mixes=mixes)
            return _Step(eqn.inputs[k], eqn, k, weights=weights, mixes=eqn not in self.picking)
        if eqn.op is Op.SUM:
            (x,) = eqn.data
            made = self.definition.get(self.labels.uncast(x))
            inner = self.labels.weights(made) if made is not None and made.op is not Op.DOT else None
            if made is not None and inner is not None and self.labels.picks(inner[1], eqn.params["axes"]):
                self.picking.add(made)
                return _Step(x, eqn, sums=True)
            return _Step(x, eqn, sums=True, mixes=True)
        if eqn.op in (Op.MAXIMUM, Op.MINIMUM) or (eqn.row.moves and len(eqn.data) == 1):
            k = eqn.data_operands[0]
            return _Step(eqn.inputs[k], eqn, k, eqn.outputs.index(v))
        return None

    def _function(self, eqn: Equation, v: Var, curve: Curve) -> _Step | None:
        """Return the step back over an increasing or decreasing function of one value."""
        found = one_source(eqn, v, self.definition, self.position, self.facts, self.dependent)
        if found is None:
            return None
        source, labels = found
        if len(labels) > 1 and not self.labels.are_opposite(*labels):
            return None
        part = between(source, v, self.definition)
        if part == [eqn] and eqn.op in (Op.DIV, Op.MUL) and self._is_mean(source):
            return _Step(source, eqn, eqn.inputs.index(source))
        sign = curve.extend(part, source, v, labels, self.facts)
        logarithm = any(e.op in (Op.LOG, Op.LOG1P) for e in part)
        return _Step(source, sign=sign, label=labels[0] if labels else None, logarithm=logarithm) if sign else None

    def _at_logits(self, eqn: Equation, steps: Sequence[_Step], mixed: bool) -> Var | None:
        """Return the score if an equation makes probabilities, their logarithms, or a difference of logarithms."""
        found: tuple[Var, Group | None, int] | None = None
        if eqn.op is Op.SOFTMAX:
            found = None if mixed else (eqn.data[0], eqn.params["group"], 1)
        elif eqn.op is Op.SUB:
            found = self._log_probability(eqn)
        if found is not None:
            logits, group, sign = found
            return self._again(steps, logits, sign=sign) if self._is_of_a_label(steps, group, sign) else None
        terms = self._difference(eqn)
        return None if terms is None else self._again(steps, self._add("sub", terms))

    def _log_probability(self, eqn: Equation) -> tuple[Var, Group | None, int] | None:
        """Return the logits that an equation takes a log-sum-exp from, or one of them that was picked; and the sign."""
        for x, total in (eqn.inputs, eqn.inputs[::-1]):
            sign = 1 if x is eqn.inputs[0] else -1
            made = self.definition.get(self.labels.core(total))
            if made is not None and made.op is Op.LOG_SUM_EXP and len(made.data) == 1:
                whole = made.data[0]
                if self.labels.same(x, whole):
                    group = made.params["group"]
                    beside = not isinstance(group, Axes) or not self.facts.varying(total) & group.dims
                    return (x, group, sign) if beside else None
                if self.labels.is_part_of(x, whole):
                    return x, None, sign
        return None

    def _difference(self, eqn: Equation) -> list[Var] | None:
        """Return the logits of two probabilities of one softmax whose logarithms are subtracted, or whose ratio is."""
        ratio = self.definition.get(self.labels.uncast(eqn.data[0])) if eqn.op is Op.LOG else None
        if eqn.op is Op.SUB:
            pair, logarithm = eqn.inputs, True
        elif ratio is not None and ratio.op is Op.DIV:
            pair, logarithm = ratio.inputs, False
        else:
            return None
        first, second = (self._softmax_of(v, logarithm) for v in pair)
        if first is None or second is None or not self.labels.same(first, second):
            return None
        scores = [self.score(v) for v in pair]
        return [v for v in scores if v is not None] if None not in scores else None

    def _softmax_of(self, v: Var, logarithm: bool) -> Var | None:
        """Return the logits that a value is moved or picked from the softmax (or the logarithm of that) of."""
        while (eqn := self.definition.get(v)) is not None:
            if eqn.op is Op.SUB and logarithm and (found := self._log_probability(eqn)) is not None:
                return found[0] if found[1] is not None and found[2] > 0 else None
            if eqn.op is Op.SOFTMAX:
                return None if logarithm else eqn.data[0]
            if eqn.op is Op.LOG and logarithm:
                logarithm = False
            elif eqn.op is not Op.CAST and not (eqn.row.moves and len(eqn.data) == 1):
                return None
            v = eqn.data[0]
        return None

    def _is_of_a_label(self, steps: Sequence[_Step], group: Group | None, sign: int) -> bool:
        """Tell whether no sum goes over the classes of a softmax but by weights of labels.

        Weights of which nothing is known are those of labels if the output falls as the probabilities rise: a loss.
        """
        classes = [Axis(d, 0) for d in group.dims] if isinstance(group, Axes) else []
        weighted = unknown = False
        for step in reversed(steps):
            sign *= step.sign
            eqn = step.equation
            if step.weights is not None:
                weighted = True
                unknown = unknown or (self.facts.interval(step.weights)[0] < 0 and step.mixes)
            if eqn is None:
                continue
            shape = eqn.inputs[step.operand].shape
            there = [image(eqn, step.operand, replace(axis, size=shape[axis.dim])) for axis in classes]
            if step.sums and not weighted and None in there:
                return False
            classes = [axis for axis in there if axis is not None and axis.is_whole]
        return not unknown or sign < 0

    def _add(self, name: str, operands: Sequence[Var]) -> Var:
        """Return what an operation makes of values, by a new equation."""
        like = next(v for v in operands if not isinstance(v, Literal))
        out = Var(like.shape, like.dtype)
        near = self.definition.get(like)
        path, source = (near.path, near.source) if near is not None else ("", "")
        row = named(name)
        run = lambda *x: [_FUNCTIONS[row.op](*(jnp.asarray(v, out.dtype) for v in x))]
        self.added.append(Added(row, tuple(operands), (out,), {}, path, source, None, run))
        return out

    def _turned(self, v: Var, step: _Step) -> Var:
        """Return a value with the sign that its label gives it: 1 − 2y times it."""
        assert step.label is not None
        label = self._add("mul", [step.label, Literal(2, step.label.dtype)])
        turn = self._add("sub", [Literal(1, label.dtype), label])
        return self._add("mul", [v, turn])

    def _again(self, steps: Sequence[_Step], v: Var, count: int | None = None, sign: int = 1) -> Var | None:
        """Return what the first `count` steps make of their source, or all of them of another variable."""
        if count == 0:
            return None
        if count is not None:
            steps = steps[:count]
            v = steps[-1].source
        for step in reversed(steps):
            sign *= step.sign
            eqn = step.equation
            if eqn is None:
                v = v if step.label is None else self._turned(v, step)
                continue
            if eqn.row.bends and sign < 0:  # the highest of negatives is not the highest's negative
                v, sign = self._add("neg", [v]), 1
            outputs = tuple(Var(out.shape, v.dtype) for out in eqn.outputs)
            inputs = tuple(v if k == step.operand else x for k, x in enumerate(eqn.inputs))
            self.added.append(eqn.again(inputs, outputs))
            v = outputs[step.place]
        return v if sign > 0 else self._add("neg", [v])

    def _handed_out(self, eqn: ControlFlow, v: Var, mixed: bool) -> Var | None:
        wider = self.wider.get(eqn, eqn)
        found = _handing_out(wider, self.facts, self.dependent, eqn.outputs.index(v), mixed)
        if found is None:
            return None
        self.wider[eqn] = found
        return found.outputs[-1]


def _handing_out(eqn: ControlFlow, facts: Facts, dependent: set[Var], k: int, mixed: bool) -> ControlFlow | None:
    """Return control flow with one more output, what its k-th is explained at; None if that is itself in some body."""
    bodies, made = [], []
    for body in eqn.bodies:
        if k not in body.results or body.results.index(k) in dict(body.carried):
            return None
        place = body.results.index(k)
        own = body.program.outputs[place]
        program, (score,) = _at_score(body.program, facts, dependent, [own], mixed)
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
