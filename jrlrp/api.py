"""`relevance` and its kin: the relevance transform of a function, as `jax.grad` is its derivative."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.composites.composite import Composite, as_composite, choose_rules
from jrlrp.composites.presets import relative
from jrlrp.errors import ArgumentError, UnsupportedError
from jrlrp.graph.build import Graph, build
from jrlrp.graph.carriers import add_carriers
from jrlrp.graph.nodes import Node
from jrlrp.graph.patterns import explain_at_logits
from jrlrp.interpret import interpret
from jrlrp.report import Plan, make_plan
from jrlrp.rules.base import Rule, ratio
from jrlrp.target import Target, as_target, check_outputs, matching
from jrlrp.trace.inline import trace

_UNKNOWN = ("error", "gradient")


@dataclass(frozen=True, eq=False)
class _Traced:
    """A function traced on its arguments, as a graph; `leaves` are the values of the explained ones."""

    graph: Graph
    composite: Composite
    leaves: list[Any]
    in_tree: Any
    out_tree: Any
    aux_tree: Any

    @property
    def unsupported(self) -> list[Node]:
        return [] if self.composite.gradient else [node for node in self.graph.nodes if node.kind == "opaque"]

    def vjp(self, unknown: str) -> tuple[Any, Any, Any, Callable[[Any], tuple[Any, ...]]]:
        """Return the explained output, the function's value, its aux, and the pullback of initial relevance.

        Raises if a node has no rule, before anything runs.
        """
        if self.unsupported and unknown == "error":
            raise UnsupportedError(self.unsupported)
        graph, gradient, count = self.graph, self.composite.gradient, len(self.graph.outputs)
        rules = choose_rules(self.composite, graph.nodes, unknown)
        own, carriers = graph.program.inputs[: len(self.leaves)], graph.program.inputs[len(self.leaves) :]
        inputs = {v: jnp.asarray(leaf, v.dtype) for v, leaf in zip(own, self.leaves, strict=True)}
        inputs.update({c: jnp.zeros(c.shape, c.dtype) for c in carriers})

        def run(*start):
            values = {**inputs, **dict(zip(graph.explained, start, strict=True))}
            outputs = interpret(graph, rules, values, (*graph.outputs, *graph.program.outputs), gradient)
            return outputs[:count], outputs[count:]

        start = [inputs[v] for v in graph.explained]
        outputs, pull, rest = jax.vjp(run, *start, has_aux=True)
        value = jax.tree.unflatten(self.out_tree, rest[:count])
        aux = None if self.aux_tree is None else jax.tree.unflatten(self.aux_tree, rest[count:])

        def propagate(relevance):
            shares = pull(jax.tree.leaves(relevance))
            if gradient:  # what came back is a gradient; a carrier's is multiplied already
                pairs = zip(graph.explained, start, shares, strict=True)
                shares = [g if v in carriers else x * g for v, x, g in pairs]
            return jax.tree.unflatten(self.in_tree, shares)

        return jax.tree.unflatten(self.out_tree, outputs), value, aux, propagate


def _trace(fun, args, kwargs, argnums, composite, has_aux, target: Target | None = None) -> _Traced:
    indices = _indices(argnums, len(args))
    leaves, in_tree = jax.tree.flatten(tuple(args[i] for i in indices))
    _check_leaves(tuple(args[i] for i in indices), indices)
    trees: dict[str, Any] = {"aux": None}

    def flat(*leaves):
        arguments = list(args)
        for i, arg in zip(indices, jax.tree.unflatten(in_tree, leaves), strict=True):
            arguments[i] = arg
        out = fun(*arguments, **kwargs)
        aux_leaves: list[Any] = []
        if has_aux:
            if not (isinstance(out, tuple) and len(out) == 2):
                raise ArgumentError(f"has_aux=True: expected fun to return (out, aux), not {type(out).__name__}.")
            out, aux = out
            aux_leaves, trees["aux"] = jax.tree.flatten(aux)
        out_leaves, trees["out"] = jax.tree.flatten(out)
        for leaf in (*out_leaves, *aux_leaves):
            if _dtype(leaf) is None:
                raise ArgumentError(f"the function returns {leaf!r}, which is no array; return arrays only.")
        return [*out_leaves, *aux_leaves]

    program = trace(flat, leaves, keep_custom=composite.gradient)
    count = trees["out"].num_leaves
    check_outputs(program.outputs[:count])
    if target is not None:
        target.check(program.outputs[:count])
    program, outputs = explain_at_logits(program, count)
    own = program.inputs
    program, carriers, ids = add_carriers(program, [v for v in own if jnp.issubdtype(v.dtype, jnp.integer)])
    graph = build(program, [carriers.get(v, v) for v in own], outputs, ids)
    return _Traced(graph, composite, leaves, in_tree, trees["out"], trees["aux"])


def _indices(argnums: Any, count: int) -> tuple[int, ...]:
    try:
        given = [operator.index(i) for i in (argnums if isinstance(argnums, (tuple, list)) else [argnums])]
    except TypeError:
        raise ArgumentError(f"argnums={argnums!r}: expected an int or a tuple of ints.") from None
    for i in given:
        if not -count <= i < count:
            raise ArgumentError(f"argnums={argnums!r} is out of range: the function got {count} argument(s).")
    indices = tuple(i % count for i in given)
    if not indices or len(set(indices)) < len(indices):
        raise ArgumentError(f"argnums={argnums!r}: expected at least one argument, each once.")
    return indices


def _check_leaves(arguments: tuple[Any, ...], indices: Sequence[int]) -> None:
    """Raise ArgumentError for a leaf of an explained argument that no relevance can be given for."""
    for i, argument in zip(indices, arguments, strict=True):
        for path, leaf in jax.tree_util.tree_leaves_with_path(argument):
            name = f"argument {i}{jax.tree_util.keystr(path)}"
            dtype = _dtype(leaf)
            if dtype is None:
                raise ArgumentError(
                    f"{name} is {leaf!r} of type {type(leaf).__name__}, which JAX cannot trace; pass arrays, or leave "
                    "the argument out of argnums."
                )
            if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
                raise ArgumentError(
                    f"{name} has dtype {dtype}; relevance is for real floating-point inputs and integer ids. Leave the "
                    "argument out of argnums, or close over it."
                )


def _dtype(leaf: Any) -> Any:
    """Return the dtype of anything that JAX takes for an array, else None."""
    try:
        return jax.dtypes.result_type(leaf)
    except (TypeError, ValueError):
        return None


def _check_unknown(unknown: str) -> None:
    if unknown not in _UNKNOWN:
        raise ArgumentError(f"unknown={unknown!r}: expected one of {', '.join(map(repr, _UNKNOWN))}.")


def value_and_relevance(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    *,
    rules: Composite | Rule | None = None,
    target: Any = "max",
    has_aux: bool = False,
    unknown: str = "error",
) -> Callable:
    """Return a function of `fun`'s arguments that returns `fun`'s value and the relevance of its arguments.

    Like `jax.value_and_grad`; the arguments and errors are those of `relevance`.

    Returns:
      A function that returns `(value, R)`, or `((value, aux), R)` with `has_aux`.
    """
    _check_callable(fun)
    wanted, composite = as_target(target), as_composite(rules, relative)
    _check_unknown(unknown)

    @wraps(fun)
    def explained(*args, **kwargs):
        traced = _trace(fun, args, kwargs, argnums, composite, has_aux, wanted)
        out, value, aux, propagate = traced.vjp(unknown)
        shares = propagate(wanted.score_gradient(out) if composite.gradient else wanted.initial(out))
        result = shares if isinstance(argnums, (tuple, list)) else shares[0]
        return ((value, aux) if has_aux else value), result

    return explained


def relevance(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    *,
    rules: Composite | Rule | None = None,
    target: Any = "max",
    has_aux: bool = False,
    unknown: str = "error",
) -> Callable:
    """Return a function of `fun`'s arguments that returns the relevance of some of them for `fun`'s output.

    It composes with `jax.jit`, `jax.vmap`, `jax.grad`, `jax.lax.map` and sharding, as `jax.grad(fun)` does.

    Args:
      fun: a function that JAX can trace, of any pytrees, returning floating-point scores.
      argnums: which positional argument to explain, or a tuple of them. Floating-point leaves get relevance of their
        own shape and dtype, integer leaves (token ids) float32 relevance for each id.
      rules: a composite (a preset, say `epsilon_plus()`), one rule for all affine layers, or None for `relative()`.
      target: what of the output to explain. "max": the highest entry along the last axis, at each position; an int or
        an integer array of the output's shape without its last axis: those entries (negative ones count from the
        end; a traced one out of range explains nothing); "all": the whole output; a callable: it gets the output and
        returns the initial relevance. A scalar output is explained as it is. A final softmax or log-softmax is
        explained at its logits. But for a callable, the initial relevance is the explained output's value.
      has_aux: whether `fun` returns `(out, aux)`.
      unknown: "error", or "gradient" to share relevance by gradient × input at primitives that have no rule.

    Returns:
      A function that returns R, of the structure and shapes of the explained argument (a tuple of such for a tuple
      `argnums`), or `(R, aux)` with `has_aux`.

    Raises:
      All of these before anything runs, when the returned function is called or traced:
      ArgumentError: for arguments that cannot be explained, or wrong options.
      TargetError: for a target that is not in the output, or an output that is not floating-point.
      RuleError: for a composite that has no fitting rule for some node.
      UnsupportedError: for primitives that have no rule, listing all of them.

    Source: Bach et al. 2015, "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
    Propagation"; the default rules are R-LRP's, see `relative`.
    """
    both = value_and_relevance(fun, argnums, rules=rules, target=target, has_aux=has_aux, unknown=unknown)

    @wraps(fun)
    def explained(*args, **kwargs):
        value, result = both(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return explained


def pullback(
    fun: Callable, *primals: Any, rules: Composite | Rule | None = None, unknown: str = "error"
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Return `fun(*primals)` and the function that takes relevance of the output back to all primals, like `jax.vjp`.

    Args:
      fun: as for `relevance`.
      primals: the arguments, all of them explained.
      rules, unknown: as for `relevance`.

    Returns:
      `(out, propagate)`; `propagate(R_out)`, with R_out of out's structure and shapes, returns a tuple of relevances,
      one for each primal. Relevance of a final softmax is taken as that of its logits.

    Raises:
      As `relevance`; `propagate` raises TargetError for relevance of another structure or shape.
    """
    _check_callable(fun)
    _check_unknown(unknown)
    traced = _trace(fun, primals, {}, tuple(range(len(primals))), as_composite(rules, relative), has_aux=False)
    out, value, _, propagate = traced.vjp(unknown)

    def checked(relevance: Any) -> tuple[Any, ...]:
        initial = matching(relevance, out, "the call of propagate")
        if traced.composite.gradient:
            initial = jax.tree.map(lambda r, z: ratio(r, z).astype(z.dtype), initial, out)
        return propagate(initial)

    return value, checked


def plan(
    fun: Callable,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    rules: Composite | Rule | None = None,
    has_aux: bool = False,
    **kwargs: Any,
) -> Plan:
    """Return how relevance would pass through `fun`: its nodes, their rules, and what has none. Nothing is run.

    Args:
      fun, argnums, rules, has_aux: as for `relevance`.
      args, kwargs: the arguments of `fun`; `jax.ShapeDtypeStruct` will do for the explained ones.

    Raises:
      ArgumentError, TargetError: as `relevance`. Unsupported nodes and nodes without a rule do not raise: the plan
      lists them.
    """
    _check_callable(fun)
    traced = _trace(fun, args, kwargs, argnums, as_composite(rules, relative), has_aux)
    rules_of = (
        {}
        if traced.composite.gradient
        else {node: rule for node in traced.graph.nodes if (rule := traced.composite.rule_for(node)) is not None}
    )
    return make_plan(traced.graph, rules_of, traced.unsupported)


def _check_callable(fun: Any) -> None:
    if not callable(fun):
        raise ArgumentError(f"expected a function, got {fun!r}; pass the model's apply function, say.")
