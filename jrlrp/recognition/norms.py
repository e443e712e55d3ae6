"""Normalisations (layer, RMS, group, instance norm) in any spelling and order, by dataflow.

A normalisation is a region from one variable to another of its size that is affine in it once its statistics are held:
what was summed over axes after something nonlinear, or made of such sums. And it divides by a statistic. Where a
statistic divides what is linear in the same values but no longer has their size (a product with weights, say), it is
held all the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from jrlrp.analyses.activity import Flow, body_flow
from jrlrp.graph.nodes import Normalisation
from jrlrp.primitives.row import Op
from jrlrp.primitives.table import ADDED
from jrlrp.recognition.elementwise import Link
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.program import Equation, Literal, Program, Region, Var

_CARRIERS = (Op.RESHAPE, Op.TRANSPOSE, Op.SQUEEZE, Op.BROADCAST, Op.CAST, Op.IDENTITY)


def with_normalisations(flow: Flow) -> Program:
    """Return the program with the last equation of each normalisation read as one, in bodies too."""
    found = _Normalisations(flow).rewritten()
    equations = []
    for eqn in flow.program.equations:
        if isinstance(eqn, ControlFlow) and flow.active.intersection(eqn.outputs):
            bodies = (replace(body, program=with_normalisations(body_flow(flow, body))) for body in eqn.bodies)
            eqn = replace(eqn, bodies=tuple(bodies))
        equations.append(found.get(eqn, eqn))
    return replace(flow.program, equations=tuple(equations))


def normalisations(flow: Flow, links: dict[Var, Link], taken: set[Equation]) -> list[Normalisation]:
    """Return the nodes of the normalisations, each with the gain and bias after it."""
    nodes = []
    for eqn in flow.live:
        if isinstance(eqn, Region) and eqn.op is Op.NORMALISE and eqn.output in flow.active:
            nodes.append(_with_gain(flow, links, taken, eqn))
    return nodes


class _Normalisations:
    def __init__(self, flow: Flow):
        self.flow = flow
        self.dominators = _Dominators(flow)
        self.summed = _made_of_sums(flow)

    def rewritten(self) -> dict[Equation, Region]:
        """Return the regions that take the place of equations."""
        found: dict[Equation, Region] = {}
        taken: set[Equation] = set()
        for eqn in self.flow.live:
            if eqn in taken or not self._scales(eqn):
                continue
            match = self._match(eqn)
            if match is not None:
                taken.update(match.equations)
                found[match.equations[-1]] = match
            elif (held := self._held(eqn)) is not None:
                found[eqn] = held
        return found

    def _scales(self, eqn: Equation) -> bool:
        """Tell whether an equation multiplies or divides one active value by another, one of them made of sums."""
        if eqn.op not in (Op.MUL, Op.DIV) or isinstance(eqn, Region) or eqn.output not in self.flow.active:
            return False
        return len(set(self.flow.active_inputs(eqn))) == 2 and any(v in self.summed for v in eqn.inputs)

    def _match(self, eqn: Equation) -> Region | None:
        """Return the normalisation that ends at an equation, or where its branches join: x·s + (b − m·s)."""
        source = self.dominators.common(self.flow.active_inputs(eqn))
        if source is None:
            return None
        match = first = self._region(eqn.output, source)
        sink: Var = eqn.output
        while match is None or not self._is_closed(match):
            use = self.flow.only_use(sink)
            if use is None or not use.row.pointwise:
                match = first
                break
            sink = use.output
            match = self._region(sink, source)
        return None if match is None else self._centred(match)

    def _centred(self, match: Region) -> Region:
        """Return a normalisation with the centring of its input, if that is what its input is."""
        source = match.data[0]
        above = self.dominators.above(source)
        wider = None if above is None else self._region(match.output, above)
        inner = None if above is None else self._between(source, above)
        sums = inner is not None and any(_is_sum(self.flow, eqn) for eqn in inner)
        return wider if wider is not None and sums else match

    def _between(self, sink: Var, source: Var) -> list[Equation] | None:
        """Return the active equations between two variables if no other active value enters there."""
        found: set[Equation] = set()
        pending = [sink]
        while pending:
            v = pending.pop()
            eqn = self.flow.definition.get(v)
            if v is source or eqn in found:
                continue
            if eqn is None or not _may_belong(self.flow, eqn):
                return None
            found.add(eqn)
            pending.extend(self.flow.active_inputs(eqn))
        return self.flow.order(found)

    def _is_closed(self, region: Region) -> bool:
        """Tell whether relevance leaves a region at its output only."""
        inner = {v for eqn in region.equations[:-1] for v in eqn.outputs if v in self.flow.active}
        equations = set(region.equations)
        return not any(v in self.flow.outputs or not equations.issuperset(self.flow.uses[v]) for v in inner)

    def _region(self, sink: Var, source: Var) -> Region | None:
        equations = self._between(sink, source)
        if not equations or sink.size != source.size:
            return None
        classes = {source: _SOURCE}
        held: dict[Equation, frozenset[int]] = {}
        for eqn in equations:
            operands = [classes.get(v) for v in eqn.inputs]
            found = _class_of(self.flow, eqn, operands)
            if found is None or len(eqn.outputs) != 1:
                return None
            classes[eqn.output] = found
            if found.kind == "linear":
                held[eqn] = _held_operands(eqn, operands)
        end = classes[sink]
        if end.kind != "linear" or end.summed or not end.scaled:
            return None
        return _as_region(equations, (source,), held)

    def _held(self, eqn: Equation) -> Region | None:
        """Return a product or quotient with the statistic in it held, if the other factor is linear in its values."""
        for k in (0, 1) if eqn.op is Op.MUL else (1,):
            statistic, value = eqn.inputs[k], eqn.inputs[1 - k]
            if statistic not in self.summed or value not in self.flow.active or value.shape != eqn.output.shape:
                continue
            leaves = self._leaves(statistic)
            divides = leaves is not None and (eqn.op is Op.DIV) != _inverse_of(self.flow, statistic, leaves)
            if leaves and divides and self._is_linear_in(value, leaves):
                return Region(
                    replace(eqn.row, interval=None),  # as its equation has it
                    (value, *(v for v in eqn.inputs if v is not value)),
                    eqn.outputs,
                    eqn.params,
                    eqn.path,
                    eqn.source,
                    eqn.eqn,
                    equations=(eqn,),
                    count=1,
                )
        return None

    def _leaves(self, v: Var) -> set[Var] | None:
        """Return the values that a statistic is taken of, None if it is no statistic of them."""
        leaves: set[Var] = set()
        pending = [v]
        seen: set[Var] = set()
        while pending:
            u = pending.pop()
            eqn = self.flow.definition.get(u)
            if u in seen:
                continue
            seen.add(u)
            if u is not v and (eqn is None or u not in self.summed):
                single = set() if eqn is None else set(self.flow.active_inputs(eqn))
                if eqn is not None and len(single) == 1 and (eqn.row.pointwise or eqn.op in _CARRIERS):  # |x|, x · x
                    pending += single
                else:
                    leaves.add(u)
            elif eqn is not None:
                pending += self.flow.active_inputs(eqn)
        return leaves

    def _is_linear_in(self, v: Var, leaves: set[Var]) -> bool:
        """Tell whether a value is linear in each of some others, all else held."""
        missing = set(leaves)
        first = min((self.flow.position[d] for u in leaves if (d := self.flow.definition.get(u)) is not None), default=-1)
        pending, seen = [v], set()
        while pending and missing:
            u = pending.pop()
            if u in seen:
                continue
            seen.add(u)
            missing.discard(u)
            eqn = self.flow.definition.get(u)
            if u in leaves or eqn is None or self.flow.position[eqn] < first or eqn.row.linear is None:
                continue
            pending += [x for k, x in enumerate(eqn.inputs) if k in eqn.row.linear(eqn) and x in self.flow.active]
        return not missing


class _Dominators:
    """The nearest variable that all of a value's relevance has to pass."""

    def __init__(self, flow: Flow):
        self._above: dict[Var, Var | None] = dict.fromkeys(flow.explained)
        self._depth = dict.fromkeys(flow.explained, 0)
        for eqn in flow.live:
            active = [v for v in flow.active_inputs(eqn) if v in self._depth]
            above = self.common(active) if active else None
            for out in eqn.outputs:
                self._above[out] = above
                self._depth[out] = 0 if above is None else self._depth[above] + 1

    def above(self, v: Var) -> Var | None:
        return self._above.get(v)

    def common(self, variables: Iterable[Var]) -> Var | None:
        """Return the nearest variable on the way to all of these, or one of them; None if there is none."""
        first, *rest = variables
        nearest: Var | None = first
        for v in rest:
            other: Var | None = v
            while nearest is not other:
                if nearest is None or other is None:
                    return None
                if self._depth[nearest] < self._depth[other]:
                    nearest, other = other, nearest
                nearest = self._above[nearest]
        return nearest


def _made_of_sums(flow: Flow) -> set[Var]:
    """Return the active values that are sums over axes, or made of such by pointwise operations and movements."""
    found: set[Var] = set()
    for eqn in flow.live:
        if not flow.active.intersection(eqn.outputs):
            continue
        keeps = (eqn.row.pointwise or eqn.op in _CARRIERS) and any(v in found for v in flow.active_inputs(eqn))
        if keeps or _is_sum(flow, eqn):
            found.update(eqn.outputs)
    return found


def _is_sum(flow: Flow, eqn: Equation) -> bool:
    return eqn.op in (Op.SUM, Op.MAXIMUM, Op.MINIMUM) or _is_square_sum(eqn) or _is_fixed_sum(flow, eqn)


def _is_square_sum(eqn: Equation) -> bool:
    """Tell Σ x·x, written as a matrix product of rows with themselves."""
    if eqn.op is not Op.DOT or eqn.inputs[0] is not eqn.inputs[1]:
        return False
    (contract, other), (batch, _) = eqn.params["dimension_numbers"]
    return contract == other and len(contract) + len(batch) == eqn.inputs[0].ndim


def _is_fixed_sum(flow: Flow, eqn: Equation) -> bool:
    """Tell a sum written as a matrix product with numbers: a mean, say."""
    if eqn.op is not Op.DOT:
        return False
    weights = [v for v in eqn.inputs if v not in flow.active]
    return len(weights) == 1 and flow.facts[weights[0]].fixed and not flow.facts.varying(weights[0])


def _may_belong(flow: Flow, eqn: Equation) -> bool:
    """Tell whether an equation may be part of a normalisation."""
    plain = eqn.rule is None and not isinstance(eqn, ControlFlow) and eqn.row.kind not in ("opaque", "softmax")
    return plain and (eqn.row.pointwise or eqn.op in _CARRIERS or _is_sum(flow, eqn))


@dataclass(frozen=True)
class _Class:
    """What a value is, seen from the source: "linear" in it once statistics are held, "curved", or a "statistic".

    `summed`: it was summed over axes; `inverse`: it falls where what it is made of grows; `scaled`: a statistic
    divides it.
    """

    kind: str
    summed: bool = False
    inverse: bool = False
    scaled: bool = False

    @property
    def steady(self) -> bool:
        """Whether it may be held."""
        return self.kind == "statistic" or (self.kind == "linear" and self.summed)


_SOURCE = _Class("linear")


def _as_region(equations: list[Equation], data: tuple[Var, ...], held: dict[Equation, frozenset[int]]) -> Region:
    last = equations[-1]
    made = {v for eqn in equations for v in eqn.outputs}
    read = dict.fromkeys(v for eqn in equations for v in eqn.inputs if not isinstance(v, Literal))
    rest = tuple(v for v in read if v not in made and v not in data)
    row = ADDED[Op.NORMALISE]
    return Region(
        row, (*data, *rest), last.outputs, {"held": held}, last.path, last.source, None,
        equations=tuple(equations), count=len(data),
    )  # fmt: skip


def _class_of(flow: Flow, eqn: Equation, operands: list[_Class | None]) -> _Class | None:
    """Return the class of an equation's output, None for what no normalisation has in it."""
    active = [c for c in operands if c is not None]
    if eqn.op in _CARRIERS:  # entries stay in order, so that relevance can be passed on in place
        return None if eqn.op is Op.TRANSPOSE and not active[0].steady else active[0]
    if _is_square_sum(eqn):
        return _Class("statistic", summed=True)
    if _is_sum(flow, eqn):
        linear = active[0].kind == "linear" and eqn.op not in (Op.MAXIMUM, Op.MINIMUM)
        return _Class("linear" if linear else "statistic", summed=True, scaled=linear and active[0].scaled)
    if eqn.op in (Op.MUL, Op.DIV):
        return _scaled(flow, eqn, operands)
    linear = eqn.op in (Op.ADD, Op.SUB, Op.NEG) or (eqn.op is Op.SELECT and operands[0] is None)
    if linear and any(c.kind == "linear" for c in active) and all(c.kind == "linear" or c.steady for c in active):
        return _Class("linear", summed=all(c.summed for c in active), scaled=any(c.scaled for c in active))
    if all(c.steady for c in active):
        inverse = any(c.inverse for c in active)
        return _Class("statistic", summed=True, inverse=inverse != _falls(eqn, operands))
    return _Class("curved")


def _scaled(flow: Flow, eqn: Equation, operands: list[_Class | None]) -> _Class:
    """Return the class of a product or quotient."""
    a, b = operands
    divides = eqn.op is Op.DIV
    if a is not None and (b is None or (not divides and a.steady and not b.steady)):
        a, b = b, a  # b is what scales
    if b is None:
        return _Class("curved")
    if a is None and not (divides and operands[1] is b):
        negative = flow.interval(eqn.inputs[0] if operands[0] is None else eqn.inputs[1])[1] < 0
        return replace(b, inverse=b.inverse != negative)
    if a is not None and a.kind == "linear" and b.steady and not (a.summed and b.kind == "linear"):
        return _Class("linear", summed=a.summed, scaled=a.scaled or b.inverse != divides)
    if b.steady and (a is None or a.steady):
        inverse = b.inverse != divides or (a is not None and a.inverse)
        return _Class("statistic", summed=True, inverse=inverse)
    return _Class("curved")


def _falls(eqn: Equation, operands: list[_Class | None]) -> bool:
    """Tell whether what an equation makes falls where its operand rises: a power below zero, a negative."""
    if eqn.op is Op.POW:
        return isinstance(eqn.inputs[1], Literal) and eqn.inputs[1].value < 0
    if eqn.op is Op.SUB:
        return operands[0] is None
    return eqn.op is Op.NEG or (eqn.row.exponent is not None and eqn.row.exponent(eqn) < 0)


def _inverse_of(flow: Flow, statistic: Var, leaves: set[Var]) -> bool:
    """Tell whether a statistic falls where the values that it is taken of grow."""
    classes: dict[Var, _Class] = dict.fromkeys(leaves, _SOURCE)
    pending, inner = [statistic], set()
    while pending:
        v = pending.pop()
        eqn = flow.definition.get(v)
        if v in leaves or eqn is None or eqn in inner:
            continue
        inner.add(eqn)
        pending += flow.active_inputs(eqn)
    for eqn in flow.order(inner):
        found = _class_of(flow, eqn, [classes.get(v) for v in eqn.inputs])
        classes.update(dict.fromkeys(eqn.outputs, found or _Class("curved")))
    return classes[statistic].inverse


def _held_operands(eqn: Equation, operands: list[_Class | None]) -> frozenset[int]:
    """Return which operands of a linear equation are statistics."""
    positions = {k for k, c in enumerate(operands) if c is not None and c.kind == "statistic"}
    if eqn.op in (Op.MUL, Op.DIV) and not positions and None not in operands:
        positions = {k for k, c in enumerate(operands) if c is not None and c.summed}
    return frozenset(positions)


def _with_gain(flow: Flow, links: dict[Var, Link], taken: set[Equation], region: Region) -> Normalisation:
    """Return a normalisation with the constant scales and shifts after it that nothing else reads."""
    after: list[Equation] = []
    v, committed = region.output, 0
    while (eqn := flow.only_use(v)) is not None and eqn not in taken:
        link = links.get(eqn.output)
        moves = eqn.op in (Op.RESHAPE, Op.SQUEEZE)
        if not moves and (link is None or link.source is not v or link.role == "curve"):
            break
        after.append(eqn)
        v = eqn.output
        if link is not None and link.role in ("scale", "shift"):
            committed = len(after)
    taken.update([region, *after[:committed]])
    equations = (region, *after[:committed])
    return Normalisation(
        kind="normalisation",
        equations=equations,
        inputs=region.data,
        outputs=equations[-1].outputs,
        held={**region.params["held"], **dict.fromkeys(after[:committed], frozenset())},
    )
