"""Affine layers: a dot, a convolution or another linear map, with the constant scales and shifts after it.

Bias and batch norm are found by following the one use of each value, in whatever order and spelling they come.
"""

from collections.abc import Iterable
from dataclasses import replace

from jrlrp.analyses.activity import Flow
from jrlrp.analyses.facts import Facts
from jrlrp.graph.nodes import Affine, Step
from jrlrp.primitives.axes import image
from jrlrp.primitives.row import Axis, Op
from jrlrp.recognition.elementwise import Link, linear_role
from jrlrp.trace.program import Equation, Literal, Region, Var

_LINEAR = ("dense", "conv", "average_pool", "linear")
_MOVES = (Op.RESHAPE, Op.TRANSPOSE, Op.SQUEEZE, Op.BROADCAST, Op.REVERSE)


def affine_layers(flow: Flow, links: dict[Var, Link], taken: set[Equation]) -> list[Affine]:
    """Return all affine layers and average pools, leaving the equations in `taken` alone."""
    layers = []
    for eqn in flow.live:
        if eqn not in taken and (core := _core(flow, eqn)) is not None:
            layer = _follow(flow, links, taken, core)
            taken.update(layer.equations)
            layers.append(layer)
    for v, link in links.items():
        if link.role in ("scale", "shift", "factor", "offset") and link.equation not in taken:
            layer = _scale_layer(flow, links, taken, v, link)
            taken.update(layer.equations)
            layers.append(layer)
    return layers


def _core(flow: Flow, eqn: Equation) -> Affine | None:
    """Return the layer of a linear equation alone, or None if the equation is no linear map of one active operand."""
    row = eqn.row
    active = [k for k in eqn.data_operands if eqn.inputs[k] in flow.active]
    if row.kind not in _LINEAR or row.linear is None or len(active) != 1 or len(eqn.outputs) != 1:
        return None
    if eqn.output not in flow.active or active[0] not in row.linear(eqn):
        return None
    k = active[0]
    weighted = row.kind in ("dense", "conv")
    kind = "fixed" if weighted and flow.facts[eqn.inputs[1 - k]].fixed else row.kind
    return Affine(
        kind=kind,
        equations=(eqn,),
        inputs=(eqn.inputs[k],),
        outputs=eqn.outputs,
        core=eqn,
        operand=k,
        weight=eqn.inputs[1 - k] if weighted else None,
        own=_own_axes(flow, eqn.inputs[k]),
    )


def settled(node: Affine, facts: Facts, alone: bool) -> Affine:
    """Return a fixed map as what it is in its network: a layer, if there is no other; a sum, if it weighs all alike."""
    if node.kind != "fixed":
        return node
    assert node.weight is not None
    if alone:
        return replace(node, kind=node.anchor.row.kind)
    factors = [step for step in node.steps if step.role not in ("move", "cast")]
    numbers = [step.constant for step in factors if step.role == "scale" and not step.negate]
    alike = node.anchor.op is Op.DOT and not facts.varying(node.weight) and facts.interval(node.weight)[0] >= 0
    positive = all(v is not None and facts[v].scalar and facts.interval(v)[0] >= 0 for v in numbers)
    pool = alike and positive and len(numbers) == len(factors)
    return replace(node, kind="average_pool", weight=None) if pool else node


def _follow(flow: Flow, links: dict[Var, Link], taken: set[Equation], layer: Affine) -> Affine:
    """Extend a layer along the only uses of its output, up to the last scale or shift that belongs to it."""
    core, weight = layer.core, layer.weight
    assert core is not None
    places: list[Axis | None] = []
    if weight is not None:
        operand = 1 - layer.operand
        places = [image(core, operand, Axis(d, n)) for d, n in enumerate(weight.shape)]
    steps: list[Step] = []
    committed, v = 0, layer.output
    while (eqn := flow.only_use(v)) is not None and eqn not in taken:
        step = _step(flow, links, eqn, v, layer, places)
        if step is None:
            break
        steps.append(step)
        if step.role == "move":
            places = [p and image(eqn, 0, p) for p in places]
        if step.role in ("scale", "shift") or _adds_devices(eqn, layer):
            committed = len(steps)
        v = eqn.output
    return _extended(layer, steps[:committed])


def _extended(layer: Affine, steps: list[Step]) -> Affine:
    if not steps:
        return layer
    return Affine(
        kind=layer.kind,
        equations=(*layer.equations, *(step.equation for step in steps)),
        inputs=layer.inputs,
        outputs=steps[-1].equation.outputs,
        core=layer.core,
        operand=layer.operand,
        weight=layer.weight,
        own=layer.own,
        steps=tuple(steps),
    )


def _step(
    flow: Flow, links: dict[Var, Link], eqn: Equation, v: Var, layer: Affine, places: Iterable[Axis | None]
) -> Step | None:
    """Return what an equation does to an affine layer's output `v`, or None if it is no part of that layer."""
    if (eqn.op in _MOVES and eqn.output.size == v.size) or _adds_devices(eqn, layer):
        return Step(eqn, "move")
    link = links.get(eqn.output)
    if link is None or link.role == "curve" or link.equation is not eqn:
        return None
    step = linear_step(flow, eqn, v)
    if step.role in ("cast", "move"):
        return step
    if isinstance(eqn, Region) and step.constant in flow.dependent:
        return None  # a statistic is each example's own, and no weight, also where there is one example
    if layer.kind == "average_pool":
        # Weights of a pool are not negative; a shift after it is a layer of its own.
        known = step.constant is not None and not step.negate and flow.interval(step.constant)[0] >= 0
        return step if step.role == "scale" and known and (step.invert or link.role == "factor") else None
    if layer.weight is None:
        return step if link.role == "factor" else None
    if step.role == "scale" and step.constant is not None:
        return _per_channel(flow, step, places)
    return step


def _adds_devices(eqn: Equation, layer: Affine) -> bool:
    """Tell whether an equation adds up what devices make of parts of a layer's input by their parts of the weights."""
    if eqn.op is not Op.COLLECTIVE or eqn.row.kind != "average_pool" or layer.weight is None:
        return False
    axes, together = frozenset(eqn.params.get("axes", ())), eqn.params.get("axis_index_groups") is None
    return bool(axes) and together and all(axes <= (v or frozenset()) for v in (layer.own, layer.weight.varying))


def _own_axes(flow: Flow, v: Var) -> frozenset[str] | None:
    """Return the axes of a mesh along which a value truly differs: what is spread over devices is the same on all."""
    while (eqn := flow.definition.get(v)) is not None and eqn.op in (*_MOVES, Op.CAST):
        v = eqn.inputs[0]
    return v.varying


def linear_step(flow: Flow, eqn: Equation, v: Var) -> Step:
    """Return the step that an elementwise linear equation makes of its active operand `v`."""
    role, constant = linear_role(flow, eqn, v)
    if eqn.op is Op.NEG:
        return Step(eqn, "scale", negate=True)
    if role == "cast":
        return Step(eqn, "cast")
    if role in ("factor", "scale"):
        return Step(eqn, "scale", constant, invert=eqn.op is Op.DIV)
    if eqn.op is Op.SUB:
        return Step(eqn, "shift", constant, negate=eqn.inputs[1] is v, subtract=eqn.inputs[0] is v)
    return Step(eqn, "shift", constant)


def _per_channel(flow: Flow, step: Step, places: Iterable[Axis | None]) -> Step | None:
    """Say where the scale's constant varies in terms of the weights' axes; None if it varies elsewhere too."""
    assert step.constant is not None
    dims = [p.dim if p is not None and p.inner * p.outer == 1 else None for p in places]
    if isinstance(step.constant, Literal) or not step.constant.shape:
        return Step(step.equation, "scale", step.constant, step.invert, places=(None,) * len(dims))
    if not flow.facts[step.constant].varying <= set(dims):
        return None
    return Step(step.equation, "scale", step.constant, step.invert, places=tuple(dims))


def _scale_layer(flow: Flow, links: dict[Var, Link], taken: set[Equation], v: Var, link: Link) -> Affine:
    """Return the longest elementwise affine layer that begins with `link`: batch norm alone, say."""
    roles, steps = [link.role], [linear_step(flow, link.equation, link.source)]
    while (use := flow.only_use(v)) is not None and use not in taken:
        after = links.get(use.output)
        if after is None or after.role in ("curve", "cast"):
            break
        roles.append(after.role)
        steps.append(linear_step(flow, use, v))
        v = use.output
    shifts = [step.constant for step in steps if step.role == "shift" and step.constant is not None]
    return Affine(
        kind="factor" if set(roles) == {"factor"} else "scale",
        equations=tuple(step.equation for step in steps),
        inputs=(link.source,),
        outputs=(v,),
        core=None,
        steps=tuple(steps),
        standardises=all(len(flow.facts.varying(c)) <= 1 for c in shifts),
    )
