"""What is known of every value before anything runs: its range, where it varies, whether it is a single scalar."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from jrlrp.graph.axes import varying_along, varying_anywhere
from jrlrp.graph.kinds import is_pointwise
from jrlrp.graph.patterns import SoftmaxFinder, SoftmaxMatch
from jrlrp.graph.ranges import Range, intersection, range_of, range_of_dtype, range_of_literal, union, widened
from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.program import Equation, Literal, Program, Var

# Primitives that make a constant out of constants: a value that does not vary stays so.
_CONSTANCY = frozenset(
    """broadcast_in_dim reshape transpose squeeze slice dynamic_slice rev reduce_max reduce_min reduce_sum
    pvary pcast pbroadcast mesh_cast reshard layout_constraint""".split()
)


@dataclass(frozen=True)
class Fact:
    """What is known of one variable.

    Attributes:
      range: the interval that its entries lie in.
      varying: the dimensions along which they may differ.
      scalar: whether all of them are those of a value of shape (). An array with one entry is an array, like the bias
        of a layer with one unit.
      number: whether that scalar is a number that stands in the program.
    """

    range: Range
    varying: frozenset[int]
    scalar: bool = False
    number: bool = False

    def joined(self, other: "Fact") -> "Fact":
        """Return what holds of both."""
        flags = self.scalar and other.scalar, self.number and other.number
        return Fact(union(self.range, other.range), self.varying | other.varying, *flags)

    def slices(self, v: Var) -> "Fact":
        """Return the fact of slices `v` along the leading axis."""
        return replace(self, varying=frozenset(d - 1 for d in self.varying if d), scalar=self.scalar or not v.shape)

    def stack(self) -> "Fact":
        """Return the fact of a stack of such slices."""
        return Fact(self.range, frozenset({0, *(d + 1 for d in self.varying)}), self.number, self.number)


class Facts:
    """The facts of a program's variables, the softmaxes in it, and the facts of the bodies of its control flow."""

    def __init__(self, program: Program, inputs: Mapping[Var, Fact] = MappingProxyType({})):
        """Go through the program once, with what is known of its inputs."""
        self._of = {v: inputs.get(v) or _unknown(v) for v in (*program.inputs, *program.constants)}
        self.bodies: dict[Body, Facts] = {}
        self.definition = {v: eqn for eqn in program.equations for v in eqn.outputs}
        self.softmaxes: list[SoftmaxMatch] = []
        finder = SoftmaxFinder(self.definition, self.varying)
        for eqn in program.equations:
            if isinstance(eqn, ControlFlow):
                self._of.update(zip(eqn.outputs, self._control(eqn), strict=True))
                continue
            self._of.update({out: self._made(eqn, k) for k, out in enumerate(eqn.outputs)})
            if (match := finder.match(eqn)) is not None:
                self.softmaxes.append(match)
                if not match.log:
                    self._of[match.output] = replace(self._of[match.output], range=(0.0, 1.0))

    def __getitem__(self, v: Var) -> Fact:
        if isinstance(v, Literal):
            return Fact(range_of_literal(v), frozenset(), True, True)
        return self._of[v]

    def varying(self, v: Var) -> frozenset[int]:
        return self[v].varying

    def _made(self, eqn: Equation, k: int) -> Fact:
        """Return the fact of an equation's k-th output."""
        out, known = eqn.outputs[k], [self[v] for v in eqn.inputs]
        steady = is_pointwise(eqn) or eqn.primitive in _CONSTANCY
        number = steady and bool(known) and all(fact.number for fact in known)
        scalar = not out.shape or (steady and bool(known) and all(fact.scalar for fact in known))
        varying = varying_along(eqn, [fact.varying for fact in known]) if steady else None
        if eqn.primitive == "iota":
            varying = frozenset([eqn.params["dimension"]])
        everywhere = varying_anywhere(out)
        where = everywhere if varying is None else varying & everywhere
        interval = intersection(range_of(eqn, [fact.range for fact in known], k), range_of_dtype(out))
        return Fact(interval, where, scalar, number)

    def _control(self, eqn: ControlFlow) -> list[Fact]:
        """Return the facts of the outputs of control flow, and keep those of its bodies."""
        found: dict[int, list[Fact]] = {k: [] for k in range(len(eqn.outputs))}
        for body in eqn.bodies:
            inputs = self._fixpoint(eqn, body)
            inner, carried = self.bodies[body], dict(body.carried)
            for k, result in enumerate(body.results):
                if result is not None:
                    fact = inputs[carried[k]] if k in carried else inner[body.program.outputs[k]]
                    found[result].append(fact.stack() if k in body.stacked else fact)
        return [_joined(found[k]) for k in range(len(eqn.outputs))]

    def _fixpoint(self, eqn: ControlFlow, body: Body) -> list[Fact]:
        """Return facts of the body's inputs that hold in every turn."""
        variables = body.program.inputs
        inputs = [self[eqn.inputs[k]] for k in body.operands]
        inputs = [
            f.slices(v) if k in body.sliced else f for k, (f, v) in enumerate(zip(inputs, variables, strict=True))
        ]
        for turn in itertools.count():
            inner = Facts(body.program, dict(zip(variables, inputs, strict=True)))
            later = list(inputs)
            for k, start in body.carried:
                later[start] = inputs[start].joined(inner[body.program.outputs[k]])
            if later == inputs:
                break
            if turn >= 2:  # what still grows will go on growing
                ranges = (widened(old.range, new.range) for old, new in zip(inputs, later, strict=True))
                later = [replace(fact, range=interval) for fact, interval in zip(later, ranges, strict=True)]
            inputs = later
        self.bodies[body] = inner
        return inputs


def _unknown(v: Var) -> Fact:
    return Fact(range_of_dtype(v), varying_anywhere(v), not v.shape)


def _joined(facts: Sequence[Fact]) -> Fact:
    first, *rest = facts
    for fact in rest:
        first = first.joined(fact)
    return first
