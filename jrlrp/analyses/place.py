"""Where nodes stand: before and after which layers, and what the factors of products come out of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import MIXING, Affine, Control, Node, Product
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.program import Var
from jrlrp.trace.walk import Walk

V = TypeVar("V")

# Kinds of node that an origin is seen through.
_THROUGH = frozenset({"movement", "factor", "scale"})
# Kinds that make of a softmax's weights other such weights: the largest of them, sums of them.
_WEIGHTS_STAY = frozenset({"max_pool", "average_pool", "normalisation"})


class NodeWalk(Walk[V], Generic[V]):
    """A walk over the nodes of a graph."""

    def control(self, step: Any) -> ControlFlow | None:
        return step.flow if isinstance(step, Control) else None

    def body_steps(self, step: Any, number: int) -> Sequence[Any]:
        return step.bodies[number].own_nodes


class _Mixed(NodeWalk[bool]):
    """What comes after a mixing affine layer on some path."""

    def made(self, step: Node, values: Mapping[Var, bool]) -> Iterable[tuple[Var, bool]]:
        reached = step.kind in MIXING or any(v in values for v in step.inputs)
        return [(v, True) for v in step.outputs] if reached else ()


class _Mixing(NodeWalk[bool]):
    """What comes before a mixing affine layer on some path."""

    forward = False

    def made(self, step: Node, values: Mapping[Var, bool]) -> Iterable[tuple[Var, bool]]:
        reached = step.kind in MIXING or any(v in values for v in step.outputs)
        return [(v, True) for v in step.inputs] if reached else ()


class _Convolved(NodeWalk[bool]):
    """What a convolution whose windows overlap makes, and all that comes after it on some path."""

    def made(self, step: Node, values: Mapping[Var, bool]) -> Iterable[tuple[Var, bool]]:
        return [(v, True) for v in step.outputs] if _convolved(step, values) else ()


def _convolved(node: Node, values: Mapping[Var, bool]) -> bool:
    return (isinstance(node, Affine) and node.overlaps) or any(v in values for v in node.inputs)


class _Origins(NodeWalk[str]):
    """The kind of node that each variable comes out of, "" where it is not one kind."""

    def join(self, old: str, new: str) -> str:
        return old if old == new else ""

    def made(self, step: Node, values: Mapping[Var, str]) -> Iterable[tuple[Var, str]]:
        kinds = {values.get(v, "") for v in step.inputs}
        if step.kind == "sum":  # of softmaxes is made of softmaxes; any other is a sum
            kinds = kinds if kinds == {"softmax"} else {"sum"}
        elif step.kind not in _THROUGH and not (step.kind in _WEIGHTS_STAY and kinds == {"softmax"}):
            kinds = {step.kind}
        return [(v, kinds.pop() if len(kinds) == 1 else "") for v in step.outputs] if kinds else ()


def placed(graph: Graph) -> Graph:
    """Say of each node whether a mixing affine layer, or a convolution, lies before or after it, and name it.

    And of each factor of a product, which kind of node it comes out of; None for an input.
    """
    walks: list[Walk] = [_Mixed(), _Mixing(), _Convolved(), _Origins()]
    for walk in walks:
        walk.over(graph.own_nodes, {})
    return _told(graph, [walk.values for walk in walks], graph.names)


def _told(graph: Graph, found: Sequence[Mapping], names: Mapping) -> Graph:
    after, before, convolved, origins = found

    def tell(node: Node) -> Node:
        told = replace(
            node,
            name=names.get(node, ""),
            first=not any(v in after for v in node.inputs),
            last=not any(v in before for v in node.outputs),
            convolved=_convolved(node, convolved),
        )
        if isinstance(told, Product):
            return replace(told, origins=tuple(origins.get(v) or None for v in told.inputs))
        if isinstance(told, Control):
            return replace(told, bodies=tuple(_told(body, found, names) for body in told.bodies))
        return told

    return graph.with_nodes(tell)
