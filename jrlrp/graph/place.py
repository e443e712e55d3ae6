"""Where nodes stand: before and after which layers, and what the factors of products come out of."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import MIXING, Control, Node, Product
from jrlrp.trace.control import Body
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
    start, end = _after(graph, after), _before(graph, before)

    def place(node: Node) -> Node:
        node = replace(node, first=not start.intersection(node.inputs), last=not end.intersection(node.outputs))
        if not isinstance(node, Control):
            return node
        inner = [
            placed(graph, _starts(node, body, graph, start), _ends(node, body, graph, end))
            for body, graph in zip(node.flow.bodies, node.bodies, strict=True)
        ]
        return replace(node, bodies=tuple(inner))

    return graph.with_nodes(place)


def _after(graph: Graph, start: Iterable[Var]) -> set[Var]:
    """Return the variables that come after a mixing layer."""
    after = set(start)
    for node in graph.own_nodes:
        if isinstance(node, Control):
            for body, inner in zip(node.flow.bodies, node.bodies, strict=True):
                inside = _after(inner, _starts(node, body, inner, after))
                after.update(node.flow.outputs[k] for k, v in _results(body) if v in inside)
        elif node.kind in MIXING or after.intersection(node.inputs):
            after.update(node.outputs)
    return after


def _before(graph: Graph, end: Iterable[Var]) -> set[Var]:
    """Return the variables that come before a mixing layer."""
    before = set(end)
    for node in reversed(graph.own_nodes):
        if isinstance(node, Control):
            for body, inner in zip(node.flow.bodies, node.bodies, strict=True):
                inside = _before(inner, _ends(node, body, inner, before))
                before.update(node.flow.inputs[k] for k, v in _operands(body) if v in inside)
        elif node.kind in MIXING or before.intersection(node.outputs):
            before.update(node.inputs)
    return before


def _operands(body: Body) -> Iterable[tuple[int, Var]]:
    return zip(body.operands, body.program.inputs, strict=True)


def _results(body: Body) -> Iterable[tuple[int, Var]]:
    return ((k, v) for k, v in zip(body.results, body.program.outputs, strict=True) if k is not None)


def _starts(node: Control, body: Body, graph: Graph, after: set[Var]) -> set[Var]:
    """Return the inputs of a body that come after a mixing layer, in some turn."""
    start = {v for k, v in _operands(body) if node.flow.inputs[k] in after}
    while True:
        inside = _after(graph, start)
        later = {body.program.inputs[k] for turn, k in body.carried if body.program.outputs[turn] in inside}
        if later <= start:
            return start
        start |= later


def _ends(node: Control, body: Body, graph: Graph, before: set[Var]) -> set[Var]:
    """Return the outputs of a body that come before a mixing layer, in some turn."""
    end = {v for k, v in _results(body) if node.flow.outputs[k] in before}
    while True:
        inside = _before(graph, end)
        later = {body.program.outputs[turn] for turn, k in body.carried if body.program.inputs[k] in inside}
        if later <= end:
            return end
        end |= later


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
            carried = {body.program.inputs[k] for _, k in body.carried}
            start = {v: origin.get(node.flow.inputs[k]) for k, v in _operands(body) if v not in carried}
            inner, inside = traced_back(inner, start)
            bodies.append(inner)
            origin.update({node.flow.outputs[k]: inside.get(v) for k, v in _results(body)})
        return replace(node, bodies=tuple(bodies))

    return graph.with_nodes(trace), origin
