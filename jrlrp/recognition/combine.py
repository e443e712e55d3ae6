"""Sums and products of several active values, each tree of additions (of products) as one node."""

from dataclasses import replace

import jax.numpy as jnp

from jrlrp.analyses.activity import Flow
from jrlrp.graph.nodes import Affine, Node, Product, Sum
from jrlrp.primitives.row import Op
from jrlrp.trace.program import Equation, Var


def combinations(flow: Flow, taken: set[Equation]) -> list[Node]:
    """Return the sums and products of several active values, a tree of additions (of products) as one node."""
    nodes: list[Node] = []
    for eqn in reversed(flow.live):  # from the root of each tree
        active = flow.active_inputs(eqn)
        if eqn in taken or len(active) < 2 or eqn.output not in flow.active:
            continue
        if eqn.op in (Op.ADD, Op.SUB):
            terms, tree = _flatten(flow, eqn, taken, (Op.ADD, Op.SUB), Op.SUB)
            nodes.append(
                Sum(
                    kind="sum",
                    equations=tuple(flow.order(tree)),
                    inputs=tuple(v for v, _ in terms),
                    outputs=eqn.outputs,
                    signs=tuple(-1 if odd else 1 for _, odd in terms),
                )
            )
        elif eqn.op in (Op.MUL, Op.DIV):
            terms, tree = _flatten(flow, eqn, taken, (Op.MUL, Op.DIV), Op.DIV)
            nodes.append(_product(flow, eqn, flow.order(tree), terms))
        elif eqn.row.kind in ("dense", "conv"):
            tree = {eqn}
            nodes.append(_product(flow, eqn, [eqn], [(v, False) for v in eqn.data], contraction=True))
        else:
            continue
        taken.update(tree)
    return nodes


def _flatten(
    flow: Flow, root: Equation, taken: set[Equation], family: tuple[Op, ...], inverse: Op
) -> tuple[list[tuple[Var, bool]], set[Equation]]:
    """Return the leaves of a tree of equations, each with whether it counts inversely, and the tree's equations."""
    leaves: list[tuple[Var, bool]] = []
    tree: set[Equation] = set()

    def joins(v: Var, use: Equation) -> Equation | None:
        made = flow.definition.get(v)
        if made is None or made.op not in family or made in taken or v.shape != root.output.shape:
            return None
        return made if len(flow.active_inputs(made)) == 2 and flow.only_use(v) is use else None

    pending: list[tuple[Equation, Var | None, bool]] = [(root, None, False)]
    while pending:
        eqn, leaf, odd = pending.pop()
        if leaf is not None:
            leaves.append((leaf, odd))
            continue
        tree.add(eqn)
        for k, v in reversed(list(enumerate(eqn.data))):
            inner = joins(v, eqn)
            inverted = odd != (k == 1 and eqn.op is inverse)
            pending.append((eqn, v, inverted) if inner is None else (inner, None, inverted))
    return leaves, tree


def join_sums(flow: Flow, nodes: list[Node]) -> list[Node]:
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
        lo, hi = flow.interval(v)
        slack = 4 * float(jnp.finfo(v.dtype).eps)  # numbers like 1/6 are rounded
        return lo >= 1 - slack if inverted else lo >= -slack and hi <= 1 + slack

    return Product(
        kind="product",
        equations=tuple(equations),
        inputs=tuple(v for v, _ in terms),
        outputs=eqn.outputs,
        gates=tuple(is_gate(*term) for term in terms),
        inverse=tuple(inverted for _, inverted in terms),
        contraction=contraction,
    )
