"""`Plan`: what the library made of a function, before anything runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jrlrp.errors import describe
from jrlrp.graph.build import Graph
from jrlrp.graph.nodes import KINDS, Node
from jrlrp.rules.base import Rule


@dataclass(frozen=True)
class PlanNode:
    """One node of a plan.

    Attributes:
      path: the module path; kind: the kind of node; rule: the rule it gets, None where relevance just moves.
      shape: of its output; source: the user's line; equations: the primitives it is made of.
      first, last: whether no mixing affine layer lies before (after) it.
    """

    path: str
    kind: str
    rule: Rule | None
    shape: tuple[int, ...]
    source: str
    equations: tuple[str, ...]
    first: bool
    last: bool

    def __str__(self) -> str:
        return "  ".join(_row(self))


@dataclass(frozen=True, repr=False)
class Plan:
    """The nodes of a function, each with its rule; `print(plan)` shows them as a table.

    Attributes:
      nodes: the nodes that relevance passes, in program order.
      unsupported: those of them that no rule explains.
      ended: descriptions of the places where relevance ends although values go on (comparisons, argmax, casts to
        integers, stop_gradient); those that only steer an activation or shift a softmax are left out.
      coverage: equations in named nodes / all equations that relevance passes.
    """

    nodes: tuple[PlanNode, ...]
    unsupported: list[PlanNode]
    ended: tuple[str, ...]

    @property
    def coverage(self) -> float:
        total = sum(len(node.equations) for node in self.nodes)
        return 1.0 - sum(len(node.equations) for node in self.unsupported) / total if total else 1.0

    def summary(self) -> str:
        """Return how many nodes of each kind there are, on one line."""
        counts = Counter(node.kind for node in self.nodes)
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
        return f"{len(self.nodes)} nodes ({kinds or 'none'}), {len(self.unsupported)} unsupported"

    def __str__(self) -> str:
        rows = [("path", "kind", "rule", "eqns", "shape", "source"), *(_row(node) for node in self.nodes)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines = ["  ".join(f"{cell:<{n}}" for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows]
        ended = [f"relevance ends at: {place}" for place in self.ended]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], self.summary(), *ended])

    __repr__ = __str__


def _row(node: PlanNode) -> tuple[str, ...]:
    rule = "unsupported" if node.kind == "opaque" and node.rule is None else repr(node.rule) if node.rule else "-"
    shape = "×".join(map(str, node.shape)) or "scalar"
    return node.path or "-", node.kind, rule, str(len(node.equations)), shape, node.source or "-"


def make_plan(graph: Graph, rules: Mapping[Node, Rule], unsupported: Sequence[Node]) -> Plan:
    """Return the plan of a graph with the rules chosen for it."""
    rows = {node: _plan_node(node, rules.get(node)) for node in graph.nodes}
    return Plan(
        tuple(rows.values()),
        [rows[node] for node in unsupported],
        tuple(dict.fromkeys(describe(eqn) for eqn in graph.ended)),
    )


def _plan_node(node: Node, rule: Rule | None) -> PlanNode:
    primitives = tuple(eqn.primitive for eqn in node.equations)
    return PlanNode(node.path, node.kind, rule, node.shape, node.source, primitives, node.first, node.last)
