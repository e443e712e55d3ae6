"""What relevance reaches under the rules that were chosen: a blocked path is a path that ends."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from jrlrp.analyses.place import NodeWalk
from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import Node
from jrlrp.trace.program import Var


class _Reached(NodeWalk[bool]):
    forward = False

    def __init__(self, rules: Mapping[Node, Any], starts: Collection[Node]):
        super().__init__()
        self.rules = rules
        self.starts = starts
        self.blocking: dict[Node, None] = {}

    def made(self, step: Node, values: Mapping[Var, bool]) -> Iterable[tuple[Var, bool]]:
        if not any(v in values for v in step.outputs) and step not in self.starts:
            return ()
        rule = self.rules.get(step)
        passes = [True] * len(step.inputs) if rule is None else rule.passes(step)
        if not all(passes):
            self.blocking[step] = None
        return [(v, True) for v, passed in zip(step.inputs, passes, strict=True) if passed]


def reached(
    graph: Graph, rules: Mapping[Node, Any], outputs: Iterable[Var], starts: Collection[Node] = ()
) -> tuple[set[Var], tuple[Node, ...]]:
    """Return the variables that relevance reaches, and the nodes whose rules hand nothing on to some input.

    Args:
      graph: the graph.
      rules: the rule of each node; one without hands on all that it gets.
      outputs: the outputs at which relevance begins.
      starts: the nodes at whose output it begins, too.
    """
    walk = _Reached(rules, starts)
    walk.over(graph.own_nodes, dict.fromkeys(outputs, True))
    return set(walk.values), tuple(walk.blocking)
