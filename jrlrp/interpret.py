"""Run a graph forwards so that its pullback is relevance: each node has its rule for a derivative."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jrlrp.errors import RuleError, describe
from jrlrp.graph.graph import Graph
from jrlrp.graph.layers import layer_of
from jrlrp.graph.linear_layer import wide
from jrlrp.graph.nodes import Control, Node
from jrlrp.probes import Edges, Passage, Probe
from jrlrp.rules.base import Rule, saturate
from jrlrp.trace import compat
from jrlrp.trace.program import Equation, Var, evaluated, read, typed

NO_PROBES: Mapping[Node, Probe] = MappingProxyType({})


def interpret(
    graph: Graph,
    rules: Mapping[Node, Rule],
    inputs: Mapping[Var, Any],
    wanted: Sequence[Var],
    probes: Mapping[Node, Probe] = NO_PROBES,
) -> list[Any]:
    """Evaluate a graph and return the values of the variables `wanted`.

    Args:
      graph: the graph.
      rules: the rule of each node; one without is left to JAX's own transpose.
      inputs: the value of each of the program's inputs, carriers included.
      wanted: the variables to return.
      probes: what to measure of the nodes' relevance.
    """
    values: dict[Var, Any] = {**graph.program.constants, **inputs}
    for step in graph.steps:
        if isinstance(step, Equation):  # it hands on no relevance, so nothing has to be differentiated
            given = [(v, read(v, values)) for v in step.inputs]
            results: Sequence[Any] = step.run([_held(x) if v in graph.carrying else x for v, x in given])
        elif isinstance(step, Control):
            results = _run_bodies(step, rules, {v: read(v, values) for v in step.flow.inputs}, probes)
        else:
            arguments, constants = ([read(v, values) for v in part] for part in (step.inputs, step.constants))
            rule, probe = rules.get(step), probes.get(step)
            plain = probe is None and (rule is None or rule.native)
            results = step.run(arguments, constants) if plain else _bind(step, rule, arguments, constants, probe)
        values.update(zip(step.outputs, results, strict=True))
    return typed(wanted, values)


def _hold(primals: Any, tangents: Any) -> Any:
    return primals[0], SymbolicZero(jax.typeof(primals[0]).to_tangent_aval())


# The same value, that hands nothing back, as by stop_gradient; but derivatives of relevance see what it depends on.
_held = jax.custom_jvp(lambda x: x)
_held.defjvp(_hold, symbolic_zeros=True)


def _run_bodies(
    node: Control, rules: Mapping[Node, Rule], values: Mapping[Var, Any], probes: Mapping[Node, Probe]
) -> list[Any]:
    """Evaluate control flow with its bodies interpreted, and return the values of the node's outputs."""
    inner = [inside for body in node.bodies for inside in body.nodes if inside in probes]
    probe = probes.get(node)
    edges = probe.zeros if probe is not None else Edges((), [()] * len(node.bodies))

    def evaluate(number: int, body: Graph) -> Callable:
        ends = [k for k, v in enumerate(body.program.outputs) if v in body.unmade]

        def run(inputs: Sequence[Any], along: Any) -> list[Any]:
            zeros, here = along
            placed = {inside: replace(probes[inside], zeros=zero) for inside, zero in zip(inner, zeros, strict=True)}
            own = dict(zip(body.program.inputs, inputs, strict=True))
            results = interpret(body, rules, own, body.program.outputs, placed)
            return _watched(results, ends, [body.program.outputs[k] for k in ends], probe, here[number])

        return run

    along = ([probes[inside].zeros for inside in inner], edges.ends)
    starts = [k for k, v in enumerate(node.flow.inputs) if v in node.starts]
    operands = [values[v] for v in node.flow.inputs]
    operands = _watched(operands, starts, [node.flow.inputs[k] for k in starts], probe, edges.start)
    results = node.flow.emit(operands, [evaluate(number, body) for number, body in enumerate(node.bodies)], along)
    made = dict(zip(node.flow.outputs, results, strict=True))
    return [made[v] for v in node.outputs]


def _watched(
    values: list[Any], chosen: Sequence[int], names: Sequence[Var], probe: Probe | None, zeros: Any
) -> list[Any]:
    """Return the values, with a probe of the relevance that comes to those that are `chosen`."""
    if probe is None or not chosen:
        return values

    @jax.custom_vjp
    def same(values, zeros):
        return values

    def backward(values, relevances):
        received = _widened(relevances)
        return relevances, probe.measure(Passage(Rule(), names, (), _widened(values), received, (), _axes(zeros)))

    same.defvjp(lambda values, zeros: (values, values), backward)
    own = tuple(jnp.asarray(values[k], v.dtype) for k, v in zip(chosen, names, strict=True))
    found = iter(same(own, zeros))
    return [next(found) if k in chosen else v for k, v in enumerate(values)]


def _axes(zeros: Any) -> frozenset[str]:
    return frozenset().union(*map(compat.mesh_axes, jax.tree.leaves(zeros)))


def made_before(graph: Graph) -> tuple[Var, ...]:
    """Return the variables that the steps make and `evaluate_rest` reads."""
    made = {v for step in graph.steps for v in step.outputs}
    read = dict.fromkeys((*(v for eqn in graph.rest for v in eqn.inputs), *graph.program.outputs))
    return tuple(v for v in read if v in made)


def evaluate_rest(graph: Graph, values: Mapping[Var, Any]) -> list[Any]:
    """Return all that the function returns, from the values of its inputs and of `made_before`.

    Nothing of it is part of the pullback of relevance, so that its own derivatives stay what they are.
    """
    return typed(graph.program.outputs, evaluated(graph.rest, {**graph.program.constants, **values}))


@dataclass(frozen=True, repr=False)
class Transpose(Rule):
    """JAX's own pullback of the node: what native nodes do, as a rule."""

    def __call__(self, layer: Any, inputs: Sequence[Any], output: Any, relevance: Any) -> tuple[Any, ...]:
        relevances = relevance if isinstance(relevance, tuple) else (relevance,)
        outputs, back = jax.vjp(layer.run, *inputs)
        return back(tuple(_cotangent(r, z) for r, z in zip(relevances, outputs, strict=True)))


def _cotangent(relevance: Any, z: Any) -> Any:
    if jnp.issubdtype(z.dtype, jnp.inexact):
        return relevance.astype(z.dtype)
    return np.zeros(z.shape, jax.dtypes.float0)


def _bind(
    node: Node, rule: Rule | None, inputs: Sequence[Any], constants: Sequence[Any], probe: Probe | None
) -> Sequence[Any]:
    """Evaluate a node as a function whose pullback is its rule."""
    rule = Transpose() if rule is None or rule.native else rule
    parameters, put_back = rule.split()
    axes = _axes(None if probe is None else probe.zeros)

    @jax.custom_vjp
    def evaluate(inputs, constants, parameters, zeros):
        return node.run(inputs, constants)

    def forward(inputs, constants, parameters, zeros):
        outputs = node.run(inputs, constants)
        return outputs, (inputs, constants, parameters, outputs)

    def backward(residuals, relevances):
        inputs, constants, parameters, outputs = residuals
        wide_inputs, outputs, received = _widened(inputs), _widened(outputs), _bounded(_widened(relevances))
        rule, layer = put_back(parameters), layer_of(node, inputs, constants, received)
        single = len(outputs) == 1
        shares = rule(layer, wide_inputs, *((outputs[0], received[0]) if single else (outputs, received)))
        _check_shares(rule, node, shares)
        passed = tuple(_rounded(r, x) for r, x in zip(shares, inputs, strict=True))
        if probe is None:
            return passed, None, None, None
        passage = Passage(rule, layer, wide_inputs, outputs, received, _widened(passed), axes)
        return passed, None, None, probe.measure(passage)

    evaluate.defvjp(forward, backward)
    return evaluate(tuple(inputs), tuple(constants), parameters, None if probe is None else probe.zeros)


def _widened(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return floats in the dtype that rules compute in."""
    return tuple(x.astype(wide(x.dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in values)


def _rounded(r: Any, x: Any) -> Any:
    """Return relevance of `x` in its dtype, bounded; gradients alone may be complex."""
    apart = tuple(compat.mesh_axes(r) - compat.mesh_axes(x))  # devices read the same, each gives its part back
    r = jax.lax.psum(r, apart) if apart else r
    return saturate(r, x.dtype).astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else r.astype(x.dtype)


def _bounded(relevances: Sequence[Any]) -> tuple[Any, ...]:
    """Bound what sums of large relevance may have carried to infinity."""
    return tuple(saturate(r, r.dtype) if jnp.issubdtype(r.dtype, jnp.floating) else r for r in relevances)


def _check_shares(rule: Rule, node: Node, shares: Any) -> None:
    given = [jnp.shape(r) for r in shares] if isinstance(shares, (tuple, list)) else type(shares).__name__
    expected = [v.shape for v in node.inputs]
    if given != expected:
        raise RuleError(
            f"{rule!r} returned relevance of shapes {given} for {node.kind} {describe(node)}; expected a tuple with "
            f"the shapes of the inputs, {expected}."
        )
