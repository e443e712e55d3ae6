"""`relevance` and its kin: the relevance transform of a function, as `jax.grad` is its derivative."""

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.composites.composite import Composite, fault, without_effect
from jrlrp.errors import ArgumentError
from jrlrp.graph.devices import put_together
from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import Node
from jrlrp.probes import as_capture, auditing, capturing
from jrlrp.report import Audit, Plan, make_audit, make_plan
from jrlrp.rules.base import Rule, brief
from jrlrp.rules.ratio import of_ratio
from jrlrp.target import as_target, matching
from jrlrp.transform import known, options, trace_function


def value_and_relevance(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    *,
    rules: Composite | Rule | None = None,
    target: Any = "max",
    has_aux: bool = False,
    capture: Any = (),
    values: bool = False,
    ratio: bool = False,
    conditions: Mapping[Any, Any] | None = None,
    start: Mapping[Any, Any] | None = None,
    unknown: str = "error",
    primitives: Mapping[Any, Any] | None = None,
) -> Callable:
    """Return a function of `fun`'s arguments that returns `fun`'s value and the relevance of its arguments.

    Like `jax.value_and_grad`; the arguments and errors are those of `relevance`.

    Returns:
      A function that returns `(value, R)`, or `((value, aux), R)` with `has_aux`; R is `(R, captured)` with `capture`.

    Example:
      >>> model = lambda x: x @ jnp.array([[1.0, -1.0], [2.0, 1.0]])
      >>> jrlrp.value_and_relevance(model)(jnp.array([3.0, 1.0]))
      (Array([ 5., -2.], dtype=float32), Array([3., 2.], dtype=float32))
    """
    check_argnums("value_and_relevance", argnums)
    wanted = as_capture(capture, values, ratio)
    chosen = options(
        fun,
        rules,
        argnums=argnums,
        target=as_target(target),
        has_aux=has_aux,
        unknown=unknown,
        primitives=primitives,
        conditions=conditions,
        start=start,
    )

    @wraps(fun, updated=())  # a module has its layers in its __dict__
    def explained(*args, **kwargs):
        traced = trace_function(fun, args, kwargs, chosen)
        probes = capturing(traced.graph, wanted)
        passed = traced.explain(probes, wanted=probes if wanted.values else ())
        shares, measured = passed.propagate(traced.initial(passed.out))
        result = shares if isinstance(argnums, (tuple, list)) else shares[0]
        if wanted.patterns:
            whole = lambda node, found: _put_together(traced.graph, node, found)
            measured = {node: whole(node, found) for node, found in measured.items()}
            if wanted.values:
                shown = {node: whole(node, passed.shown[node]) for node in measured}
                measured = {node: tuple(zip(shown[node], found, strict=True)) for node, found in measured.items()}
            result = result, {traced.graph.names[node]: _single(found) for node, found in measured.items()}
        return ((passed.value, passed.aux) if has_aux else passed.value), result

    vars(explained).update(rules=chosen.composite, gives_value=True)  # what a run over a data set wants to know
    return explained


def check_argnums(name: str, argnums: Any) -> None:
    """Raise ArgumentError unless `argnums` is an int or a tuple of ints: no argument of the function itself, say.

    Args:
      name: the function that got it, which returns a function of the explained function's arguments.
    """
    try:
        for number in argnums if isinstance(argnums, (tuple, list)) else (argnums,):
            if isinstance(number, bool):
                raise TypeError
            operator.index(number)
    except TypeError:
        large = isinstance(argnums, (tuple, list, dict)) or hasattr(argnums, "shape")
        given = brief(argnums) if large else repr(argnums)
        raise ArgumentError(
            f"argnums is {given}: expected an int or a tuple of ints, which arguments to explain. {name}(f) returns a "
            f"function of f's own arguments: write {name}(f)(x)."
        ) from None


def _put_together(graph: Graph, node: Node, arrays: Sequence[Any]) -> tuple[Any, ...]:
    """Return what was captured at a node's outputs, those that are numbers."""
    outputs = [v for v in node.outputs if jnp.issubdtype(v.dtype, jnp.inexact)]
    return tuple(put_together(graph, node, v, found) for v, found in zip(outputs, arrays, strict=True))


def _single(found: tuple[Any, ...]) -> Any:
    return found[0] if len(found) == 1 else found


def relevance(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    *,
    rules: Composite | Rule | None = None,
    target: Any = "max",
    has_aux: bool = False,
    capture: Any = (),
    values: bool = False,
    ratio: bool = False,
    conditions: Mapping[Any, Any] | None = None,
    start: Mapping[Any, Any] | None = None,
    unknown: str = "error",
    primitives: Mapping[Any, Any] | None = None,
) -> Callable:
    """Return a function of `fun`'s arguments that returns the relevance of some of them for `fun`'s output.

    It composes with `jax.jit`, `jax.vmap`, `jax.grad`, `jax.lax.map` and sharding, as `jax.grad(fun)` does.

    Args:
      fun: a function that JAX can trace, of any pytrees, returning floating-point scores.
      argnums: which positional argument to explain, or a tuple of them. Floating-point leaves get relevance of their
        own shape and dtype, integer leaves (token ids) float32 relevance for each id, booleans and random keys None.
      rules: a composite (a preset, say `epsilon_plus()`), one rule for all affine layers, or None for
        `default()`.
      target: what of the output to explain. "max": the highest entry along the last axis, at each position; an int or
        an integer array of the output's shape without its last axis: those entries (negative ones count from the
        end; a traced one out of range explains nothing); "all": the whole output; a callable: it gets the output and
        returns the initial relevance; None, beside `start`: nothing. A scalar output is explained as it is. A final
        softmax or log-softmax is explained at its logits. But for a callable, the initial relevance is the explained
        output's value; an infinite entry has none, and where it is NaN the map (of that example, if it is known which)
        is NaN too.
      has_aux: whether `fun` returns `(out, aux)`.
      capture: nodes whose output's relevance is wanted too: globs of module paths or of the names that `plan` prints,
        "*/Conv_*" say, or matchers, `match("softmax")`. Inside a scan their relevance has a leading axis of turns,
        inside a shard_map one of devices where these have parts of the node (examples are put together). Where a map is
        NaN, so is what is captured of that example, or all where it is not known which entries are its.
      values: whether to capture the nodes' outputs, too (0 in a branch that is not taken).
      ratio: whether to capture c = R / v of their values v in place of relevance R. Where relevance travels as a ratio,
        c is known for v = 0; elsewhere it is 0 there.
      conditions: a dict from patterns of nodes, as for `capture`, to masks. The relevance that arrives at a node's
        output is multiplied by its mask, an array that broadcasts to the output, before the node's rule; of several
        entries all hold. A glob names one node, a matcher one or more. Inside a scan a mask acts at each turn; one of
        the output's rank and one more for each scan has leading axes of turns. Maps of parts add up to the whole under
        rules that are linear in relevance, which those of R-LRP are not, as each has its κ.
      start: a dict from patterns, as for `conditions`, to relevance that begins at these nodes' outputs: arrays, or
        functions of a node's value that return it. It is added to what arrives, before a mask. target=None gives the
        output none.
      unknown: "error", or "gradient" to share relevance by gradient × input at primitives that have no rule.
      primitives: what primitives do in this call, by primitive or name: a kind as for `register_kind`, or a rule as
        for `register_rule`.

    Returns:
      A function that returns R, of the structure and shapes of the explained argument (a tuple of such for a tuple
      `argnums`). With `capture`, R is `(R, captured)`, captured being a dict from the nodes' names to relevance of
      their outputs' shapes and dtypes, with `values` to pairs (value, relevance). With `has_aux`, `(R, aux)`.

    Raises:
      All of these before anything runs, at once or when the returned function is called or traced:
      ArgumentError: for arguments that cannot be explained, or wrong options.
      TargetError: for a target that is not in the output, or an output that is not floating-point.
      RuleError: for a composite that has no fitting rule for some node, or an entry that no node gets its rule from.
      UnsupportedError: for primitives that have no rule, listing all of them.

    Source: Bach et al. 2015, "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
    Propagation"; of the default rules, see `default`.

    Example:
      >>> model = lambda x: x @ jnp.array([[1.0, -1.0], [2.0, 1.0]])
      >>> explain = jax.jit(jrlrp.relevance(model))  # of the highest score, 3 · 1 + 1 · 2
      >>> explain(jnp.array([3.0, 1.0]))
      Array([3., 2.], dtype=float32)
      >>> jrlrp.relevance(model, target=1)(jnp.array([3.0, 1.0]))
      Array([-3.,  1.], dtype=float32)
    """
    check_argnums("relevance", argnums)
    both = value_and_relevance(
        fun,
        argnums,
        rules=rules,
        target=target,
        has_aux=has_aux,
        capture=capture,
        values=values,
        ratio=ratio,
        conditions=conditions,
        start=start,
        unknown=unknown,
        primitives=primitives,
    )

    @wraps(fun, updated=())
    def explained(*args, **kwargs):
        value, result = both(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    vars(explained).update(rules=vars(both)["rules"], gives_value=False)
    return explained


def pullback(
    fun: Callable,
    *primals: Any,
    rules: Composite | Rule | None = None,
    conditions: Mapping[Any, Any] | None = None,
    start: Mapping[Any, Any] | None = None,
    unknown: str = "error",
    primitives: Mapping[Any, Any] | None = None,
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Return `fun(*primals)` and the function that takes relevance of the output back to all primals, like `jax.vjp`.

    Args:
      fun: as for `relevance`.
      primals: the arguments, all of them explained.
      rules, conditions, start, unknown, primitives: as for `relevance`.

    Returns:
      `(out, propagate)`; `propagate(R_out)`, with R_out of out's structure and shapes, returns a tuple of relevances,
      one for each primal. Relevance of a final softmax is taken as that of its logits.

    Raises:
      As `relevance`; `propagate` raises TargetError for relevance of another structure or shape.

    Example:
      >>> score, propagate = jrlrp.pullback(lambda x, y: x + 2 * y, 1.0, 2.0)
      >>> propagate(score)
      (Array(1., dtype=float32), Array(4., dtype=float32))
    """
    chosen = options(
        fun,
        rules,
        argnums=tuple(range(len(primals))),
        unknown=unknown,
        primitives=primitives,
        conditions=conditions,
        start=start,
    )
    traced = trace_function(fun, primals, {}, chosen)
    passed = traced.explain()

    def propagate(relevance: Any) -> tuple[Any, ...]:
        initial = matching(relevance, passed.out, "the call of propagate")
        return passed.propagate(initial)[0]

    return passed.value, propagate


def plan(
    fun: Callable,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    rules: Composite | Rule | None = None,
    has_aux: bool = False,
    primitives: Mapping[Any, Any] | None = None,
    **kwargs: Any,
) -> Plan:
    """Return how relevance would pass through `fun`: its nodes, their rules, and what has none. Nothing is run.

    Args:
      fun, argnums, rules, has_aux, primitives: as for `relevance`.
      args, kwargs: the arguments of `fun`; `jax.ShapeDtypeStruct` will do for the explained ones.

    Raises:
      ArgumentError, TargetError: as `relevance`. Unsupported nodes and nodes without a rule do not raise: the plan
      lists them.

    Example:
      >>> plan = jrlrp.plan(lambda x: jax.nn.relu(x @ jnp.ones((4, 3))), jnp.ones((2, 4)))
      >>> [(node.name, node.kind, node.rule) for node in plan.nodes]
      [('dense', 'dense', Epsilon(epsilon=0.0)), ('activation', 'activation', Pass())]
      >>> plan.unsupported
      []
    """
    chosen = options(fun, rules, argnums=argnums, has_aux=has_aux, primitives=primitives)
    traced = trace_function(fun, args, kwargs, chosen)
    found = {} if traced.gradient else {node: chosen.composite.rule_for(node) for node in traced.graph.nodes}
    faults = {node: reason for node, rule in found.items() if (reason := fault(node, rule)) is not None}
    reach = traced.reach({node: rule for node, rule in found.items() if rule is not None})
    idle = without_effect(chosen.composite, traced.graph.nodes)
    return make_plan(traced.graph, found, faults, traced.unsupported, str(reach) if reach.missed else "", idle)


def audit(
    fun: Callable,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    rules: Composite | Rule | None = None,
    target: Any = "max",
    has_aux: bool = False,
    conditions: Mapping[Any, Any] | None = None,
    start: Mapping[Any, Any] | None = None,
    unknown: str = "error",
    primitives: Mapping[Any, Any] | None = None,
    **kwargs: Any,
) -> Audit:
    """Return where the relevance of `fun(*args, **kwargs)` went: what each node received, passed on and absorbed.

    Σ R of the output = Σ R of the explained inputs + Σ over nodes of what each absorbed: by biases, by stabilisers, and
    by its rule otherwise (blocked paths, values that no explained input has a part in, κ of R-LRP), or by a condition.
    With `start`, the relevance that begins at nodes is added to the left. An example whose score is NaN has a map of
    NaN and no part in these sums; `unknown` counts such scores.

    Args:
      fun, argnums, rules, target, has_aux, conditions, start, unknown, primitives: as for `relevance`.
      args, kwargs: the arguments of `fun`.

    Returns:
      An `Audit`, a pytree whose arrays are per node; `jit` and `vmap` may return it. `print(audit)` shows a table.

    Raises:
      As `relevance`.

    Example:
      >>> audit = jrlrp.audit(lambda x: x @ jnp.ones(2) + 5, jnp.array([1.0, 2.0]), rules=jrlrp.Zero())
      >>> print(audit.output, audit.inputs, audit.bias)
      8.0 3.0 [5.]
    """
    chosen = options(
        fun,
        rules,
        argnums=argnums,
        target=as_target(target),
        has_aux=has_aux,
        unknown=unknown,
        primitives=primitives,
        conditions=conditions,
        start=start,
    )
    traced = trace_function(fun, args, kwargs, chosen)
    passed = traced.explain(auditing(traced.graph))
    initial = traced.initial(passed.out)
    shares, measured = passed.propagate(initial, marked=False)
    given = jax.tree.map(known, initial, passed.value)
    if traced.as_ratio:
        initial = jax.tree.map(of_ratio, initial, passed.out)
    begun, leaves = list(passed.seeds.values()), jax.tree.leaves
    return make_audit(traced.graph, passed.rules, measured, leaves(initial), leaves(shares), begun, leaves(given))
