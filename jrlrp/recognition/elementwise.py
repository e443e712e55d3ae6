"""The elementwise part of a program: which variable each value is a function of, step by step.

For every value made by elementwise equations, its *source* is the last single variable that all of it depends on (its
immediate dominator). A step from a source to its value is linear (a constant scale or shift) or a curve; consecutive
curves, with the scalar factors and offsets around them, are one activation.
"""

from collections import Counter
from dataclasses import dataclass

from jrlrp.analyses.activity import Flow
from jrlrp.primitives.row import Op
from jrlrp.trace.program import Equation, Region, Var


@dataclass(frozen=True)
class Link:
    """How a value depends on its source.

    Attributes:
      source: the variable; `equation`: the one that makes the value.
      role: "curve", "cast", or of a linear step "factor" (scalar), "offset" (number), "scale" or "shift".
      constant: of a linear step.
      inner: the values between, each with a link of its own. With theirs they are all that the source comes to the
        value by, and nothing else reads them.
      reads: how many of the equations between read the source.
      bends: whether one of them is nonlinear.
    """

    source: Var
    equation: Equation
    role: str
    constant: Var | None = None
    inner: tuple[Var, ...] = ()
    reads: int = 1
    bends: bool = False

    @property
    def is_scalar(self) -> bool:
        return self.role in ("factor", "offset", "cast")


def elementwise_links(flow: Flow) -> dict[Var, Link]:
    """Return the link of each active variable that is an elementwise function of one other."""
    builder = _Links(flow)
    for eqn in flow.live:
        if eqn.row.pointwise and eqn.rule is None:
            builder.visit(eqn)
    return builder.links


class _Links:
    def __init__(self, flow: Flow):
        self.flow = flow
        self.links: dict[Var, Link] = {}
        self._source: dict[Var, Var] = {}  # also of values that steer (comparisons) but carry no relevance
        self._depth: dict[Var, int] = {}

    def visit(self, eqn: Equation) -> None:
        flow, out = self.flow, eqn.output
        dependent = [v for v in eqn.inputs if v in flow.dependent]
        if not dependent:
            return
        active = flow.active_inputs(eqn) if out in flow.active else dependent
        source = self._common(active)
        if source is None:
            return
        steering = False
        for v in dependent:  # a mask made of the same variable belongs to the activation; any other is a constant
            if v not in active and (wider := self._common([source, v])) is not None:
                source, steering = wider, True
        if source.shape != out.shape:
            return
        if out not in flow.active:
            self._set(out, source)
        elif (link := self._link(eqn, source, steering)) is not None:
            self._set(out, source)
            self.links[out] = link

    def _set(self, v: Var, source: Var) -> None:
        self._source[v] = source
        self._depth[v] = self._depth.get(source, 0) + 1

    def _common(self, variables: list[Var]) -> Var | None:
        """Return the nearest variable that all of `variables` are elementwise functions of."""
        first, *rest = variables
        for v in rest:
            while first is not v:
                if self._depth.get(first, 0) < self._depth.get(v, 0):
                    first, v = v, first
                if first not in self._source:
                    return None
                first = self._source[first]
        return first

    def _link(self, eqn: Equation, source: Var, steering: bool) -> Link | None:
        if not steering and len(self.flow.active_inputs(eqn)) == 1 and source in eqn.inputs:
            role, constant = linear_role(self.flow, eqn, source)
            if role == "select":
                return None
            return Link(source, eqn, role, constant, bends=self._bends(eqn))
        inner = self._between(eqn, source)
        if inner is None:
            return None
        bends = self._bends(eqn) or any(self.links[v].bends for v in inner)
        if not (steering or bends):
            return None  # z + c − z·w is a sum of linear parts
        reads = sum(self.links[v].reads for v in inner if self.links[v].source is source) + (source in eqn.data)
        return Link(source, eqn, "curve", inner=tuple(inner), reads=reads, bends=bends)

    def _between(self, eqn: Equation, source: Var) -> list[Var] | None:
        """Return the values between a source and an equation, if relevance can enter and leave nowhere else."""
        read = set(self.flow.active_inputs(eqn))
        inner: dict[Var, None] = {}
        pending = list(read)
        while pending:
            v = pending.pop()
            if v is not source and v not in inner:
                inner[v] = None
                pending.append(self.links[v].source)
        reads = Counter(v for v in inner if v in read)
        for v in inner:
            reads[self.links[v].source] += self.links[v].reads
        if any(v in self.flow.outputs or reads[v] != len(self.flow.uses[v]) for v in inner):
            return None
        return list(inner)

    def _bends(self, eqn: Equation) -> bool:
        """Tell whether an equation is nonlinear in its active operands."""
        active = self.flow.active_inputs(eqn)
        if eqn.op in (Op.ADD, Op.SUB, Op.NEG):
            return False
        if eqn.op in (Op.MUL, Op.DIV):
            return len(active) > 1 or (eqn.op is Op.DIV and eqn.inputs[1] in active)
        if eqn.op is Op.SELECT:
            return eqn.inputs[0] in self.flow.dependent
        return linear_role(self.flow, eqn, active[0])[0] != "cast"


def linear_role(flow: Flow, eqn: Equation, x: Var) -> tuple[str, Var | None]:
    """Return what an elementwise equation with one active operand `x` does to it, and the constant it does it with."""
    if eqn.op in (Op.CAST, Op.IDENTITY):
        return "cast", None
    if eqn.row.moves:
        return "select", None  # by a constant predicate: movement
    if eqn.op is Op.NEG:
        return "factor", None
    if eqn.row.kind != "arithmetic" or (eqn.op is Op.DIV and eqn.inputs[1] is x):
        return "curve", None
    constant = eqn.inputs[1] if eqn.inputs[0] is x else eqn.inputs[0]
    if eqn.op in (Op.MUL, Op.DIV):
        held = isinstance(eqn, Region) and len(eqn.data) == 1  # by a statistic
        return ("factor" if held or flow.facts[constant].scalar else "scale"), constant
    return ("offset" if flow.facts[constant].number else "shift"), constant  # a scalar parameter is a bias


@dataclass(frozen=True)
class Curve:
    """The equations of one activation, from `source` to `output`."""

    source: Var
    output: Var
    equations: tuple[Equation, ...]


def activations(flow: Flow, links: dict[Var, Link]) -> list[Curve]:
    """Join each curve with the curves and scalar steps next to it that nothing else uses."""
    ending: dict[Var, _Growing] = {}
    for v, link in links.items():  # in program order
        if link.role == "curve":
            curve = _lead_in(flow, links, ending, link)
        elif link.is_scalar and link.role != "cast" and link.source in ending and flow.only_use(link.source):
            curve = ending.pop(link.source)
        else:
            continue
        between = {link.source, *link.inner}
        for inner in [ending.pop(inner) for inner in link.inner if inner in ending]:
            if inner.source not in between:  # it took in what comes before the source
                curve = inner
        curve.steps.append(v)
        ending[v] = curve
    return [Curve(curve.source, v, tuple(_equations(links, curve.steps))) for v, curve in ending.items()]


@dataclass
class _Growing:
    """An activation whose end is not reached yet: its source, and what the steps from it make."""

    source: Var
    steps: list[Var]


def _lead_in(flow: Flow, links: dict[Var, Link], ending: dict[Var, _Growing], link: Link) -> _Growing:
    """Return what of the steps before a curve belongs to it: scalar factors and offsets, and an activation."""
    source, reads, back = link.source, link.reads, list[Var]()
    while source not in flow.outputs and len(flow.uses[source]) == reads:
        before = ending.pop(source, None)
        if before is not None:
            before.steps += reversed(back)
            return before
        step = links.get(source)
        if step is None or not step.is_scalar:
            break
        back.append(source)
        source, reads = step.source, step.reads
    return _Growing(source, back[::-1])


def _equations(links: dict[Var, Link], steps: list[Var]) -> list[Equation]:
    """Return the equations of all steps and of what is between."""
    found: dict[Var, Equation] = {}
    pending = list(steps)
    while pending:
        v = pending.pop()
        if v not in found:
            found[v] = links[v].equation
            pending += links[v].inner
    return list(found.values())
