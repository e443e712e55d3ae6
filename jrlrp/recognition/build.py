"""Flat program → `Graph`: the passes that decide what each equation is, in order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jrlrp.analyses.activity import Flow, activity_of, body_flow, flow_of
from jrlrp.analyses.batch import apart, batch_of
from jrlrp.analyses.facts import Facts
from jrlrp.analyses.place import placed
from jrlrp.graph.graph import Graph, ended, schedule
from jrlrp.graph.nodes import (
    MIXING,
    Activation,
    Affine,
    Choice,
    Control,
    Custom,
    LogSumExp,
    Movement,
    Node,
    Opaque,
    Softmax,
)
from jrlrp.primitives.row import Axis, Op
from jrlrp.recognition.affine import affine_layers, settled
from jrlrp.recognition.combine import combinations, join_sums
from jrlrp.recognition.elementwise import Link, activations, elementwise_links
from jrlrp.recognition.norms import normalisations, with_normalisations
from jrlrp.rewrites.curves import values_at
from jrlrp.rewrites.spell_out import spelled_out
from jrlrp.trace import compat
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.program import Equation, Program, Var

_CONTROL = {Op.SCAN: "scan", Op.COND: "cond", Op.REMAT: "remat", Op.SHARD_MAP: "shard_map"}
_SOFTMAXES: dict[Op, Any] = {Op.SOFTMAX: Softmax, Op.LOG_SUM_EXP: LogSumExp}
# The nodes of equations that stand alone, by the kinds of their rows.
_ALONE: dict[str, tuple[Any, str]] = {
    "movement": (Movement, "movement"),
    "embedding": (Movement, "embedding"),
    "max_pool": (Choice, "max_pool"),
}


def build(
    program: Program,
    explained: Sequence[Var],
    outputs: Sequence[Var],
    ids: frozenset[Var] = frozenset(),
    gradient: bool = False,
) -> Graph:
    """Group a program's equations into nodes.

    Args:
      program: the flat program.
      explained: the inputs whose relevance is wanted.
      outputs: the variables that relevance starts from.
      ids: the integers that have a carrier.
      gradient: gradients pass the nodes, so that no statistic may be held.
    """
    program, same = spelled_out(program, explained)
    outputs = [same.get(v, v) for v in outputs]
    facts = Facts(program)
    activity = activity_of(program, explained, outputs, ids)
    batch = batch_of(program, explained, activity.active, facts)
    flow = flow_of(program, activity, explained, outputs, facts)
    read = program if gradient else with_normalisations(flow)
    if read is not program:
        program, facts = read, Facts(read)
        activity = activity_of(program, explained, outputs, ids)
        flow = flow_of(program, activity, explained, outputs, facts)
    graph = _grouped(flow, batch.axes)
    alone = not any(node.kind in MIXING for node in graph.nodes)
    return placed(replace(_settled(graph, facts, alone), batch=batch))


def _settled(graph: Graph, facts: Facts, alone: bool) -> Graph:
    """Return the graph with each fixed map as what it is in it, `alone` telling that it has no other layers."""

    def change(node: Node) -> Node:
        if isinstance(node, Control):
            return replace(node, bodies=tuple(_settled(body, facts, alone) for body in node.bodies))
        return settled(node, facts, alone) if isinstance(node, Affine) else node

    return graph.with_nodes(change)


def _grouped(flow: Flow, axes: Mapping[Var, Axis], whole: bool = False) -> Graph:
    """Return the graph of a program or, with `whole`, of a body, all of whose outputs are wanted."""
    taken: set[Equation] = set()
    nodes: list[Node] = _customs(flow, taken)
    nodes += _controls(flow, axes, taken)
    nodes += _softmaxes(flow, taken)
    links = elementwise_links(flow)
    nodes += normalisations(flow, links, taken)
    nodes += _activations(flow, links, taken)
    nodes += affine_layers(flow, links, taken)
    nodes += combinations(flow, taken)
    nodes = join_sums(flow, nodes)
    nodes += [_single(flow, eqn) for eqn in flow.live if eqn not in taken and flow.active.intersection(eqn.outputs)]
    nodes = [_informed(flow, axes, _real(node)) for node in nodes]
    nodes = sorted(nodes, key=lambda node: flow.position[node.equations[-1]])
    steps, rest = schedule(flow, nodes, whole)
    return Graph(flow.program, steps, rest, flow.explained, flow.outputs, ended(flow, nodes))


def _controls(flow: Flow, axes: Mapping[Var, Axis], taken: set[Equation]) -> list[Node]:
    """Return the control flow that relevance passes, each of its bodies as a graph."""
    nodes: list[Node] = []
    for eqn in flow.live:
        outputs = tuple(v for v in eqn.outputs if v in flow.active)
        if isinstance(eqn, ControlFlow) and eqn.op is not Op.WHILE and outputs and eqn not in taken:
            taken.add(eqn)
            bodies = tuple(_grouped(body_flow(flow, body), axes, whole=True) for body in eqn.bodies)
            inputs = tuple(dict.fromkeys(flow.active_inputs(eqn)))
            kind = _CONTROL[eqn.op]
            node = Control(kind=kind, equations=(eqn,), inputs=inputs, outputs=outputs, flow=eqn, bodies=bodies)
            nodes.append(replace(node, apart=apart(eqn, axes)))
    return nodes


def _customs(flow: Flow, taken: set[Equation]) -> list[Node]:
    """Return the equations that have rules of their own."""
    nodes: list[Node] = []
    for eqn in flow.live:
        rule = eqn.rule
        if rule is not None and flow.active.intersection(eqn.outputs):
            taken.add(eqn)
            inputs = tuple(dict.fromkeys(flow.active_inputs(eqn)))
            nodes.append(Custom(kind="custom", equations=(eqn,), inputs=inputs, outputs=eqn.outputs, rule=rule))
    return nodes


def _softmaxes(flow: Flow, taken: set[Equation]) -> list[Node]:
    nodes: list[Node] = []
    for eqn in flow.live:
        if eqn.op in _SOFTMAXES and eqn.output in flow.active:
            taken.add(eqn)
            inputs = tuple(dict.fromkeys(flow.active_inputs(eqn)))
            cls = _SOFTMAXES[eqn.op]
            nodes.append(
                cls(kind=eqn.row.kind, equations=(eqn,), inputs=inputs, outputs=eqn.outputs, group=eqn.params["group"])
            )
    return nodes


def _activations(flow: Flow, links: dict[Var, Link], taken: set[Equation]) -> list[Node]:
    nodes: list[Node] = []
    for curve in activations(flow, links):
        if not taken.intersection(curve.equations):
            equations = tuple(flow.order(set(curve.equations)))
            taken.update(equations)
            nodes.append(
                Activation(
                    kind="activation",
                    equations=equations,
                    inputs=(curve.source,),
                    outputs=(curve.output,),
                    function=partial(_evaluated, flow.facts, curve.source, curve.output, equations),
                )
            )
    return nodes


def _evaluated(facts: Facts, source: Var, sink: Var, equations: Sequence[Equation], points: np.ndarray) -> np.ndarray:
    return compat.with_numbers(lambda: values_at(equations, source, sink, points, facts))


def _single(flow: Flow, eqn: Equation) -> Node:
    """Return the node of an equation that stands alone."""
    cls, kind = _ALONE.get(eqn.row.kind, (Opaque, "opaque"))
    if eqn.op in (Op.MAX, Op.MIN, Op.CLAMP):
        cls, kind = Choice, "max_pool"
    return cls(kind=kind, equations=(eqn,), inputs=tuple(dict.fromkeys(flow.active_inputs(eqn))), outputs=eqn.outputs)


def _real(node: Node) -> Node:
    """Return the node, or an opaque one if complex numbers pass through it: the rules are for real ones."""
    variables = (*node.inputs, *node.outputs, *node.constants)
    if node.kind == "opaque" or not any(jnp.issubdtype(v.dtype, jnp.complexfloating) for v in variables):
        return node
    return Opaque(kind="opaque", equations=node.equations, inputs=node.inputs, outputs=node.outputs)


def _informed(flow: Flow, axes: Mapping[Var, Axis], node: Node) -> Node:
    found = [axes.get(v) for v in (*node.inputs, node.output)]
    if len({axis and axis.size for axis in found}) > 1:  # some of it is all one example's
        found = [None] * len(found)
    intervals = tuple(flow.interval(v) for v in node.inputs)
    return replace(node, intervals=intervals, input_axes=tuple(found[:-1]), output_axis=found[-1])
