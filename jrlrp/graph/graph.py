"""`Graph`: a program as nodes, in the order in which they run."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from jrlrp.analyses.activity import Flow
from jrlrp.analyses.batch import Batch
from jrlrp.graph.nodes import Control, Leading, Node
from jrlrp.primitives.row import Op
from jrlrp.trace.program import Equation, Program, Var


@dataclass(frozen=True, eq=False)
class Graph:
    """A program as nodes.

    Attributes:
      steps: what leads to the explained outputs, in order: nodes, and the plain equations that hand on no relevance.
      rest: the plain equations that only other outputs (or effects) of the function need, in order.
      explained, outputs: the variables at which relevance ends and begins.
      ended: the equations at which relevance ends, but for those that only steer an activation or shift a softmax.
      batch: where the independent examples are.

    The body of control flow is a graph of its own; it has no `rest`.
    """

    program: Program
    steps: tuple[Node | Equation, ...] = field(repr=False)
    rest: tuple[Equation, ...] = field(repr=False)
    explained: tuple[Var, ...]
    outputs: tuple[Var, ...]
    ended: tuple[Equation, ...]
    batch: Batch = field(default=Batch({}), repr=False)

    @cached_property
    def turns(self) -> dict[Node, tuple[int, ...]]:
        """All nodes in order, those of a body after the node that holds it, each with the sizes of its leading axes."""
        return {node: tuple(axis.size for axis in axes) for node, axes in self.leading.items()}

    @cached_property
    def leading(self) -> dict[Node, tuple[Leading, ...]]:
        """The axes that what is measured at each node has before its own: for the scans and shard_maps around it."""
        found: dict[Node, tuple[Leading, ...]] = {}
        for step in self.steps:
            if isinstance(step, Node):
                found[step] = ()
            if isinstance(step, Control):
                for body in step.bodies:
                    found.update({node: (*step.leading, *inner) for node, inner in body.leading.items()})
        return found

    @cached_property
    def carrying(self) -> frozenset[Var]:
        """The variables that relevance passes on its way, those of bodies left out."""
        return frozenset(self.explained).union(*(node.outputs for node in self.own_nodes))

    @property
    def unmade(self) -> frozenset[Var]:
        """The outputs at which relevance begins and ends at once, as they depend on no explained input."""
        return frozenset(self.outputs) - self.carrying

    @cached_property
    def in_shards(self) -> frozenset[Node]:
        """The nodes inside a shard_map."""
        return self._inside(lambda node: bool(node.flow.devices))

    @cached_property
    def unchecked(self) -> frozenset[Node]:
        """The nodes inside a shard_map in which JAX does not check what is the same on all devices."""
        return self._inside(lambda node: bool(node.flow.devices) and not node.flow.params["check_vma"])

    def _inside(self, chosen: Callable[[Control], bool]) -> frozenset[Node]:
        """Return the nodes inside of control flow of a kind, at any depth."""
        inner = ((node, body) for node in self.own_nodes if isinstance(node, Control) for body in node.bodies)
        found = (frozenset(body.nodes) if chosen(node) else body._inside(chosen) for node, body in inner)
        return frozenset[Node]().union(*found)

    @cached_property
    def own_nodes(self) -> tuple[Node, ...]:
        """The nodes among the steps, those of bodies left out."""
        return tuple(step for step in self.steps if isinstance(step, Node))

    def with_nodes(self, change: Callable[[Node], Node]) -> "Graph":
        """Return the graph with each of its own nodes changed, in order."""
        return replace(self, steps=tuple(change(step) if isinstance(step, Node) else step for step in self.steps))

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(self.turns)

    @cached_property
    def names(self) -> dict[Node, str]:
        """A name of its own for each node but movements.

        The module path where it is the only one there, else "path:kind", else "path:kind#0", "path:kind#1", ..., so too
        where "path:kind" is the path of others.
        """
        named = [node for node in self.nodes if node.kind != "movement"]
        paths = Counter(node.path for node in named)
        alone = {node: node.path and paths[node.path] == 1 for node in named}
        names = {node: node.path if alone[node] else ":".join(filter(None, (node.path, node.kind))) for node in named}
        counts, seen = Counter(names.values()), Counter[str]()
        for node, name in names.items():
            if counts[name] > 1 or (name in paths and not alone[node]):
                names[node] = f"{name}#{seen[name]}"
                seen[name] += 1
        return names


def schedule(
    flow: Flow, nodes: Iterable[Node], whole: bool
) -> tuple[tuple[Node | Equation, ...], tuple[Equation, ...]]:
    """Order nodes and the plain equations that they need, and the plain equations that only other outputs need.

    A plain equation is added wherever a value inside a node is wanted outside. With `whole`, all that the program
    returns is wanted, and nothing is left for later.
    """
    at: dict[int, Node] = {flow.position[node.equations[-1]]: node for node in nodes}
    inside = {eqn for node in nodes for eqn in node.equations}
    made = {v for node in nodes for v in node.outputs}
    constants = {v for node in nodes for v in node.constants}
    effects = {eqn for eqn in flow.program.equations if eqn.has_effects and eqn not in inside}
    outputs = flow.program.outputs if whole else flow.outputs
    before = _plain(flow, made, constants.union(outputs), effects if whole else ())
    made.update(v for eqn in before.values() for v in eqn.outputs)
    rest = _plain(flow, made, set(flow.program.outputs), effects - set(before.values()))
    steps: list[Node | Equation] = []
    for k in sorted({*at, *before}):
        # A node comes after its own equation run plainly, as its outputs are the ones that hand on relevance.
        steps += [step for step in (before.get(k), at.get(k)) if step is not None]
    return tuple(steps), tuple(rest[k] for k in sorted(rest))


def _plain(flow: Flow, made: set[Var], needed: set[Var], always: Iterable[Equation] = ()) -> dict[int, Equation]:
    """Return by position the equations that make what is needed and not made yet."""
    plain: dict[int, Equation] = {}
    for eqn in reversed(flow.program.equations):
        if (needed & set(eqn.outputs)) - made or eqn in always:
            plain[flow.position[eqn]] = eqn
            needed.update(eqn.inputs)
    return plain


def ended(flow: Flow, nodes: Iterable[Node]) -> tuple[Equation, ...]:
    steered = [
        node
        for node in nodes
        if node.kind in ("activation", "softmax", "log_sum_exp", "normalisation")
        or node.equations[-1].op in (Op.CARRY, Op.EMBEDDING)
    ]
    matter = {v for node in nodes if node not in steered for v in node.constants} | set(flow.outputs)
    for eqn in reversed(flow.live):  # what the others make of the values matters as they do
        if matter.intersection(eqn.outputs) and not flow.active.intersection(eqn.outputs):
            matter.update(eqn.inputs)
    own = [eqn for eqn in flow.ended if matter.intersection(eqn.outputs)]
    inner = (eqn for node in nodes if isinstance(node, Control) for body in node.bodies for eqn in body.ended)
    return (*own, *inner)
