"""Which variables carry relevance: those that depend on an explained input and reach the explained output."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import jax.numpy as jnp

from jrlrp.graph.axes import uniform_values, varying_axes
from jrlrp.graph.kinds import meaning_of
from jrlrp.graph.patterns import SoftmaxFinder, SoftmaxMatch
from jrlrp.graph.ranges import Range, value_ranges
from jrlrp.trace.inline import Equation, Literal, Program, Var


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
      softmaxes: the softmaxes and log-softmaxes found.
      ranges, varying: of every variable, its interval and the dimensions along which it may vary.
      uniform, numbers: the variables that are one scalar throughout; those of them that are numbers in the program.
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
    softmaxes: tuple[SoftmaxMatch, ...]
    ranges: dict[Var, Range] = field(repr=False)
    varying: dict[Var, frozenset[int]] = field(repr=False)
    uniform: set[Var] = field(repr=False)
    numbers: set[Var] = field(repr=False)

    def range(self, v: Var) -> Range:
        return (float(v.value), float(v.value)) if isinstance(v, Literal) else self.ranges[v]

    def is_scalar(self, v: Var) -> bool:
        """Tell whether all entries of a variable are those of one scalar."""
        return isinstance(v, Literal) or v in self.uniform

    def is_number(self, v: Var) -> bool:
        """Tell whether a variable is a number that stands in the program, in whatever shape."""
        return isinstance(v, Literal) or v in self.numbers

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


def live_equations(program: Program, outputs: Iterable[Var]) -> tuple[Equation, ...]:
    """Return the equations that some of `outputs` depend on, in order."""
    needed = set(outputs)
    live = []
    for eqn in reversed(program.equations):
        if needed.intersection(eqn.outputs):
            live.append(eqn)
            needed.update(eqn.inputs)
    return tuple(reversed(live))


def depending(equations: Iterable[Equation], start: Iterable[Var], ended: bool) -> set[Var]:
    """Return what depends on `start`; with `ended`, only what relevance can come back from."""
    reached = set(start)
    for eqn in equations:
        if reached.intersection(eqn.inputs) and not (ended and ends_relevance(eqn)):
            reached.update(v for v in eqn.outputs if not ended or is_float(v))
    return reached


def analyse(program: Program, explained: Sequence[Var], outputs: Sequence[Var], ids: frozenset[Var]) -> Flow:
    """Find what carries relevance from `outputs` to `explained`; `ids` are the integers that have a carrier."""
    live = live_equations(program, outputs)
    carrying = depending(live, explained, ended=True)
    useful = set(outputs)
    for eqn in reversed(live):
        if useful.intersection(eqn.outputs) and not ends_relevance(eqn):
            useful.update(v for v in eqn.inputs if v in carrying)
    active = frozenset(carrying & useful)
    uses: dict[Var, list[Equation]] = defaultdict(list)
    for eqn in live:
        if active.intersection(eqn.outputs) and not ends_relevance(eqn):
            for v in dict.fromkeys(eqn.inputs):
                if v in active:
                    uses[v].append(eqn)
    able = carrying | ids
    definition = {v: eqn for eqn in program.equations for v in eqn.outputs}
    varying = varying_axes(program)
    uniform, numbers = uniform_values(program)
    finder = SoftmaxFinder(definition, varying)
    softmaxes = [match for eqn in live if (match := finder.match(eqn)) is not None]
    return Flow(
        program=program,
        explained=tuple(explained),
        outputs=tuple(outputs),
        live=live,
        active=active,
        ended=tuple(eqn for eqn in live if able.intersection(eqn.inputs) and not able.intersection(eqn.outputs)),
        dependent=frozenset(depending(program.equations, explained, ended=False)),
        definition=definition,
        uses=uses,
        softmaxes=tuple(softmaxes),
        ranges=value_ranges(program, {match.output: (0.0, 1.0) for match in softmaxes if not match.log}),
        varying=varying,
        uniform=uniform,
        numbers=numbers,
    )
