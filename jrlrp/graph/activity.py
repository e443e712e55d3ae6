"""Which variables carry relevance: those that depend on an explained input and reach the explained output."""

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import jax.numpy as jnp

from jrlrp.graph.facts import Facts
from jrlrp.graph.kinds import meaning_of
from jrlrp.graph.ranges import Range
from jrlrp.trace.control import Body, ControlFlow, over_turns
from jrlrp.trace.program import Equation, Program, Var


@dataclass(frozen=True, eq=False)
class Flow:
    """A program and what is known of its variables before its equations are grouped into nodes.

    Attributes:
      explained: the inputs (or carriers of inputs) that relevance is wanted for.
      outputs: the variables that relevance starts from.
      live: the equations that reach `outputs`, in order.
      active: the variables that carry relevance.
      ended: the equations at which relevance ends: they read a value that could carry it, and make none that can.
      dependent: the variables whose values depend on the explained inputs, whether or not they carry relevance.
      definition, uses: the equation that makes a variable; the active equations that hand it relevance.
      facts: what is known of the values, and the softmaxes found.
    """

    program: Program
    explained: tuple[Var, ...]
    outputs: tuple[Var, ...]
    live: tuple[Equation, ...]
    active: frozenset[Var]
    ended: tuple[Equation, ...]
    dependent: frozenset[Var]
    definition: dict[Var, Equation] = field(repr=False)
    uses: dict[Var, list[Equation]] = field(repr=False)
    facts: Facts = field(repr=False)

    def range(self, v: Var) -> Range:
        return self.facts[v].range

    def active_inputs(self, eqn: Equation) -> list[Var]:
        return [v for v in eqn.inputs if v in self.active]

    def only_use(self, v: Var) -> Equation | None:
        """Return the equation that alone takes the variable's relevance, or None if there are several or none."""
        uses = self.uses.get(v, ())
        return uses[0] if len(uses) == 1 and v not in self.outputs else None

    def region(self, sink: Var, source: Var) -> list[Equation] | None:
        """Return the active equations between two variables, if relevance can enter and leave nowhere else."""
        found: set[Equation] = set()
        pending = [sink]
        while pending:
            v = pending.pop()
            eqn = self.definition.get(v)
            if v is source or eqn in found:
                continue
            if eqn is None:
                return None
            found.add(eqn)
            pending.extend(self.active_inputs(eqn))
        inner = {v for eqn in found for v in eqn.outputs if v is not sink and v in self.active}
        if any(v in self.outputs or not found.issuperset(self.uses[v]) for v in inner):
            return None
        return self.order(found)

    def order(self, equations: Iterable[Equation]) -> list[Equation]:
        return sorted(equations, key=self.position.__getitem__)

    @cached_property
    def position(self) -> dict[Equation, int]:
        return {eqn: k for k, eqn in enumerate(self.program.equations)}


def is_float(v: Var) -> bool:
    return jnp.issubdtype(v.dtype, jnp.inexact)


def ends_relevance(eqn: Equation) -> bool:
    return meaning_of(eqn) == "ends"


def depending(equations: Iterable[Equation], start: Iterable[Var], ended: bool) -> set[Var]:
    """Return what depends on `start`; with `ended`, only what relevance can come back from."""
    reached = set(start)
    for eqn in equations:
        if not reached.intersection(eqn.inputs) or (ended and ends_relevance(eqn)):
            continue
        outputs = set(eqn.outputs) if not isinstance(eqn, ControlFlow) else _outputs_reached(eqn, reached, ended)
        reached.update(v for v in outputs if not ended or is_float(v))
    return reached


def reaching(equations: Sequence[Equation], end: Iterable[Var], ended: bool) -> set[Var]:
    """Return what `end` depends on; with `ended`, only what its relevance can come to."""
    useful = set(end)
    for eqn in reversed(equations):
        if not useful.intersection(eqn.outputs) or (ended and ends_relevance(eqn)):
            continue
        inputs = set(eqn.inputs) if not isinstance(eqn, ControlFlow) else _operands_useful(eqn, useful, ended)
        useful.update(v for v in inputs if not ended or is_float(v))
    return useful


def reached_inside(eqn: ControlFlow, body: Body, reached: Container[Var], ended: bool) -> tuple[set[Var], set[Var]]:
    """Return which inputs of a body, and what of all in it, depend on what is `reached` outside, in some turn."""
    start = {v for outside, v in eqn.entries(body) if outside in reached}
    return over_turns(start, body.repeats, lambda start: depending(body.program.equations, start, ended))


def useful_inside(eqn: ControlFlow, body: Body, useful: Container[Var], ended: bool) -> tuple[set[Var], set[Var]]:
    """Return on which outputs of a body, and what of all in it, something `useful` outside depends, in some turn."""
    end = {v for outside, v in eqn.exits(body) if outside in useful}
    back = [(v, output) for output, v in body.repeats]
    return over_turns(end, back, lambda end: reaching(body.program.equations, end, ended))


def _outputs_reached(eqn: ControlFlow, reached: Container[Var], ended: bool) -> set[Var]:
    found = set()
    for body in eqn.bodies:
        start, inside = reached_inside(eqn, body, reached, ended)
        inside |= {output for output, v in body.repeats if v in start}  # a loop may make no turn
        found |= {outside for outside, v in eqn.exits(body) if v in inside}
    return found


def _operands_useful(eqn: ControlFlow, useful: Container[Var], ended: bool) -> set[Var]:
    if not ended and eqn.primitive == "while":
        return set(eqn.inputs)
    found = set() if ended else {v for v in eqn.inputs[:1] if eqn.primitive == "cond"}  # which branch to take
    for body in eqn.bodies:
        if body.results == (None,):  # the test of a while loop hands nothing back
            continue
        end, inside = useful_inside(eqn, body, useful, ended)
        inside |= {v for output, v in body.repeats if output in end}  # a loop may make no turn
        found |= {outside for outside, v in eqn.entries(body) if v in inside}
    return found


def live_equations(program: Program, outputs: Iterable[Var]) -> tuple[Equation, ...]:
    """Return the equations that some of `outputs` depend on, in order."""
    needed = reaching(program.equations, outputs, ended=False)
    return tuple(eqn for eqn in program.equations if needed.intersection(eqn.outputs))


def analyse(
    program: Program, explained: Sequence[Var], outputs: Sequence[Var], ids: frozenset[Var], facts: Facts
) -> Flow:
    """Find what carries relevance from `outputs` to `explained`; `ids` are the integers that have a carrier."""
    live = live_equations(program, outputs)
    carrying = depending(live, explained, ended=True)
    active = frozenset(carrying & reaching(live, outputs, ended=True))
    uses: dict[Var, list[Equation]] = defaultdict(list)
    for eqn in live:
        if active.intersection(eqn.outputs) and not ends_relevance(eqn):
            for v in dict.fromkeys(eqn.inputs):
                if v in active:
                    uses[v].append(eqn)
    able = carrying | ids
    return Flow(
        program=program,
        explained=tuple(explained),
        outputs=tuple(outputs),
        live=live,
        active=active,
        ended=tuple(eqn for eqn in live if able.intersection(eqn.inputs) and not able.intersection(eqn.outputs)),
        dependent=frozenset(depending(program.equations, explained, ended=False)),
        definition=facts.definition,
        uses=uses,
        facts=facts,
    )
