"""The one walk over a program and the bodies of its control flow: how a pass finds a value for every variable."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.program import Var

V = TypeVar("V")


class Walk(ABC, Generic[V]):
    """A pass: the least fixed point of what its steps make of the values they read.

    A subclass says what a step makes (`made`) and how two values of one variable join. Loops are gone round until
    nothing changes. What entered a body is kept, and the body is gone through again only where something new enters:
    so the time is linear in the equations, and in the depth of nested loops.

    Attributes:
      forward: whether it goes from inputs to outputs, or back.
      values: what was found, for the variables of bodies too. A variable without a value is not reached.
      entered: what entered each body, by its inputs (backwards, outputs).
    """

    forward: ClassVar[bool] = True

    def __init__(self) -> None:
        self.values: dict[Var, V] = {}
        self.entered: dict[Body, dict[Var, V]] = {}
        self._rounds: dict[Body, int] = {}

    @abstractmethod
    def made(self, step: Any, values: Mapping[Var, V]) -> Iterable[tuple[Var, V]]:
        """Return the values that a step without bodies gives to its outputs (backwards, to its inputs)."""

    def join(self, old: V, new: V) -> V:
        """Return what holds of both."""
        return old

    def widen(self, old: V, new: V) -> V:
        """Return a value that holds of `new` and of all that a loop may go on to make of it."""
        return new

    def enter(self, flow: ControlFlow, body: Body, k: int, value: V | None, inner: Var) -> V | None:
        """Return the value inside of the k-th input (backwards, output) of a body; None for none."""
        return value

    def leave(self, flow: ControlFlow, body: Body, k: int, value: V | None, outer: Var) -> V | None:
        """Return the value outside of what the k-th output (backwards, input) of a body is there; None for none."""
        return value

    def again(self, value: V | None) -> V | None:
        """Return what the value at the end of a turn is at the beginning of the next."""
        return value

    def control(self, step: Any) -> ControlFlow | None:
        """Return the control flow that a step is, None if it has no bodies to go into."""
        return step if isinstance(step, ControlFlow) else None

    def body_steps(self, step: Any, number: int) -> Sequence[Any]:
        """Return the steps of a body of a step, by its number."""
        return step.bodies[number].program.equations

    def look(self, values: Mapping[Var, V], v: Var) -> V | None:
        """Return the value of a variable or literal, None for none."""
        return values.get(v)

    def over(self, steps: Sequence[Any], start: Mapping[Var, V]) -> dict[Var, V]:
        """Go through steps, and return the values of all variables in `start` and of what the steps make."""
        values = dict(start)
        for step in steps if self.forward else reversed(steps):
            flow = self.control(step)
            self._collect(values, self.made(step, values) if flow is None else self.through(step, flow, values))
        self.values.update(values)
        return values

    def _collect(self, values: dict[Var, V], pairs: Iterable[tuple[Var, V | None]]) -> None:
        for v, value in pairs:
            if value is not None:
                values[v] = self.join(values[v], value) if v in values else value

    def through(self, step: Any, flow: ControlFlow, values: Mapping[Var, V]) -> Iterable[tuple[Var, V]]:
        """Return the values that control flow gives to its outputs (backwards, to its inputs)."""
        found: dict[Var, V] = {}
        for number, body in enumerate(flow.bodies):
            if not self.forward and body.results == (None,):  # the test of a while loop hands nothing back
                continue
            inside = self._around(step, flow, number, body, values)
            # What goes round comes out as it entered the last turn: a loop may make none.
            ends = dict(body.carried) if self.forward else {v: out for out, v in body.carried}
            starts = body.program.inputs if self.forward else body.program.outputs
            for k, outer, inner in self._ports(flow, body, entering=False):
                value = self.entered[body].get(starts[ends[k]]) if k in ends else self.look(inside, inner)
                self._collect(found, [(outer, self.leave(flow, body, k, value, outer))])
        return found.items()

    def _around(
        self, step: Any, flow: ControlFlow, number: int, body: Body, values: Mapping[Var, V]
    ) -> Mapping[Var, V]:
        """Go round a body until nothing new enters it, and return the values inside."""
        entered = self.entered.setdefault(body, {})
        repeats = body.repeats if self.forward else [(v, out) for out, v in body.repeats]
        coming: dict[Var, V] = {}
        ports = self._ports(flow, body, entering=True)
        self._collect(coming, [(v, self.enter(flow, body, k, self.look(values, outer), v)) for k, outer, v in ports])
        while self._take_in(body, entered, coming):
            inside = self.over(self.body_steps(step, number), entered)
            coming = {}
            self._collect(coming, [(there, self.again(self.look(inside, here))) for here, there in repeats])
        return self.values

    def _take_in(self, body: Body, entered: dict[Var, V], coming: Mapping[Var, V]) -> bool:
        """Join what comes into a body to what has entered it; tell whether the body has to be gone through for it."""
        rounds = self._rounds.get(body, 0)
        changed = rounds == 0
        for v, value in coming.items():
            joined = self.join(entered[v], value) if v in entered else value
            if v in entered and joined != entered[v] and rounds > 2:  # what still grows will go on growing
                joined = self.widen(entered[v], joined)
            changed = changed or v not in entered or joined != entered[v]
            entered[v] = joined
        self._rounds[body] = rounds + changed
        return changed

    def _ports(self, flow: ControlFlow, body: Body, entering: bool) -> list[tuple[int, Var, Var]]:
        """Return what is outside and inside of the same value, where the walk enters a body or leaves it."""
        at_inputs = self.forward == entering
        numbers, outside = (body.operands, flow.inputs) if at_inputs else (body.results, flow.outputs)
        inside = body.program.inputs if at_inputs else body.program.outputs
        return [(k, outside[n], inside[k]) for k, n in enumerate(numbers) if n is not None]
