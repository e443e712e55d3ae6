"""Normalisations (layer, RMS, group, instance norm) in any spelling, by dataflow.

A normalisation is a region from one variable to another of its size that is affine in it once its statistics are held:
what was summed over axes after something nonlinear, or made of such sums. And it divides by a statistic.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from jrlrp.graph.activity import Flow
from jrlrp.graph.elementwise import Link
from jrlrp.graph.kinds import is_pointwise
from jrlrp.graph.nodes import Normalisation
from jrlrp.trace.program import Equation, Literal, Var

_REACH = 6  # equations after a scaling within which its branches may join: x·s + (b − m·s)
_SUMS = frozenset({"reduce_sum", "reduce_max", "reduce_min"})
_CARRIERS = frozenset(
    """reshape transpose squeeze expand_dims broadcast_in_dim convert_element_type reduce_precision sharding_constraint
    copy neg""".split()
)


def normalisations(flow: Flow, links: Mapping[Var, Link], taken: set[Equation]) -> list[Normalisation]:
    """Return all normalisations, with the gain and bias after them, leaving the equations in `taken` alone."""
    nodes = []
    dominators = _Dominators(flow)
    for eqn in flow.live:
        if eqn in taken or not _scales(flow, eqn):
            continue
        source = dominators.common(flow.active_inputs(eqn))
        found = source and _match(flow, eqn, source)
        if found and not taken.intersection(found.equations):
            node = _with_gain(flow, links, taken, found)
            taken.update(node.equations)
            nodes.append(node)
    return nodes


class _Dominators:
    """The nearest variable that all of a value's relevance has to pass."""

    def __init__(self, flow: Flow):
        self._above: dict[Var, Var | None] = dict.fromkeys(flow.explained)
        self._depth = dict.fromkeys(flow.explained, 0)
        for eqn in flow.live:
            active = flow.active_inputs(eqn)
            above = self.common(active) if active else None
            for out in eqn.outputs:
                self._above[out] = above
                self._depth[out] = 0 if above is None else self._depth[above] + 1

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


def _scales(flow: Flow, eqn: Equation) -> bool:
    """Tell whether an equation multiplies or divides one active value by another, one of them made of sums."""
    if eqn.primitive not in ("mul", "div") or eqn.output not in flow.active or len(set(flow.active_inputs(eqn))) < 2:
        return False
    return any(_is_made_of_sums(flow, v) for v in eqn.inputs)


def _is_made_of_sums(flow: Flow, v: Var) -> bool:
    pending, seen = [v], 0
    while pending and seen < 40:
        eqn = flow.definition.get(pending.pop())
        seen += 1
        if eqn is None or not flow.active.intersection(eqn.outputs):
            continue
        if eqn.primitive in _SUMS or _is_square_sum(eqn):
            return True
        if is_pointwise(eqn) or eqn.primitive in _CARRIERS:
            pending += flow.active_inputs(eqn)
    return False


def _is_square_sum(eqn: Equation) -> bool:
    """Tell Σ x·x, written as a matrix product of rows with themselves."""
    if eqn.primitive != "dot_general" or eqn.inputs[0] is not eqn.inputs[1]:
        return False
    (contract, other), (batch, _) = eqn.params["dimension_numbers"]
    return contract == other and len(contract) + len(batch) == eqn.inputs[0].ndim


@dataclass(frozen=True)
class _Class:
    """What a value is, seen from the source: "linear" in it once statistics are held, "curved", or a "statistic".

    `summed`: it was summed over axes; `inverse`: something was divided by it or by what it is made of; `scaled`: a
    statistic divides it.
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


def _match(flow: Flow, eqn: Equation, source: Var) -> Normalisation | None:
    """Return the normalisation of `source` that ends at an equation or soon after it."""
    sink: Var = eqn.output
    for _ in range(_REACH):
        region = flow.region(sink, source)
        if region is not None:
            return _classified(flow, region, source, sink)
        use = flow.only_use(sink)
        if use is None or not is_pointwise(use):
            return None
        sink = use.output
    return None


def _classified(flow: Flow, region: list[Equation], source: Var, sink: Var) -> Normalisation | None:
    classes = {source: _SOURCE}
    held: dict[Equation, frozenset[int]] = {}
    for eqn in region:
        if len(eqn.outputs) != 1:
            return None
        operands = [classes.get(v) for v in eqn.inputs]
        found = _class_of(eqn, operands)
        if found is None:
            return None
        classes[eqn.output] = found
        if found.kind == "linear":
            held[eqn] = _held(eqn, operands)
    end = classes[sink]
    if end.kind != "linear" or end.summed or not end.scaled or sink.size != source.size:
        return None
    return Normalisation(kind="normalisation", equations=tuple(region), inputs=(source,), outputs=(sink,), held=held)


def _class_of(eqn: Equation, operands: list[_Class | None]) -> _Class | None:
    """Return the class of an equation's output, None for what no normalisation has in it."""
    active = [c for c in operands if c is not None]
    if eqn.primitive in _CARRIERS:  # entries stay in order, so that relevance can be passed on in place
        return None if eqn.primitive == "transpose" and not active[0].steady else active[0]
    if eqn.primitive in _SUMS:
        linear = active[0].kind == "linear" and eqn.primitive == "reduce_sum"
        return _Class("linear" if linear else "statistic", summed=True, scaled=linear and active[0].scaled)
    if _is_square_sum(eqn):
        return _Class("statistic", summed=True)
    if not is_pointwise(eqn):
        return None
    if eqn.primitive in ("mul", "div"):
        return _scaled(eqn, operands)
    linear = eqn.primitive in ("add", "sub", "add_any") or (eqn.primitive == "select_n" and operands[0] is None)
    if linear and any(c.kind == "linear" for c in active) and all(c.kind == "linear" or c.steady for c in active):
        return _Class("linear", summed=all(c.summed for c in active), scaled=any(c.scaled for c in active))
    if all(c.steady for c in active):
        return _Class("statistic", summed=True, inverse=_inverts(eqn) != any(c.inverse for c in active))
    return _Class("curved")


def _scaled(eqn: Equation, operands: list[_Class | None]) -> _Class:
    """Return the class of a product or quotient."""
    a, b = operands
    divides = eqn.primitive == "div"
    if a is not None and (b is None or (not divides and a.steady and not b.steady)):
        a, b = b, a  # b is what scales
    if b is None:
        return _Class("curved")
    if a is None and not (divides and operands[1] is b):
        return b
    if a is not None and a.kind == "linear" and b.steady and not (a.summed and b.kind == "linear"):
        return _Class("linear", summed=a.summed, scaled=a.scaled or b.inverse != divides)
    if b.steady and (a is None or a.steady):
        inverse = b.inverse != divides or (a is not None and a.inverse)
        return _Class("statistic", summed=True, inverse=inverse)
    return _Class("curved")


def _inverts(eqn: Equation) -> bool:
    """Tell whether what an equation makes falls where its operand rises: a power below zero."""
    if eqn.primitive == "pow":
        return isinstance(eqn.inputs[1], Literal) and eqn.inputs[1].value < 0
    return eqn.primitive == "rsqrt" or (eqn.primitive == "integer_pow" and eqn.params["y"] < 0)


def _held(eqn: Equation, operands: list[_Class | None]) -> frozenset[int]:
    """Return which operands of a linear equation are statistics."""
    positions = {k for k, c in enumerate(operands) if c is not None and c.kind == "statistic"}
    if eqn.primitive in ("mul", "div") and not positions and None not in operands:
        positions = {k for k, c in enumerate(operands) if c is not None and c.summed}
    return frozenset(positions)


def _with_gain(flow: Flow, links: Mapping[Var, Link], taken: set[Equation], node: Normalisation) -> Normalisation:
    """Return a normalisation with the constant scales and shifts after it that nothing else reads."""
    equations, held, v = list(node.equations), dict(node.held), node.output
    committed = len(equations), v
    while (eqn := flow.only_use(v)) is not None and eqn not in taken:
        link = links.get(eqn.output)
        moves = eqn.primitive in ("reshape", "squeeze", "expand_dims")
        if not moves and (link is None or link.source is not v or link.role == "curve"):
            break
        equations.append(eqn)
        held[eqn] = frozenset()
        v = eqn.output
        if link is not None and link.role in ("scale", "shift"):
            committed = len(equations), v
    count, sink = committed
    kept = tuple(equations[:count])
    return replace(node, equations=kept, outputs=(sink,), held={eqn: held[eqn] for eqn in kept if eqn in held})
