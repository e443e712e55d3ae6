"""Run a graph forwards so that its pullback is relevance: each node has its rule for a derivative."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.graph.build import Graph
from jrlrp.graph.carriers import Lookup
from jrlrp.graph.layers import layer_of, wide
from jrlrp.graph.nodes import Node
from jrlrp.rules.base import Rule, saturate
from jrlrp.trace.inline import Equation, Literal, Var


def interpret(
    graph: Graph,
    rules: Mapping[Node, Rule],
    inputs: Mapping[Var, Any],
    wanted: Sequence[Var],
    gradient: bool = False,
) -> list[Any]:
    """Evaluate a graph and return the values of the variables `wanted`.

    Args:
      graph: the graph.
      rules: the rule of each node; one without is left to JAX's own transpose.
      inputs: the value of each of the program's inputs, carriers included.
      wanted: the variables to return.
      gradient: leave every node to JAX.
    """
    values: dict[Var, Any] = {**graph.program.constants, **inputs}
    carrying = {v for node in graph.nodes for v in node.outputs} | set(graph.explained)

    def read(v: Var) -> Any:
        return v.value if isinstance(v, Literal) else values[v]

    for step in graph.steps:
        if isinstance(step, Equation):  # it hands on no relevance, so nothing has to be differentiated
            arguments = [jax.lax.stop_gradient(read(v)) if v in carrying else read(v) for v in step.inputs]
            results: Sequence[Any] = step.run(arguments)
        else:
            arguments, constants = [read(v) for v in step.inputs], [read(v) for v in step.constants]
            rule = rules.get(step)
            if gradient and isinstance(step.equations[0], Lookup):
                eqn = step.equations[0]
                results = eqn.gradient(*(read(v) for v in eqn.inputs))
            elif gradient or rule is None or rule.native:
                results = step.run(arguments, constants)
            else:
                results = _bind(step, rule, arguments, constants)
        values.update(zip(step.outputs, results, strict=True))
    return [jnp.asarray(read(v), v.dtype) for v in wanted]


def _bind(node: Node, rule: Rule, inputs: Sequence[Any], constants: Sequence[Any]) -> Sequence[Any]:
    """Evaluate a node as a function whose pullback is its rule."""
    parameters, put_back = rule.split()

    @jax.custom_vjp
    def evaluate(inputs, constants, parameters):
        return node.run(inputs, constants)

    def forward(inputs, constants, parameters):
        outputs = node.run(inputs, constants)
        return outputs, (inputs, constants, parameters, outputs)

    def backward(residuals, relevances):
        inputs, constants, parameters, outputs = residuals
        outputs, relevances = _widened(outputs), _bounded(_widened(relevances))
        if len(outputs) == 1:
            (outputs,), (relevances,) = outputs, relevances
        shares = put_back(parameters)(layer_of(node, inputs, constants), _widened(inputs), outputs, relevances)
        return tuple(_narrowed(r, x) for r, x in zip(shares, inputs, strict=True)), None, None

    evaluate.defvjp(forward, backward)
    return evaluate(tuple(inputs), tuple(constants), parameters)


def _widened(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return floats in the dtype that rules compute in."""
    return tuple(x.astype(wide(x.dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in values)


def _bounded(relevances: Sequence[Any]) -> tuple[Any, ...]:
    """Bound what sums of large relevance may have carried to infinity."""
    return tuple(saturate(r, r.dtype) if jnp.issubdtype(r.dtype, jnp.floating) else r for r in relevances)


def _narrowed(relevance: Any, x: Any) -> Any:
    if relevance.shape != x.shape:
        raise ValueError(f"a rule returned relevance of shape {relevance.shape} for an input of shape {x.shape}.")
    return saturate(relevance, x.dtype).astype(x.dtype)
