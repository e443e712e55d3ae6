"""Where nodes stand: before and after which layers, and what the factors of products come out of."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import MIXING, Control, Node, Product
from jrlrp.trace.control import Body, over_turns
from jrlrp.trace.program import Var

# Kinds of node that an origin is seen through.
_THROUGH = frozenset({"movement", "factor", "scale"})
# Kinds that make of a softmax's weights other such weights: the largest of them, sums of them.
_WEIGHTS_STAY = frozenset({"max_pool", "average_pool", "normalisation"})


def placed(graph: Graph, after: Iterable[Var] = (), before: Iterable[Var] = ()) -> Graph:
    """Say of each node whether a mixing affine layer lies before or after it on any path.

    Args:
      after, before: the program's inputs that come after such a layer, and outputs that come before one.
    """
    start, end = _spread(graph, after, forward=True), _spread(graph, before, forward=False)

    def place(node: Node) -> Node:
        node = replace(node, first=not start.intersection(node.inputs), last=not end.intersection(node.outputs))
        if not isinstance(node, Control):
            return node
        bodies = []
        for body, inner in zip(node.flow.bodies, node.bodies, strict=True):
            own_start, _ = _entered(node, body, inner, start, forward=True)
            own_end, _ = _entered(node, body, inner, end, forward=False)
            bodies.append(placed(inner, own_start, own_end))
        return replace(node, bodies=tuple(bodies))

    return graph.with_nodes(place)


def _spread(graph: Graph, start: Iterable[Var], forward: bool) -> set[Var]:
    """Return the variables that come after a mixing layer or, if not `forward`, before one; `start` does."""
    reached = set(start)
    for node in graph.own_nodes if forward else reversed(graph.own_nodes):
        near, far = (node.inputs, node.outputs) if forward else (node.outputs, node.inputs)
        if isinstance(node, Control):
            for body, inner in zip(node.flow.bodies, node.bodies, strict=True):
                _, inside = _entered(node, body, inner, reached, forward)
                ends = node.flow.exits(body) if forward else node.flow.entries(body)
                reached.update(outside for outside, v in ends if v in inside)
        elif node.kind in MIXING or reached.intersection(near):
            reached.update(far)
    return reached


def _entered(node: Control, body: Body, graph: Graph, reached: set[Var], forward: bool) -> tuple[set[Var], set[Var]]:
    """Return at which inputs of a body (outputs, if not `forward`) what is reached enters it, and where it spreads."""
    starts = node.flow.entries(body) if forward else node.flow.exits(body)
    repeats = body.repeats if forward else [(v, output) for output, v in body.repeats]
    start = {v for outside, v in starts if outside in reached}
    return over_turns(start, repeats, lambda start: _spread(graph, start, forward))


def traced_back(graph: Graph, known: Mapping[Var, str | None]) -> tuple[Graph, dict[Var, str | None]]:
    """Say of each factor of a product which kind of node it comes out of.

    Args:
      known: what it is for the program's inputs.

    Returns:
      The graph, and what it is for every variable.
    """
    origin = dict(known)

    def trace(node: Node) -> Node:
        if isinstance(node, Control):
            return trace_bodies(node)
        if isinstance(node, Product):
            node = replace(node, origins=tuple(origin.get(v) for v in node.inputs))
        kinds = {origin.get(v) for v in node.inputs}
        if node.kind not in _THROUGH and not (node.kind in _WEIGHTS_STAY and kinds == {"softmax"}):
            kinds = {node.kind}
        origin.update(dict.fromkeys(node.outputs, kinds.pop() if len(kinds) == 1 else None))
        return node

    def trace_bodies(node: Control) -> Node:
        bodies = []
        for body, inner in zip(node.flow.bodies, node.bodies, strict=True):
            carried = {v for _, v in body.repeats}
            start = {v: origin.get(outside) for outside, v in node.flow.entries(body) if v not in carried}
            inner, inside = traced_back(inner, start)
            bodies.append(inner)
            origin.update({outside: inside.get(v) for outside, v in node.flow.exits(body)})
        return replace(node, bodies=tuple(bodies))

    return graph.with_nodes(trace), origin
