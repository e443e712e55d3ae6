"""Normalisations (layer, RMS, group, instance norm) in any spelling and order, by dataflow.

A normalisation is a region from one variable to another of its size that is affine in it once its statistics are held:
what was summed over axes after something nonlinear, or made of such sums. And it divides by a statistic. Where a
statistic divides what is linear in the same values but no longer has their size (a product with weights, say), it is
held all the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from jrlrp.analyses.activity import Flow, body_flow
from jrlrp.graph.nodes import Normalisation
from jrlrp.primitives.row import Op
from jrlrp.primitives.table import ADDED
from jrlrp.recognition.elementwise import Link
from jrlrp.recognition.statistics import (
    CARRIERS,
    SOURCE,
    Sums,
    class_of,
    held_operands,
    inverse_of,
    is_sum,
    may_belong,
)
from jrlrp.rewrites.canonical import equal_values
from jrlrp.rewrites.forms import Forms
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.program import Equation, Literal, Program, Region, Var


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
        self.forms = Forms(flow.facts, equal_values(flow.program))
        for eqn in flow.program.equations:
            self.forms.take(eqn)
        self.dominators = _Dominators(flow)
        self.summed = Sums(flow, self.forms)

    def rewritten(self) -> dict[Equation, Region]:
        """Return the regions that take the place of equations."""
        found: dict[Equation, Region] = {}
        taken: set[Equation] = set()
        for eqn in self.flow.live:
            if eqn not in taken and self._scales(eqn):
                match = self._match(eqn)
                if match is not None:
                    taken.update(match.equations)
                    found[match.equations[-1]] = match
                elif (held := self._held(eqn)) is not None:
                    found[eqn] = held
            if eqn not in found:  # what was normalised is no statistic
                self.summed.take(eqn)
        return found

    def _scales(self, eqn: Equation) -> bool:
        """Tell whether an equation multiplies or divides one active value by another, one of them made of sums."""
        if eqn.op not in (Op.MUL, Op.DIV) or len(eqn.operands) != 2 or eqn.output not in self.flow.active:
            return False
        return len(set(self.flow.active_inputs(eqn))) == 2 and any(v in self.summed for v in eqn.operands)

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
        sums = inner is not None and any(is_sum(self.flow, self.forms, eqn) for eqn in inner)
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
            if eqn is None or not may_belong(self.flow, self.forms, eqn):
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
        classes = {source: SOURCE}
        held: dict[Equation, frozenset[int]] = {}
        for eqn in equations:
            operands = [classes.get(v) for v in eqn.operands]
            found = class_of(self.flow, self.forms, eqn, operands)
            if found is None or len(eqn.outputs) != 1:
                return None
            classes[eqn.output] = found
            if found.kind == "linear":
                held[eqn] = held_operands(eqn, operands)
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
            back = _Powers(self.forms, statistic, 1.0 if eqn.op is Op.MUL else -1.0)
            leaves = self._linear_in(value, self._leaves(statistic), back)
            divides = leaves and (eqn.op is Op.DIV) != inverse_of(self.flow, self.forms, statistic, leaves)
            if leaves and (divides or back.cancelled):
                return Region(
                    replace(eqn.row, interval=None),  # as its equation has it
                    (value, *(v for v in eqn.inputs if v is not value)),
                    eqn.outputs,
                    eqn.params,
                    eqn.path,
                    eqn.source,
                    None,
                    equations=(eqn,),
                    count=1,
                )
        return None

    def _leaves(self, v: Var) -> list[tuple[Var, ...]]:
        """Return what a statistic is taken of: values, each with those that it is a function of entry by entry."""
        leaves: dict[Var, tuple[Var, ...]] = {}
        pending = [v]
        seen: set[Var] = set()
        while pending:
            u = pending.pop()
            eqn = self.flow.definition.get(u)
            if u in seen:
                continue
            seen.add(u)
            if u is not v and (eqn is None or u not in self.summed):
                leaves[u] = tuple(self._made_of(u))
            elif eqn is not None:
                pending += self.flow.active_inputs(eqn)
        return list(leaves.values())

    def _made_of(self, v: Var) -> Iterator[Var]:
        """Yield a value, and those that it is a function of entry by entry: of |x| and of x · x, x."""
        yield v
        while (eqn := self.flow.definition.get(v)) is not None:
            single = set(self.flow.active_inputs(eqn))
            if len(single) != 1 or not (eqn.row.pointwise or eqn.op in CARRIERS):
                return
            (v,) = single
            yield v

    def _linear_in(self, v: Var, leaves: list[tuple[Var, ...]], back: "_Powers") -> set[Var]:
        """Return of each leaf the value that another value is linear in, all else held; none if there are not all.

        Notes what statistics scale it.
        """
        owners = {u: [leaf for leaf in leaves if u in leaf] for u in {u for leaf in leaves for u in leaf}}
        missing = set(leaves)
        roots = [self.flow.definition.get(leaf[-1]) for leaf in leaves]
        first = min((-1 if eqn is None else self.flow.position[eqn] for eqn in roots), default=-1)
        pending, seen, found = [v], set(), set()
        while pending and missing:
            u = pending.pop()
            if u in seen:
                continue
            seen.add(u)
            eqn = self.flow.definition.get(u)
            if u in owners:
                missing.difference_update(owners[u])
                found.add(u)
            if u in owners or eqn is None or self.flow.position[eqn] < first or eqn.row.linear is None:
                continue
            if eqn.op in (Op.MUL, Op.DIV):
                for k in (0, 1) if eqn.op is Op.MUL else (1,):
                    if eqn.inputs[k] in self.summed:
                        back.meet(eqn.inputs[k], 1.0 if eqn.op is Op.MUL else -1.0)
            pending += [x for k, x in enumerate(eqn.inputs) if k in eqn.row.linear(eqn) and x in self.flow.active]
        return set() if missing else found


class _Powers:
    """The powers that a statistic is the product of; `cancelled`: its inverse has scaled what it scales."""

    def __init__(self, forms: Forms, statistic: Var, sign: float):
        self.forms, self.cancelled = forms, False
        self._own = self._of(statistic, sign)

    def meet(self, statistic: Var, sign: float) -> None:
        self.cancelled = self.cancelled or self._of(statistic, -sign) == self._own

    def _of(self, statistic: Var, sign: float) -> dict[Var, float]:
        """Return the powers of the values, wherever their entries stand."""
        _, powers = self.forms.factors(self._core(statistic))
        return {self._core(place.core): power * sign for place, power in powers.items()}

    def _core(self, v: Var) -> Var:
        while (eqn := self.forms.made_by(v, *CARRIERS)) is not None:
            v = eqn.data[0]
        return v


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
