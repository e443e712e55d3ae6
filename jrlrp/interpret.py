"""Run a graph forwards so that its pullback is relevance: each node has its rule for a derivative."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jrlrp.analyses.travel import Travel
from jrlrp.errors import RuleError, describe
from jrlrp.graph.graph import Graph
from jrlrp.graph.layers import layer_of
from jrlrp.graph.linear_layer import Mesh, wide
from jrlrp.graph.nodes import Affine, Control, Node, Product
from jrlrp.probes import Edges, Passage, Probe
from jrlrp.rules.base import Form, Rule, saturate
from jrlrp.rules.ratio import damped, masked, of_ratio, over, times
from jrlrp.trace import shards
from jrlrp.trace.control import Evaluate
from jrlrp.trace.program import Equation, Var, evaluated, read, typed


@dataclass(frozen=True, eq=False)
class Course:
    """What happens to relevance on its way.

    Attributes:
      rules: the rule of each node; one without is left to JAX's own transpose.
      way: the forms in which relevance travels.
      probes: what to measure of the nodes' relevance.
      masks: what multiplies the relevance that comes to a node's output, broadcasting to it, with a leading axis of
        turns for each scan around the node.
      shown: the nodes whose outputs are returned too, each with the form in which relevance comes to them there.
      apart: the axes of a mesh along which examples lie, inside shard_map.
      waits: whether what rules make of weights and inputs alone waits for relevance, for memory's sake; not where it is
        to serve several pullbacks.
    """

    rules: Mapping[Node, Rule]
    way: Travel
    probes: Mapping[Node, Probe] = field(default_factory=dict)
    masks: Mapping[Node, Any] = field(default_factory=dict)
    shown: Mapping[Node, Form] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()
    waits: bool = True


def interpret(
    graph: Graph, inputs: Mapping[Var, Any], wanted: Sequence[tuple[Var, Form]], course: Course
) -> tuple[list[Any], dict[Node, tuple[Any, ...]]]:
    """Evaluate a graph so that its pullback is relevance.

    Args:
      graph: the graph.
      inputs: the value of each of the program's inputs, carriers included.
      wanted: the variables to return, each with the form in which relevance comes to it.
      course: what happens on the way.

    Returns:
      The values wanted, and the outputs (those that are numbers) of the nodes that are shown, bodies' too: in a scan
      with a leading axis of turns, and 0 in a branch that is not taken.
    """
    rules, way, probes = course.rules, course.way, course.probes
    values, shown = _Values({**graph.program.constants, **inputs}, way), dict[Node, tuple[Any, ...]]()
    for step in graph.steps:
        if isinstance(step, Equation):  # it hands on no relevance, so nothing has to be differentiated
            values.update(zip(step.outputs, step.run([values.held(v) for v in step.inputs]), strict=True))
        elif isinstance(step, Control):
            results, inside = _run_bodies(step, values, course)
            values.update(zip(step.outputs, results, strict=True))
            shown.update(inside)
        else:
            handed = way.handed.get(step, Form.NONE)
            arguments = [values.handing(x, handed) for x in step.inputs]
            constants = [values.held(x) for x in step.constants]
            needs = way.needed.get(step, handed)
            place = _Place(step, handed, needs, tuple(map(way.form, step.outputs)), course.waits, course.apart)
            run = _run_node if step not in probes else partial(_run_probed, probe=probes[step])
            made = run(place, rules.get(step), arguments, constants, course.masks.get(step))
            values.update(zip(step.outputs, made, strict=True))
            if step in course.shown:
                shown[step] = tuple(values.handing(v, course.shown[step]) for v in _numbers(step))
    return [jnp.asarray(values.handing(v, form), v.dtype) for v, form in wanted], shown


def _numbers(node: Node) -> list[Var]:
    return [v for v in node.outputs if jnp.issubdtype(v.dtype, jnp.inexact)]


class _Values(dict[Var, Any]):
    """Values by their variables, as those who hand relevance to them, in one form or the other, read them."""

    def __init__(self, values: Mapping[Var, Any], way: Travel):
        super().__init__(values)
        self.way = way
        self._as_ratio: dict[Var, Any] = {}  # those whose relevance travels as R, for who hands on ratios

    def held(self, v: Var) -> Any:
        """Return the value of a variable or literal for what hands nothing to it.

        To hold what is held already would hold the derivatives of relevance too.
        """
        x = read(v, self)
        return x if self.way.form(v) is Form.NONE else _held(x)

    def handing(self, v: Var, form: Form) -> Any:
        """Return the value of a variable or literal for what hands relevance to it in a form."""
        if form is Form.NONE:
            return self.held(v)
        x = read(v, self)
        if form is not Form.RATIO or self.way.form(v) is not Form.RELEVANCE:
            return x
        if v not in self._as_ratio:  # one for all, so that their ratios are summed first
            self._as_ratio[v] = times(x)
        return self._as_ratio[v]


def _needing(x: Any, comes: Form, form: Form, epsilon: Any = 0.0) -> Any:
    """Return a value, read by what needs its relevance in a form, whose relevance comes in another, say."""
    if comes is Form.RATIO and form is Form.RELEVANCE:
        return times(x)
    if comes is Form.RELEVANCE and form is Form.RATIO:
        return over(x, jnp.asarray(epsilon, x.dtype))
    return damped(x, epsilon) if form is Form.RATIO else x


@dataclass(frozen=True, eq=False)
class _Place:
    """A node, what it hands to its inputs, what it needs, and the form in which relevance comes to each output."""

    node: Node
    handed: Form
    needs: Form
    comes: tuple[Form, ...]
    waits: bool
    apart: frozenset[str]


def _run_node(
    place: _Place, rule: Rule | None, inputs: Sequence[Any], constants: Sequence[Any], mask: Any = None
) -> Sequence[Any]:
    """Evaluate a node so that its derivative hands on relevance, in the form that its rule hands to the inputs.

    Args:
      mask: what multiplies the relevance that comes to its one output; None for nothing.
    """
    node, handed, needs = place.node, place.handed, place.needs
    if handed is Form.NONE:
        return node.run(inputs, constants)
    outputs: Sequence[Any]
    if rule is None or rule.native or (handed is Form.RATIO and rule.is_derivative(node)):
        outputs = node.run(inputs, constants)
    else:
        bind = _edited if needs is Form.RATIO else partial(_bind, place=place)
        outputs = bind(node, rule, inputs, constants)

    def converted(z: Any, comes: Form) -> Any:
        epsilon = 0.0
        if rule is not None and needs is Form.RATIO:
            epsilon = rule.stabilizer(layer_of(node, inputs, constants, [z]), z)
        z = _needing(z, comes, needs, epsilon)
        return z if mask is None else masked(z, mask)

    return [converted(z, comes) for z, comes in zip(outputs, place.comes, strict=True)]


def _edited(node: Node, rule: Rule, inputs: Sequence[Any], constants: Sequence[Any]) -> Sequence[Any]:
    """Evaluate a node so that JAX's derivative of it hands on ratios as its rule does."""
    parameters, put_back = rule.split()

    @jax.custom_jvp
    def evaluate(inputs, constants, parameters):
        return node.run(inputs, constants)

    def jvp(primals, tangents):
        inputs, constants, parameters = primals
        moved = [None if isinstance(t, SymbolicZero) else t for t in tangents[0]]
        outputs = node.run(inputs, constants)
        finite = _finite(node, inputs)
        layer = layer_of(node, finite, constants, outputs)
        pushed = put_back(parameters).push(layer, finite, outputs, moved)
        return outputs, tuple(t.astype(z.dtype) for t, z in zip(pushed, outputs, strict=True))

    evaluate.defjvp(jvp, symbolic_zeros=True)
    return evaluate(tuple(inputs), tuple(constants), parameters)


def _finite(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Return inputs without what is not finite, of a row that a mask blanks out whole, or of a gate 1 / (1 + exp(-x)).

    It counts for nothing: 0 in its place, but ∞ for what divides.
    """
    divides = node.inverse if isinstance(node, Product) else (False,) * len(inputs)
    return [jnp.where(jnp.isfinite(x), x, jnp.inf if own else 0) for x, own in zip(inputs, divides, strict=True)]


def _hold(primals: Any, tangents: Any) -> Any:
    return primals[0], SymbolicZero(jax.typeof(primals[0]).to_tangent_aval())


# The same value, that hands nothing back, as by stop_gradient; but derivatives of relevance see what it depends on.
_held = jax.custom_jvp(lambda x: x)
_held.defjvp(_hold, symbolic_zeros=True)


def _run_bodies(node: Control, values: _Values, course: Course) -> tuple[list[Any], dict[Node, tuple[Any, ...]]]:
    """Evaluate control flow with its bodies interpreted; return its outputs, and those of nodes inside to be shown."""
    flow, way, probes = node.flow, values.way, course.probes
    nested = [(inside, turns) for body in node.bodies for inside, turns in body.turns.items()]
    inner = [inside for inside, _ in nested if inside in probes]
    masks = [inside for inside, _ in nested if inside in course.masks]
    shown = {inside: turns for inside, turns in nested if inside in course.shown}
    probe = probes.get(node)
    edges = probe.zeros if probe is not None else Edges((), [()] * len(node.bodies))

    def none(inside: Node) -> tuple[Any, ...]:
        return tuple(jnp.zeros((*shown[inside], *v.shape), v.dtype) for v in _numbers(inside))

    def evaluate(number: int, graph: Graph) -> Evaluate:
        body = flow.bodies[number]
        program = body.program
        leaving = [way.at_exit(body, v) for v in program.outputs]
        ends = [k for k, v in enumerate(program.outputs) if v in graph.unmade]

        def run(inputs: Sequence[Any], along: Any) -> tuple[list[Any], Any]:
            zeros, here, factors = along
            placed = {inside: replace(probes[inside], zeros=zero) for inside, zero in zip(inner, zeros, strict=True)}
            own_course = replace(
                course, probes=placed, masks=dict(zip(masks, factors, strict=True)), apart=course.apart | node.apart
            )
            entering = enumerate(zip(program.inputs, inputs, strict=True))
            own = {v: _needing(x, way.form(v), way.at_entry(flow, body, k)) for k, (v, x) in entering}
            results, found = interpret(graph, own, list(zip(program.outputs, leaving, strict=True)), own_course)
            results = _watched(
                results, ends, [program.outputs[k] for k in ends], [leaving[k] for k in ends], probe, here[number]
            )
            return results, [found[inside] if inside in found else none(inside) for inside in shown]

        return run

    along = ([probes[inside].zeros for inside in inner], edges.ends, [course.masks[inside] for inside in masks])
    given = [way.at_operand(flow, n) for n in range(len(flow.inputs))]
    operands = [values.handing(v, form) for v, form in zip(flow.inputs, given, strict=True)]
    firsts = [k for k, v in enumerate(flow.inputs) if v in node.starts]
    forms = [given[k] for k in firsts]
    operands = _watched(operands, firsts, [flow.inputs[k] for k in firsts], forms, probe, edges.start)
    results, found = flow.emit(operands, [evaluate(number, body) for number, body in enumerate(node.bodies)], along)
    numbered = enumerate(zip(flow.outputs, results, strict=True))
    made = {v: _needing(z, way.form(v), way.at_result(flow, n)) for n, (v, z) in numbered}
    return [made[v] for v in node.outputs], dict(zip(shown, found, strict=True))


def _watched(
    values: list[Any],
    chosen: Sequence[int],
    names: Sequence[Var],
    forms: Sequence[Form],
    probe: Probe | None,
    zeros: Any,
) -> list[Any]:
    """Return the values, with a probe of the relevance that comes to those that are `chosen`, each in a form."""
    if probe is None or not chosen:
        return values

    @jax.custom_vjp
    def same(values, zeros):
        return values

    def backward(values, relevances):
        received = [_as_relevance(r, z, form) for r, z, form in zip(relevances, values, forms, strict=True)]
        came = _widened(received)
        passage = Passage(Rule(), names, (), _widened(values), came, came, (None,) * len(came), (), _axes(zeros))
        return relevances, probe.measure(passage)

    same.defvjp(lambda values, zeros: (values, values), backward)
    own = tuple(jnp.asarray(values[k], v.dtype) for k, v in zip(chosen, names, strict=True))
    found = iter(same(own, zeros))
    return [next(found) if k in chosen else v for k, v in enumerate(values)]


def _axes(zeros: Any) -> frozenset[str]:
    return frozenset().union(*map(shards.mesh_axes, jax.tree.leaves(zeros)))


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


def _cotangent(relevance: Any, z: Any) -> Any:
    if jnp.issubdtype(z.dtype, jnp.inexact):
        return relevance.astype(z.dtype)
    return np.zeros(z.shape, jax.dtypes.float0)


def _bind(node: Node, rule: Rule, inputs: Sequence[Any], constants: Sequence[Any], place: _Place) -> Sequence[Any]:
    """Evaluate a node as a function whose pullback is its rule, of relevance, which it hands on in a form."""
    parameters, put_back = rule.split()
    varying = frozenset().union(*map(shards.mesh_axes, inputs))  # here; inside, inputs vary as the output does
    own = node.own if isinstance(node, Affine) else None
    mesh = Mesh(varying if own is None else varying & own, place.apart)

    @jax.custom_vjp
    def evaluate(inputs, constants, parameters):
        return node.run(inputs, constants)

    def forward(inputs, constants, parameters):
        outputs = node.run(inputs, constants)
        return outputs, (inputs, constants, parameters, outputs)

    def backward(residuals, relevances):
        inputs, constants, parameters, outputs = residuals
        wide_inputs, outputs, received = _widened(inputs), _widened(outputs), _bounded(_widened(relevances))
        rule, layer = put_back(parameters), layer_of(node, inputs, constants, received, place.waits, mesh)
        made = (outputs[0], received[0]) if len(outputs) == 1 else (outputs, received)
        shares = (rule if place.handed is Form.RELEVANCE else rule.ratios)(layer, layer.waiting(wide_inputs), *made)
        _check_shares(rule, node, shares)
        return tuple(_rounded(r, x) for r, x in zip(shares, inputs, strict=True)), None, None

    evaluate.defvjp(forward, backward)
    return evaluate(tuple(inputs), tuple(constants), parameters)


def _run_probed(
    place: _Place,
    rule: Rule | None,
    inputs: Sequence[Any],
    constants: Sequence[Any],
    mask: Any = None,
    *,
    probe: Probe,
) -> Sequence[Any]:
    """Evaluate a node as `_run_node` does, and measure the relevance that passes it."""
    node = place.node
    parameters, put_back = (Rule() if rule is None else rule).split()
    axes = _axes(probe.zeros)

    @jax.custom_vjp
    def evaluate(inputs, constants, parameters, mask, zeros):
        return tuple(node.run(inputs, constants))

    def forward(inputs, constants, parameters, mask, zeros):
        outputs = tuple(node.run(inputs, constants))
        return outputs, (inputs, constants, parameters, mask, outputs)

    def backward(residuals, given):
        inputs, constants, parameters, mask, outputs = residuals
        used = put_back(parameters)
        own = None if rule is None else used
        if place.handed is Form.NONE:
            passed = tuple(jnp.zeros_like(x) for x in inputs)
        else:
            made, back = jax.vjp(lambda *inputs: tuple(_run_node(place, own, inputs, constants, mask)), *inputs)
            passed = back(tuple(_cotangent(r, z) for r, z in zip(given, made, strict=True)))
        came = [_as_relevance(r, z, form) for r, z, form in zip(given, outputs, place.comes, strict=True)]
        went = [_as_relevance(r, x, place.handed) for r, x in zip(passed, inputs, strict=True)]
        arrived, shares = _bounded(_widened(came)), _widened(went)
        received = arrived if mask is None else tuple(r * mask.astype(r.dtype) for r in arrived)
        factor = 1 if mask is None else mask
        ratios = [c * factor if form is Form.RATIO else None for c, form in zip(given, place.comes, strict=True)]
        layer = layer_of(node, inputs, constants, received)
        passage = Passage(used, layer, _widened(inputs), _widened(outputs), arrived, received, ratios, shares, axes)
        return passed, None, None, None, probe.measure(passage)

    evaluate.defvjp(forward, backward)
    return evaluate(tuple(inputs), tuple(constants), parameters, mask, probe.zeros)


def _as_relevance(cotangent: Any, value: Any, form: Form) -> Any:
    """Return the relevance that came in a form."""
    if form is not Form.RATIO or not jnp.issubdtype(value.dtype, jnp.inexact):
        return cotangent
    kind = wide(value.dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value.dtype
    return of_ratio(cotangent.astype(kind), value.astype(kind))


def _widened(values: Iterable[Any]) -> tuple[Any, ...]:
    """Return floats in the dtype that rules compute in."""
    return tuple(x.astype(wide(x.dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in values)


def _rounded(r: Any, x: Any) -> Any:
    """Return relevance of `x` in its dtype, bounded; gradients alone may be complex."""
    r = shards.added_up(r, x)
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
