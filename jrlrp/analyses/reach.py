"""What relevance reaches under the rules that were chosen: a blocked path is a path that ends."""

from collections.abc import Iterable, Mapping
from typing import Any

from jrlrp.analyses.place import NodeWalk
from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import Node
from jrlrp.trace.program import Var


class _Reached(NodeWalk[bool]):
    forward = False

    def __init__(self, rules: Mapping[Node, Any]):
        super().__init__()
        self.rules = rules
        self.blocking: dict[Node, None] = {}

    def made(self, step: Node, values: Mapping[Var, bool]) -> Iterable[tuple[Var, bool]]:
        if not any(v in values for v in step.outputs):
            return ()
        rule = self.rules.get(step)
        passes = [True] * len(step.inputs) if rule is None else rule.passes(step)
        if not all(passes):
            self.blocking[step] = None
        return [(v, True) for v, passed in zip(step.inputs, passes, strict=True) if passed]


def reached(graph: Graph, rules: Mapping[Node, Any]) -> tuple[set[Var], tuple[Node, ...]]:
    """Return the variables that relevance reaches, and the nodes whose rules hand nothing on to some input."""
    walk = _Reached(rules)
    walk.over(graph.own_nodes, dict.fromkeys(graph.outputs, True))
    return set(walk.values), tuple(walk.blocking)
