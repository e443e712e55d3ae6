"""Flat program → `Graph`: the passes that decide what each equation is, in order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax.numpy as jnp

from jrlrp.graph.activity import Flow, analyse, reached_inside, useful_inside
from jrlrp.graph.affine import affine_layers
from jrlrp.graph.axes import Axis
from jrlrp.graph.carriers import CARRY, EMBEDDING
from jrlrp.graph.combine import combinations, join_sums
from jrlrp.graph.elementwise import Link, activations, elementwise_links
from jrlrp.graph.examples import example_axes
from jrlrp.graph.facts import Facts
from jrlrp.graph.graph import Graph, ended, schedule
from jrlrp.graph.kinds import meaning_of, rule_of
from jrlrp.graph.nodes import Activation, Choice, Control, Custom, Movement, Node, Opaque, Softmax
from jrlrp.graph.normalise import normalise
from jrlrp.graph.norms import normalisations
from jrlrp.graph.place import placed, traced_back
from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.program import Equation, Program, Var

# Kinds of control flow that have another name than their primitive.
_CONTROL = {"remat2": "remat", "checkpoint": "remat"}


def build(
    program: Program, explained: Sequence[Var], outputs: Sequence[Var], ids: frozenset[Var] = frozenset()
) -> Graph:
    """Group a program's equations into nodes.

    Args:
      program: the flat program.
      explained: the inputs whose relevance is wanted.
      outputs: the variables that relevance starts from.
      ids: the integers that have a carrier.
    """
    program, same = normalise(program, explained)
    outputs = [same.get(v, v) for v in outputs]
    axes = example_axes(program, explained, outputs)
    flow = analyse(program, explained, outputs, ids, Facts(program))
    graph, _ = traced_back(_grouped(flow, axes, ids), {})
    return placed(graph)


def _grouped(flow: Flow, axes: Mapping[Var, Axis], ids: frozenset[Var], whole: bool = False) -> Graph:
    """Return the graph of a program or, with `whole`, of a body, all of whose outputs are wanted."""
    taken: set[Equation] = set()
    nodes: list[Node] = _customs(flow, taken)
    nodes += _controls(flow, axes, ids, taken)
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


def _controls(flow: Flow, axes: Mapping[Var, Axis], ids: frozenset[Var], taken: set[Equation]) -> list[Node]:
    """Return the control flow that relevance passes, each of its bodies as a graph."""
    nodes: list[Node] = []
    for eqn in flow.live:
        outputs = tuple(v for v in eqn.outputs if v in flow.active)
        if isinstance(eqn, ControlFlow) and eqn.primitive != "while" and outputs and eqn not in taken:
            taken.add(eqn)
            bodies = tuple(_grouped(_body_flow(flow, eqn, body, ids), axes, ids, whole=True) for body in eqn.bodies)
            inputs = tuple(dict.fromkeys(flow.active_inputs(eqn)))
            kind = _CONTROL.get(eqn.primitive, eqn.primitive)
            nodes.append(Control(kind=kind, equations=(eqn,), inputs=inputs, outputs=outputs, flow=eqn, bodies=bodies))
    return nodes


def _body_flow(flow: Flow, eqn: ControlFlow, body: Body, ids: frozenset[Var]) -> Flow:
    program = body.program
    reached, _ = reached_inside(eqn, body, flow.active, ended=True)
    explained = [v for v in dict.fromkeys(program.inputs) if v in reached]
    useful, _ = useful_inside(eqn, body, flow.active, ended=True)
    outputs = [v for v in dict.fromkeys(program.outputs) if v in useful]
    return analyse(program, explained, outputs, ids, flow.facts.bodies[body])


def _customs(flow: Flow, taken: set[Equation]) -> list[Node]:
    """Return the equations that have rules of their own."""
    nodes: list[Node] = []
    for eqn in flow.live:
        rule = rule_of(eqn)
        if rule is not None and flow.active.intersection(eqn.outputs):
            taken.add(eqn)
            inputs = tuple(dict.fromkeys(flow.active_inputs(eqn)))
            nodes.append(Custom(kind="custom", equations=(eqn,), inputs=inputs, outputs=eqn.outputs, rule=rule))
    return nodes


def _softmaxes(flow: Flow, taken: set[Equation]) -> list[Node]:
    nodes: list[Node] = []
    for match in flow.facts.softmaxes:
        if match.log or match.output not in flow.active:
            continue
        equations = flow.region(match.output, match.logits)
        if equations and not taken.intersection(equations):
            taken.update(equations)
            nodes.append(
                Softmax(
                    kind="softmax",
                    equations=tuple(equations),
                    inputs=(match.logits,),
                    outputs=(match.output,),
                    dims=match.dims,
                )
            )
    return nodes


def _activations(flow: Flow, links: dict[Var, Link], taken: set[Equation]) -> list[Node]:
    nodes: list[Node] = []
    for curve in activations(flow, links):
        if not taken.intersection(curve.equations):
            equations = tuple(flow.order(set(curve.equations)))
            taken.update(equations)
            nodes.append(
                Activation(kind="activation", equations=equations, inputs=(curve.source,), outputs=(curve.output,))
            )
    return nodes


def _single(flow: Flow, eqn: Equation) -> Node:
    """Return the node of an equation that stands alone."""
    cls, kind = {"movement": (Movement, "movement"), "choice": (Choice, "max_pool")}.get(
        meaning_of(eqn) or "", (Opaque, "opaque")
    )
    if eqn.primitive in (CARRY, EMBEDDING):
        cls, kind = Movement, "embedding" if eqn.primitive == EMBEDDING else "movement"
    elif eqn.primitive == "select_n":
        cls, kind = Movement, "movement"
    elif eqn.primitive in ("max", "min", "clamp"):
        cls, kind = Choice, "max_pool"
    return cls(kind=kind, equations=(eqn,), inputs=tuple(dict.fromkeys(flow.active_inputs(eqn))), outputs=eqn.outputs)


def _real(node: Node) -> Node:
    """Return the node, or an opaque one if complex numbers pass through it: the rules are for real ones."""
    variables = (*node.inputs, *node.outputs, *node.constants)
    if node.kind == "opaque" or not any(jnp.issubdtype(v.dtype, jnp.complexfloating) for v in variables):
        return node
    return Opaque(kind="opaque", equations=node.equations, inputs=node.inputs, outputs=node.outputs)


def _informed(flow: Flow, axes: Mapping[Var, Axis], node: Node) -> Node:
    return replace(
        node,
        ranges=tuple(flow.range(v) for v in node.inputs),
        input_axes=tuple(axes.get(v) for v in node.inputs),
        output_axis=axes.get(node.output),
    )
