"""What values are, seen from one that they are computed of: linear in it, curved, or statistics of it."""

from dataclasses import dataclass, replace

from jrlrp.analyses.activity import Flow
from jrlrp.primitives.row import Op
from jrlrp.rewrites.forms import Forms
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.program import Equation, Literal, Var

_SELECTS = (Op.SLICE, Op.PART, Op.GATHER, Op.DYNAMIC_SLICE)  # a part of the entries
_ADDS = (Op.ADD, Op.SUB, Op.MAX, Op.MIN)
CARRIERS = (Op.RESHAPE, Op.TRANSPOSE, Op.SQUEEZE, Op.BROADCAST, Op.CAST, Op.IDENTITY)


class Sums:
    """The active values that are sums over axes, or made of such by pointwise operations and movements.

    Parts of a value that are added up are a sum over an axis too.
    """

    def __init__(self, flow: Flow, forms: Forms):
        self.flow, self.forms = flow, forms
        self._found: set[Var] = set()
        self._parts: set[Var] = set()

    def __contains__(self, v: Var) -> bool:
        return v in self._found

    def take(self, eqn: Equation) -> None:
        """Take in the next equation."""
        active = self.flow.active_inputs(eqn)
        if not self.flow.active.intersection(eqn.outputs) or not active:
            return
        keeps = eqn.row.pointwise or eqn.op in CARRIERS
        if eqn.op in _SELECTS or (keeps and all(v in self._parts or v in self._found for v in active)):
            self._parts.update(eqn.outputs)
        adds = eqn.op in _ADDS and len(active) == 2 and all(v in self._parts for v in active)
        made = keeps and any(v in self._found for v in active)
        if adds or made or is_sum(self.flow, self.forms, eqn):
            self._found.update(eqn.outputs)


def is_sum(flow: Flow, forms: Forms, eqn: Equation) -> bool:
    return eqn.op in (Op.SUM, Op.MAXIMUM, Op.MINIMUM) or _is_square_sum(flow, forms, eqn) or _is_fixed_sum(flow, eqn)


def _is_square_sum(flow: Flow, forms: Forms, eqn: Equation) -> bool:
    """Tell Σ x·x, written as a matrix product of rows with themselves."""
    if eqn.op is not Op.DOT or not all(v in flow.active for v in eqn.data):
        return False
    a, b = (forms.place(v) for v in eqn.data)
    contract, batch = eqn.params["dimension_numbers"]
    if a.core is not b.core:
        return False
    pairs = [*zip(*contract, strict=True), *zip(*batch, strict=True)]
    same = all(a.dims[d] == b.dims[e] for d, e in pairs)
    return same and all({*own.dims} - {own.dims[p[k]] for p in pairs} <= {None} for k, own in enumerate((a, b)))


def _is_fixed_sum(flow: Flow, eqn: Equation) -> bool:
    """Tell a sum written as a matrix product with numbers: a mean, say."""
    if eqn.op is not Op.DOT:
        return False
    weights = [v for v in eqn.data if v not in flow.active]
    return len(weights) == 1 and flow.facts[weights[0]].fixed and not flow.facts.varying(weights[0])


def may_belong(flow: Flow, forms: Forms, eqn: Equation) -> bool:
    """Tell whether an equation may be part of a normalisation."""
    plain = eqn.rule is None and not isinstance(eqn, ControlFlow) and eqn.row.kind not in ("opaque", "softmax")
    moves = eqn.op in CARRIERS or (eqn.op in _SELECTS and len(eqn.outputs) == 1)
    return plain and (eqn.row.pointwise or moves or is_sum(flow, forms, eqn))


@dataclass(frozen=True)
class Class:
    """What a value is, seen from the source: "linear" in it once statistics are held, "curved", or a "statistic".

    `summed`: it was summed over axes; `inverse`: it falls where what it is made of grows; `scaled`: a statistic
    divides it; `part`: it is made of some of the entries.
    """

    kind: str
    summed: bool = False
    inverse: bool = False
    scaled: bool = False
    part: bool = False

    @property
    def steady(self) -> bool:
        """Whether it may be held."""
        return self.kind == "statistic" or (self.kind == "linear" and self.summed)


SOURCE = Class("linear")


def class_of(flow: Flow, forms: Forms, eqn: Equation, operands: list[Class | None]) -> Class | None:
    """Return the class of an equation's output, None for what no normalisation has in it."""
    active = [c for c in operands if c is not None]
    if eqn.op in CARRIERS:  # entries stay in order, so that relevance can be passed on in place
        return None if eqn.op is Op.TRANSPOSE and not active[0].steady else active[0]
    if eqn.op in _SELECTS:
        return active[0] if active[0].steady else replace(active[0], part=True)
    if _is_square_sum(flow, forms, eqn):
        return Class("statistic", summed=True)
    if eqn.op in _ADDS and len(active) == 2 and all(c.part for c in active):  # a sum, part by part
        linear = eqn.op in (Op.ADD, Op.SUB) and all(c.kind == "linear" for c in active)
        scaled = linear and any(c.scaled for c in active)
        return Class("linear" if linear else "statistic", summed=True, scaled=scaled, part=True)
    if is_sum(flow, forms, eqn):
        linear = active[0].kind == "linear" and eqn.op not in (Op.MAXIMUM, Op.MINIMUM)
        return Class("linear" if linear else "statistic", summed=True, scaled=linear and active[0].scaled)
    if eqn.op in (Op.MUL, Op.DIV):
        return _scaled(flow, eqn, operands)
    linear = eqn.op in (Op.ADD, Op.SUB, Op.NEG) or (eqn.op is Op.SELECT and operands[0] is None)
    if linear and any(c.kind == "linear" for c in active) and all(c.kind == "linear" or c.steady for c in active):
        part = any(c.part and not c.summed for c in active)
        summed = all(c.summed for c in active)
        return Class("linear", summed=summed, scaled=any(c.scaled for c in active), part=part)
    if all(c.steady for c in active):
        inverse = any(c.inverse for c in active)
        part = any(c.part for c in active)
        return Class("statistic", summed=True, inverse=inverse != _falls(eqn, operands), part=part)
    return Class("curved", part=all(c.part or c.steady for c in active))


def _scaled(flow: Flow, eqn: Equation, operands: list[Class | None]) -> Class:
    """Return the class of a product or quotient."""
    a, b = operands
    divides, part = eqn.op is Op.DIV, all(c.part or c.steady for c in operands if c is not None)
    if a is not None and (b is None or (not divides and a.steady and not b.steady)):
        a, b = b, a  # b is what scales
    if b is None:
        return Class("curved", part=part)
    if a is None and not (divides and operands[1] is b):
        negative = flow.interval(eqn.inputs[0] if operands[0] is None else eqn.inputs[1])[1] < 0
        return replace(b, inverse=b.inverse != negative)
    if a is not None and a.kind == "linear" and b.steady and not (a.summed and b.kind == "linear"):
        return Class("linear", summed=a.summed, scaled=a.scaled or b.inverse != divides, part=a.part and not a.summed)
    if b.steady and (a is None or a.steady):
        inverse = b.inverse != divides or (a is not None and a.inverse)
        return Class("statistic", summed=True, inverse=inverse)
    return Class("curved", part=part)


def _falls(eqn: Equation, operands: list[Class | None]) -> bool:
    """Tell whether what an equation makes falls where its operand rises: a power below zero, a negative."""
    if eqn.op is Op.POW:
        return isinstance(eqn.inputs[1], Literal) and eqn.inputs[1].value < 0
    if eqn.op is Op.SUB:
        return operands[0] is None
    return eqn.op is Op.NEG or (eqn.row.exponent is not None and eqn.row.exponent(eqn) < 0)


def inverse_of(flow: Flow, forms: Forms, statistic: Var, leaves: set[Var]) -> bool:
    """Tell whether a statistic falls where the values that it is taken of grow."""
    classes: dict[Var, Class] = dict.fromkeys(leaves, SOURCE)
    pending, inner = [statistic], set()
    while pending:
        v = pending.pop()
        eqn = flow.definition.get(v)
        if v in leaves or eqn is None or eqn in inner:
            continue
        inner.add(eqn)
        pending += flow.active_inputs(eqn)
    for eqn in flow.order(inner):
        found = class_of(flow, forms, eqn, [classes.get(v) for v in eqn.operands])
        classes.update(dict.fromkeys(eqn.outputs, found or Class("curved")))
    return classes[statistic].inverse


def held_operands(eqn: Equation, operands: list[Class | None]) -> frozenset[int]:
    """Return which operands of a linear equation are statistics."""
    positions = {k for k, c in enumerate(operands) if c is not None and c.kind == "statistic"}
    if eqn.op in (Op.MUL, Op.DIV) and not positions and None not in operands:
        positions = {k for k, c in enumerate(operands) if c is not None and c.summed}
    return frozenset(positions)
