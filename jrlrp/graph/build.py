"""Flat program → `Graph`: the passes that decide what each equation is, in order."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import jax.numpy as jnp

from jrlrp.graph.activity import Flow, analyse
from jrlrp.graph.affine import affine_layers
from jrlrp.graph.carriers import CARRY, EMBEDDING
from jrlrp.graph.elementwise import Link, activations, elementwise_links
from jrlrp.graph.examples import example_axes
from jrlrp.graph.kinds import meaning_of, rule_of
from jrlrp.graph.nodes import MIXING, Activation, Affine, Choice, Custom, Movement, Node, Opaque, Product, Softmax, Sum
from jrlrp.graph.normalise import normalise
from jrlrp.trace.inline import Equation, Program, Var


@dataclass(frozen=True, eq=False)
class Graph:
    """A program as nodes.

    Attributes:
      steps: what leads to the explained outputs, in order: nodes, and the plain equations that hand on no relevance.
      rest: the plain equations that only other outputs (or effects) of the function need, in order.
      explained, outputs: the variables at which relevance ends and begins.
      ended: the equations at which relevance ends, but for those that only steer an activation or shift a softmax.
    """

    program: Program
    steps: tuple[Node | Equation, ...] = field(repr=False)
    rest: tuple[Equation, ...] = field(repr=False)
    explained: tuple[Var, ...]
    outputs: tuple[Var, ...]
    ended: tuple[Equation, ...]

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(step for step in self.steps if isinstance(step, Node))

    @cached_property
    def names(self) -> dict[Node, str]:
        """A name of its own for each node but movements.

        The module path where it is the only one there, else "path:kind", else "path:kind#0", "path:kind#1", ...
        """
        named = [node for node in self.nodes if node.kind != "movement"]
        paths = Counter(node.path for node in named)
        alone = {node: node.path and paths[node.path] == 1 for node in named}
        names = {node: node.path if alone[node] else ":".join(filter(None, (node.path, node.kind))) for node in named}
        counts, seen = Counter(names.values()), Counter[str]()
        for node, name in names.items():
            if counts[name] > 1:
                names[node] = f"{name}#{seen[name]}"
                seen[name] += 1
        return names


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
    flow = analyse(program, explained, outputs, ids)
    taken: set[Equation] = set()
    nodes: list[Node] = _customs(flow, taken)
    nodes += _softmaxes(flow, taken)
    links = elementwise_links(flow)
    nodes += _activations(flow, links, taken)
    nodes += affine_layers(flow, links, taken)
    nodes += _combinations(flow, taken)
    nodes = _join_sums(flow, nodes)
    nodes += [_single(flow, eqn) for eqn in flow.live if eqn not in taken and flow.active.intersection(eqn.outputs)]
    axes = example_axes(program, explained, flow.live)
    nodes = [_informed(flow, axes, _real(node)) for node in nodes]
    nodes = sorted(nodes, key=lambda node: flow.position[node.equations[-1]])
    nodes = _placed(_traced_back(nodes))
    steps, rest = _schedule(flow, nodes)
    return Graph(program, steps, rest, tuple(explained), tuple(outputs), _ended(flow, nodes))


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
    for match in flow.softmaxes:
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


def _combinations(flow: Flow, taken: set[Equation]) -> list[Node]:
    """Return the sums and products of several active values, a tree of additions (of products) as one node."""
    nodes: list[Node] = []
    for eqn in reversed(flow.live):  # from the root of each tree
        active = flow.active_inputs(eqn)
        if eqn in taken or len(active) < 2 or eqn.output not in flow.active:
            continue
        if eqn.primitive in ("add", "sub", "add_any"):
            terms, tree = _flatten(flow, eqn, taken, ("add", "sub", "add_any"), "sub")
            nodes.append(
                Sum(
                    kind="sum",
                    equations=tuple(flow.order(tree)),
                    inputs=tuple(v for v, _ in terms),
                    outputs=eqn.outputs,
                    signs=tuple(-1 if odd else 1 for _, odd in terms),
                )
            )
        elif eqn.primitive in ("mul", "div"):
            terms, tree = _flatten(flow, eqn, taken, ("mul", "div"), "div")
            nodes.append(_product(flow, eqn, flow.order(tree), terms))
        elif meaning_of(eqn) == "contraction":
            tree = {eqn}
            nodes.append(_product(flow, eqn, [eqn], [(v, False) for v in eqn.inputs], contraction=True))
        else:
            continue
        taken.update(tree)
    return nodes


def _flatten(
    flow: Flow, root: Equation, taken: set[Equation], family: tuple[str, ...], inverse: str
) -> tuple[list[tuple[Var, bool]], set[Equation]]:
    """Return the leaves of a tree of equations, each with whether it counts inversely, and the tree's equations."""
    leaves: list[tuple[Var, bool]] = []
    tree: set[Equation] = set()

    def joins(v: Var, use: Equation) -> Equation | None:
        made = flow.definition.get(v)
        if made is None or made.primitive not in family or made in taken or v.shape != root.output.shape:
            return None
        return made if len(flow.active_inputs(made)) == 2 and flow.only_use(v) is use else None

    def visit(eqn: Equation, odd: bool) -> None:
        tree.add(eqn)
        for k, v in enumerate(eqn.inputs):
            inverted = odd != (k == 1 and eqn.primitive == inverse)
            if (inner := joins(v, eqn)) is not None:
                visit(inner, inverted)
            else:
                leaves.append((v, inverted))

    visit(root, False)
    return leaves, tree


def _join_sums(flow: Flow, nodes: list[Node]) -> list[Node]:
    """Let each sum take in the constants added to its summands or to itself, and sums that only it uses.

    So the brackets of a sum do not matter. A scale after a sum keeps its shifts: batch norm is one layer, however it
    is written.
    """
    shifts = {node for node in nodes if _only_adds(node)}
    making: dict[Var, Node] = {node.output: node for node in shifts}
    reading = {node.inputs[0]: node for node in shifts}
    for node in sorted((n for n in nodes if isinstance(n, Sum)), key=lambda n: flow.position[n.equations[-1]]):
        inputs: list[Var] = []
        signs: list[int] = []
        equations = set(node.equations)
        for v, sign in zip(node.inputs, node.signs, strict=True):
            inner = making.get(v)
            if inner is None or flow.only_use(v) not in node.equations:
                inputs.append(v)
                signs.append(sign)
                continue
            making.pop(v)
            equations.update(inner.equations)
            inputs += inner.inputs
            signs += [sign * s for s in (inner.signs if isinstance(inner, Sum) else (_sign(inner),))]
        output = node.output
        after = reading.get(output) if flow.only_use(output) else None
        if after is not None and making.pop(after.output, None) is not None:
            equations.update(after.equations)
            signs = [_sign(after) * s for s in signs]
            output = after.output
        making[output] = replace(
            node,
            equations=tuple(flow.order(equations)),
            inputs=tuple(inputs),
            outputs=(output,),
            signs=tuple(signs),
        )
    return [*making.values(), *(node for node in nodes if not isinstance(node, Sum) and node not in shifts)]


def _only_adds(node: Node) -> bool:
    if not isinstance(node, Affine) or node.core is not None or node.kind != "scale":
        return False
    return all(step.role == "shift" or step.constant is None for step in node.steps)


def _sign(node: Node) -> int:
    """Return the sign that a chain of shifts and sign changes gives its input."""
    assert isinstance(node, Affine)
    return -1 if sum(step.negate for step in node.steps) % 2 else 1


def _product(flow, eqn, equations, terms, contraction=False) -> Product:
    def is_gate(v: Var, inverted: bool) -> bool:
        lo, hi = flow.range(v)
        slack = 4 * float(jnp.finfo(v.dtype).eps)  # numbers like 1/6 are rounded
        return lo >= 1 - slack if inverted else lo >= -slack and hi <= 1 + slack

    return Product(
        kind="product",
        equations=tuple(equations),
        inputs=tuple(v for v, _ in terms),
        outputs=eqn.outputs,
        gates=tuple(is_gate(*term) for term in terms),
        contraction=contraction,
    )


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


def _informed(flow: Flow, axes: dict, node: Node) -> Node:
    return replace(
        node,
        ranges=tuple(flow.range(v) for v in node.inputs),
        input_axes=tuple(axes.get(v) for v in node.inputs),
        output_axis=axes.get(node.output),
    )


def _traced_back(nodes: list[Node]) -> list[Node]:
    """Say of each factor of a product which kind of node it comes out of."""
    origin: dict[Var, str] = {}
    result = []
    for node in nodes:
        if isinstance(node, Product):
            node = replace(node, origins=tuple(origin.get(v) for v in node.inputs))
        through = node.kind in ("movement", "factor", "scale")
        kinds = {origin.get(v) for v in node.inputs} if through else {node.kind}
        if len(kinds) == 1 and (kind := kinds.pop()) is not None:
            origin.update(dict.fromkeys(node.outputs, kind))
        result.append(node)
    return result


def _placed(nodes: list[Node]) -> list[Node]:
    """Say of each node whether a mixing affine layer lies before or after it on any path."""
    after_layer: set[Var] = set()
    before_layer: set[Var] = set()
    first, last = {}, {}
    for node in nodes:
        first[node] = not after_layer.intersection(node.inputs)
        if node.kind in MIXING or not first[node]:
            after_layer.update(node.outputs)
    for node in reversed(nodes):
        last[node] = not before_layer.intersection(node.outputs)
        if node.kind in MIXING or not last[node]:
            before_layer.update(node.inputs)
    return [replace(node, first=first[node], last=last[node]) for node in nodes]


def _schedule(flow: Flow, nodes: Iterable[Node]) -> tuple[tuple[Node | Equation, ...], tuple[Equation, ...]]:
    """Order nodes and the plain equations that they need, and the plain equations that only other outputs need.

    A plain equation is added wherever a value inside a node is wanted outside.
    """
    at: dict[int, Node | Equation] = {flow.position[node.equations[-1]]: node for node in nodes}
    inside = {eqn for node in nodes for eqn in node.equations}
    made = {v for node in nodes for v in node.outputs}
    constants = {v for node in nodes for v in node.constants}
    before = _plain(flow, made, constants.union(flow.outputs))
    made.update(v for eqn in before.values() for v in eqn.outputs)
    effects = {eqn for eqn in flow.program.equations if eqn.has_effects and eqn not in inside}
    rest = _plain(flow, made, set(flow.program.outputs), effects - set(before.values()))
    steps = {**before, **at}
    return tuple(steps[k] for k in sorted(steps)), tuple(rest[k] for k in sorted(rest))


def _plain(flow: Flow, made: set[Var], needed: set[Var], always: Iterable[Equation] = ()) -> dict[int, Equation]:
    """Return by position the equations that make what is needed and not made yet."""
    plain: dict[int, Equation] = {}
    for eqn in reversed(flow.program.equations):
        if (needed & set(eqn.outputs)) - made or eqn in always:
            plain[flow.position[eqn]] = eqn
            needed.update(eqn.inputs)
    return plain


def _ended(flow: Flow, nodes: Iterable[Node]) -> tuple[Equation, ...]:
    steered = [
        node
        for node in nodes
        if node.kind in ("activation", "softmax") or node.equations[-1].primitive in (CARRY, EMBEDDING)
    ]
    matter = {v for node in nodes if node not in steered for v in node.constants} | set(flow.outputs)
    for eqn in reversed(flow.live):  # what the others make of the values matters as they do
        if matter.intersection(eqn.outputs) and not flow.active.intersection(eqn.outputs):
            matter.update(eqn.inputs)
    return tuple(eqn for eqn in flow.ended if matter.intersection(eqn.outputs))
