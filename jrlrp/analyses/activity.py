"""Which variables carry relevance: those that depend on an explained input and reach the explained output."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from jrlrp.analyses.facts import Facts
from jrlrp.primitives.intervals import Interval
from jrlrp.primitives.row import Op
from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.program import Equation, Program, Var
from jrlrp.trace.walk import Walk


def is_float(v: Var) -> bool:
    return jnp.issubdtype(v.dtype, jnp.inexact)


def ends_relevance(eqn: Equation) -> bool:
    return eqn.row.kind == "ends" and eqn.rule is None


class _Reach(Walk[bool]):
    """What depends on a start; with `ended`, only what relevance can come back from."""

    def __init__(self, ended: bool):
        super().__init__()
        self.ended = ended

    def _passes(self, v: Var) -> bool:
        return not self.ended or is_float(v)

    def _operands(self, eqn: Equation) -> Sequence[Var]:
        return eqn.data if self.ended and eqn.rule is None else eqn.inputs

    def made(self, step: Equation, values: Mapping[Var, bool]) -> Iterable[tuple[Var, bool]]:
        if (self.ended and ends_relevance(step)) or not any(v in values for v in self._operands(step)):
            return ()
        return [(v, True) for v in step.outputs if self._passes(v)]

    def enter(self, flow: ControlFlow, body: Body, k: int, value: bool | None, inner: Var) -> bool | None:
        return value if self._passes(inner) else None

    def leave(self, flow: ControlFlow, body: Body, k: int, value: bool | None, outer: Var) -> bool | None:
        return value if self._passes(outer) else None


class _Use(_Reach):
    """What an end depends on; with `ended`, only what relevance of it can come to."""

    forward = False

    def made(self, step: Equation, values: Mapping[Var, bool]) -> Iterable[tuple[Var, bool]]:
        if (self.ended and ends_relevance(step)) or not any(v in values for v in step.outputs):
            return ()
        return [(v, True) for v in self._operands(step) if self._passes(v)]

    def control(self, step: Any) -> ControlFlow | None:
        # How often a loop runs depends on all that it reads.
        return None if not self.ended and step.op is Op.WHILE else super().control(step)

    def through(self, step: Any, flow: ControlFlow, values: Mapping[Var, bool]) -> Iterable[tuple[Var, bool]]:
        found = list(super().through(step, flow, values))
        chosen = not self.ended and flow.op is Op.COND and any(v in values for v in flow.outputs)
        return [*found, (flow.inputs[0], True)] if chosen else found


def _set_of(walk: Walk[bool], program: Program, start: Iterable[Var]) -> set[Var]:
    walk.over(program.equations, dict.fromkeys(start, True))
    return set(walk.values)


def dependent_on(program: Program, start: Iterable[Var]) -> set[Var]:
    """Return all variables whose values depend on `start`, those of bodies too."""
    return _set_of(_Reach(ended=False), program, start)


def needed_for(program: Program, end: Iterable[Var]) -> set[Var]:
    """Return all variables that `end` depends on, those of bodies too."""
    return _set_of(_Use(ended=False), program, end)


@dataclass(frozen=True, eq=False)
class Activity:
    """What is known of the variables of a program, those of all bodies too, with regard to relevance.

    Attributes:
      needed: the variables that the explained outputs depend on.
      carrying: those that relevance could come back from; `active`: those of them that it reaches.
      dependent: those whose values depend on the explained inputs, whether or not they carry relevance.
      ids: the integers that have a carrier.
      starts, ends: at which inputs (outputs) of a body relevance ends (begins).
    """

    needed: set[Var]
    carrying: set[Var]
    active: frozenset[Var]
    dependent: frozenset[Var]
    ids: frozenset[Var]
    starts: Mapping[Body, Mapping[Var, bool]]
    ends: Mapping[Body, Mapping[Var, bool]]


def activity_of(
    program: Program, explained: Sequence[Var], outputs: Sequence[Var], ids: frozenset[Var] = frozenset()
) -> Activity:
    """Find what carries relevance from `outputs` to `explained`; `ids` are the integers that have a carrier."""
    needed = needed_for(program, outputs)
    reach, use = _Reach(ended=True), _Use(ended=True)
    carrying = _set_of(reach, program, explained) & (needed | set(explained))
    active = frozenset(carrying & _set_of(use, program, outputs))
    dependent = frozenset(dependent_on(program, explained))
    return Activity(needed, carrying, active, dependent, ids, reach.entered, use.entered)


@dataclass(frozen=True, eq=False)
class Flow:
    """A program (or a body) and what is known of its variables before its equations are grouped into nodes.

    Attributes:
      explained: the inputs (or carriers of inputs) that relevance is wanted for.
      outputs: the variables that relevance starts from.
      live: the equations that reach what is explained, in order.
      ended: the equations at which relevance ends: they read a value that could carry it, and make none that can.
      uses: the active equations that hand a variable relevance.
      facts: what is known of the values.
    """

    program: Program
    activity: Activity
    explained: tuple[Var, ...]
    outputs: tuple[Var, ...]
    live: tuple[Equation, ...]
    ended: tuple[Equation, ...]
    uses: dict[Var, list[Equation]] = field(repr=False)
    facts: Facts = field(repr=False)

    @property
    def active(self) -> frozenset[Var]:
        return self.activity.active

    @property
    def dependent(self) -> frozenset[Var]:
        return self.activity.dependent

    @property
    def definition(self) -> Mapping[Var, Equation]:
        return self.program.definition

    def interval(self, v: Var) -> Interval:
        return self.facts[v].interval

    def active_inputs(self, eqn: Equation) -> list[Var]:
        return [v for v in (eqn.data if eqn.rule is None else eqn.inputs) if v in self.active]

    def only_use(self, v: Var) -> Equation | None:
        """Return the equation that alone takes the variable's relevance, or None if there are several or none."""
        uses = self.uses.get(v, ())
        return uses[0] if len(uses) == 1 and v not in self.outputs else None

    def order(self, equations: Iterable[Equation]) -> list[Equation]:
        return sorted(equations, key=self.position.__getitem__)

    @cached_property
    def position(self) -> dict[Equation, int]:
        return {eqn: k for k, eqn in enumerate(self.program.equations)}


def flow_of(
    program: Program, activity: Activity, explained: Iterable[Var], outputs: Iterable[Var], facts: Facts
) -> Flow:
    """Return the flow of relevance through a program or a body, from what is known of all its variables."""
    outputs = tuple(outputs)
    live = tuple(eqn for eqn in program.equations if activity.needed.intersection(eqn.outputs))
    uses: dict[Var, list[Equation]] = defaultdict(list)
    for eqn in live:
        if activity.active.intersection(eqn.outputs) and not ends_relevance(eqn):
            for v in dict.fromkeys(eqn.data if eqn.rule is None else eqn.inputs):
                if v in activity.active:
                    uses[v].append(eqn)
    able = activity.carrying | activity.ids
    ended = tuple(eqn for eqn in live if able.intersection(eqn.inputs) and not able.intersection(eqn.outputs))
    return Flow(program, activity, tuple(explained), outputs, live, ended, uses, facts)


def body_flow(flow: Flow, body: Body) -> Flow:
    """Return the flow through a body of control flow."""
    activity, program = flow.activity, body.program
    explained = [v for v in dict.fromkeys(program.inputs) if v in activity.starts.get(body, ())]
    outputs = [v for v in dict.fromkeys(program.outputs) if v in activity.ends.get(body, ())]
    return flow_of(program, activity, explained, outputs, flow.facts)
