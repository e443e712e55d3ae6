"""From a function and its arguments to a graph and its pullback: what every public function begins with."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.analyses.reach import reached
from jrlrp.analyses.travel import travel
from jrlrp.arguments import called, check_leaves, dtype_of, is_left_out, parted, positions
from jrlrp.composites.composite import Composite, as_composite, choose_rules
from jrlrp.composites.presets import default
from jrlrp.conditions import Steered, Steering, steered, steering
from jrlrp.errors import ArgumentError, TargetError, UnreachedError, UnsupportedError, describe, warn
from jrlrp.graph.devices import parts_unknown
from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import Node, Opaque
from jrlrp.interpret import Course, evaluate_rest, interpret, made_before
from jrlrp.modules import with_names
from jrlrp.primitives.register import declarations
from jrlrp.probes import Probe, unknown_at
from jrlrp.recognition.build import build
from jrlrp.rewrites.canonical import canonical, expanded
from jrlrp.rewrites.carriers import add_carriers
from jrlrp.rewrites.rewrites import PASSES
from jrlrp.rewrites.score import explain_at_score
from jrlrp.rules.base import Form, Rule, saturate
from jrlrp.target import FORMS, Target, check_outputs
from jrlrp.trace import shards
from jrlrp.trace.inline import trace
from jrlrp.trace.program import Equation, Var

_UNKNOWN = ("error", "gradient")


@dataclass(frozen=True, eq=False)
class Options:
    """The checked options of a public function; see `relevance`."""

    composite: Composite
    argnums: Any
    target: Target | None
    has_aux: bool
    unknown: str
    declared: Mapping[str, Any]
    steering: Steering


def options(
    fun: Any,
    rules: Any = None,
    *,
    argnums: Any = 0,
    target: Target | None = None,
    has_aux: bool = False,
    unknown: str = "error",
    primitives: Any = None,
    conditions: Any = None,
    start: Any = None,
) -> Options:
    """Return the options of a call that explains `fun`; without a target, relevance is given to the call's result.

    Raises:
      ArgumentError: for what is wrong about them on its own.
    """
    if not callable(fun):
        raise ArgumentError(f"expected a function, got {fun!r}; pass the model's apply function, say.")
    if unknown not in _UNKNOWN:
        raise ArgumentError(f"unknown={unknown!r}: expected one of {', '.join(map(repr, _UNKNOWN))}.")
    if target is not None and target.form is None and not start:
        raise TargetError(f"target=None gives the output no relevance, and there is no start={{...}}: {FORMS}.")
    composite, declared = as_composite(rules, default), declarations(primitives)
    return Options(composite, argnums, target, has_aux, unknown, declared, steering(conditions, start))


@dataclass(frozen=True, eq=False)
class Explained:
    """A function's value, and how relevance of its output comes back.

    Attributes:
      out: the explained output: the value, or the logits of a final softmax.
      value, aux: what the function returned.
      rules: the rule of each node; one without has JAX's transpose for it.
      shown: the outputs of the nodes that were to be shown.
      seeds: the relevance that begins at nodes.
      propagate: takes relevance of `out` to that of the explained arguments, and what the probes measured. Where an
        example was given NaN, its relevance is NaN, that at probes of relevance too; with `marked=False`, 0.
    """

    out: Any
    value: Any
    aux: Any
    rules: Mapping[Node, Rule]
    shown: Mapping[Node, tuple[Any, ...]]
    seeds: Mapping[Node, Any]
    propagate: Callable[..., tuple[tuple[Any, ...], dict[Node, Any]]]


@dataclass(frozen=True)
class Reach:
    """The explained inputs that relevance does not reach, whether that is all of them, and where it ends."""

    missed: tuple[str, ...]
    nothing: bool
    ends: tuple[str, ...]

    def __str__(self) -> str:
        ends = "; ".join(self.ends) or "the output does not depend on them"
        return f"relevance does not reach {', '.join(self.missed)} (it ends at: {ends})"


def lost_batch_axis(eqn: Equation) -> str:
    """Say where the batch axis was lost, and the way out."""
    return (
        f"it is not known whether examples stay apart at {describe(eqn)}, so all that was given is taken for one "
        "example, and maps may depend on the batch; explain one example at a time with jax.vmap(relevance(f)), or "
        "write that line in operations that keep the leading axis."
    )


def own_arithmetic(fun: Callable) -> Callable:
    """Let a function of the library's promote ranks and dtypes as it was written to, whatever the user forbids."""

    @functools.wraps(fun)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return fun(*args, **kwargs)

    return run


def known(relevance: Any, value: Any) -> Any:
    """Return the relevance that an output is given, or its ratio to it, NaN where the output's value is."""
    none = jnp.isnan(value) if value.shape == relevance.shape else jnp.isnan(value).any()
    return jnp.where(none & (relevance != 0), jnp.nan, relevance)


@dataclass(frozen=True, eq=False)
class Traced:
    """A function traced on its arguments, as a graph.

    `leaves` are the values of the explained ones, and `names` what they are called.
    """

    graph: Graph
    names: tuple[str, ...]
    options: Options
    leaves: list[Any]
    in_tree: Any
    out_tree: Any
    aux_tree: Any

    @property
    def gradient(self) -> bool:
        return self.options.composite.gradient

    @property
    def is_silent(self) -> bool:
        """Whether the output is given no relevance."""
        return self.options.target is not None and self.options.target.form is None

    @functools.cached_property
    def steered(self) -> Steered:
        return steered(self.graph, self.options.steering)

    @property
    def unsupported(self) -> list[Node]:
        opaque = [node for node in self.graph.nodes if isinstance(node, Opaque)]
        if self.gradient:
            return [node for node in opaque if not node.has_derivative]
        by_gradient = self.options.unknown == "gradient"
        return [node for node in opaque if not by_gradient or node.is_complex or not node.has_derivative]

    def rules(self) -> dict[Node, Rule]:
        """Return the rule of every node that needs one, or raise for all nodes that have none."""
        if self.unsupported:
            raise UnsupportedError(self.unsupported)
        return choose_rules(self.options.composite, self.graph.nodes, self.options.unknown)

    def reach(self, rules: Mapping[Node, Rule]) -> "Reach":
        """Return which explained inputs relevance reaches under these rules."""
        outputs = () if self.is_silent else self.graph.outputs
        found, blocking = reached(self.graph, rules, outputs, self.steered.seeds)
        own = self.graph.explained
        ends = [f"{describe(eqn)}" for eqn in self.graph.ended]
        ends += [f"{node.kind} {describe(node)}: {rules[node]!r} hands nothing on to some of it" for node in blocking]
        some = [(name, v) for name, v in zip(self.names, own, strict=True) if v.size]
        missed = [name for name, v in some if v not in found]
        return Reach(tuple(missed), bool(some) and len(missed) == len(some), tuple(dict.fromkeys(ends)))

    def lost_batch_axis(self, rules: Mapping[Node, Rule], by_example: bool = False) -> Equation | None:
        """Return the equation at which the batch axis was lost that a rule, or who asks, needs; None if all is well."""
        batch = self.graph.batch
        needs = by_example or any(rule.needs_batch_axis and not node.maps_vectors for node, rule in rules.items())
        vectors = any(v.ndim > 1 for v in self.graph.explained)  # which a batch has, at least
        return batch.mixed if batch.lost and needs and vectors else None

    def warn(self, rules: Mapping[Node, Rule], by_example: bool = False) -> None:
        """Raise UnreachedError if relevance reaches nothing, and warn of what it does not reach or is not sure of."""
        reach = self.reach(rules)
        if reach.nothing:
            raise UnreachedError(reach.missed, reach.ends)
        if reach.missed:
            warn(f"{reach}; they get 0.")
        if (eqn := self.lost_batch_axis(rules, by_example)) is not None:
            warn(lost_batch_axis(eqn))
        if parted := parts_unknown(self.graph, rules):
            warn(
                f"inside shard_map(..., check_vma=False) types do not say which devices have parts of a layer, and "
                f"{', '.join(parted)} may take a part for the whole; leave out check_vma=False."
            )

    @own_arithmetic
    def explain(
        self,
        probes: Mapping[Node, Probe] = MappingProxyType({}),
        wanted: Iterable[Node] = (),
        by_example: bool = False,
        waits: bool = True,
    ) -> Explained:
        """Run the function forwards so that relevance can come back; raises before anything runs.

        Args:
          probes: what to measure of the nodes' relevance.
          wanted: nodes whose outputs are to be shown.
          by_example: whether who asks has to know which entries are one example's.
          waits: see `Course`.
        """
        graph, rules, count = self.graph, self.rules(), len(self.graph.outputs)
        asked = self.steered
        self.warn(rules, by_example)
        own, carriers = graph.program.inputs[: len(self.leaves)], graph.program.inputs[len(self.leaves) :]
        inputs = {v: jnp.asarray(leaf, v.dtype) for v, leaf in zip(own, self.leaves, strict=True)}
        ids = [v for v in own if jnp.issubdtype(v.dtype, jnp.integer)]
        inputs.update({c: 0 * inputs[v].astype(c.dtype) for c, v in zip(carriers, ids, strict=True)})
        start = [inputs[v] for v in graph.explained]

        later = made_before(graph)
        given = [Form.NONE if self.is_silent else Form.RATIO if self.as_ratio else Form.RELEVANCE] * count
        way = travel(graph, rules, given, asked.seeds)
        asked.check_effect(graph, way)
        forms = {**dict.fromkeys(wanted, Form.NONE), **dict.fromkeys(asked.seeds, Form.RELEVANCE)}

        apart = frozenset().union(*map(shards.mesh_axes, start))

        def run(start, zeros):
            values = {**inputs, **dict(zip(graph.explained, start, strict=True))}
            placed = {node: replace(probes[node], zeros=zero) for node, zero in zip(probes, zeros, strict=True)}
            ends = [*zip(graph.outputs, given, strict=True), *((v, Form.NONE) for v in later)]
            outputs, made = interpret(graph, values, ends, Course(rules, way, placed, asked.masks, forms, apart, waits))
            return (outputs[:count], [made[node] for node in forms]), outputs[count:]

        # Cotangents have to vary over a mesh as the probes do.
        zeros = [jax.tree.map(lambda z: shards.varying(z, inputs.values()), probe.zeros) for probe in probes.values()]
        (outputs, made), pull, found = jax.vjp(run, start, zeros, has_aux=True)
        shown = dict(zip(forms, made, strict=True))
        seeds = {node: asked.begin(node, shown[node][0]) for node in asked.seeds}
        sown = {node: jnp.where(jnp.isnan(seed), 0, seed) for node, seed in seeds.items()}
        begun = [(sown[node],) if node in sown else jax.tree.map(jnp.zeros_like, z) for node, z in shown.items()]
        rest = evaluate_rest(graph, {**inputs, **dict(zip(later, found, strict=True))})
        value = jax.tree.unflatten(self.out_tree, rest[:count])
        aux = None if self.aux_tree is None else jax.tree.unflatten(self.aux_tree, rest[count:])

        @own_arithmetic
        def propagate(relevance, marked=True):
            given = [known(r, v) for r, v in zip(jax.tree.leaves(relevance), rest[:count], strict=True)]
            shares, measured = pull(([jnp.where(jnp.isnan(r), 0, r) for r in given], begun))
            shares = [saturate(r, r.dtype) for r in shares]
            if marked:
                unknown = self._unknown([*zip(graph.outputs, given, strict=True), *self._by_turn(seeds)])
                shares = [r + self._of_input(v, unknown) for r, v in zip(shares, graph.explained, strict=True)]
                marks = [unknown_at(graph, node, unknown) for node in probes]
                measured = [jax.tree.map(jnp.add, found, nan) for found, nan in zip(measured, marks, strict=True)]
            return jax.tree.unflatten(self.in_tree, shares), dict(zip(probes, measured, strict=True))

        return Explained(jax.tree.unflatten(self.out_tree, outputs), value, aux, rules, shown, seeds, propagate)

    def _by_turn(self, seeds: Mapping[Node, Any]) -> list[tuple[Var | None, Any]]:
        """Return the nodes' outputs, and what was given them over all turns of the scans around them.

        None inside of a shard_map, where each device has examples of its own.
        """
        apart = self.graph.in_shards
        sums = lambda node, seed: jnp.sum(seed, axis=range(seed.ndim - len(node.shape)))
        return [(None if node in apart else node.output, sums(node, seed)) for node, seed in seeds.items()]

    def _unknown(self, given: Iterable[tuple[Var | None, Any]]) -> Any:
        """Return NaN for the examples whose variables were given NaN, and 0 for the others: added to maps, it shows."""
        slots = self.graph.batch.slots
        count = self.graph.explained[0].shape[0] if slots else 1
        total = jnp.zeros(count, np.float32)
        for v, r in given:
            none = jnp.where(jnp.isnan(r), r, 0).astype(np.float32)
            own = None if v is None else slots.get(v)
            if v is None or own is None or own.entries is None or not own.axis.is_whole:
                total += jnp.sum(none)
                continue
            parts = jnp.sum(none, axis=[d for d in range(v.ndim) if d != own.axis.dim])
            chosen = np.flatnonzero(own.entries >= 0)
            total += parts if own.order is None else jnp.zeros_like(total).at[own.entries[chosen]].add(parts[chosen])
        return total

    def _of_input(self, v: Var, unknown: Any) -> Any:
        """Return what is known of examples, as it is added to the map of an explained variable."""
        shape = (-1, *[1] * (v.ndim - 1)) if self.graph.batch.slots else (1,) * v.ndim
        return unknown.reshape(shape).astype(v.dtype)

    def initial(self, out: Any) -> Any:
        """Return what the target sends back from the explained output: relevance, or its ratio to the output."""
        target = self.options.target
        assert target is not None
        return target.score_gradient(out) if self.as_ratio else target.initial(out)

    @property
    def as_ratio(self) -> bool:
        """Whether the ratio of the initial relevance to the output is known without a look at its value."""
        return self.options.target is not None and not callable(self.options.target.form)


def trace_function(fun: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options) -> Traced:
    """Trace `fun(*args, **kwargs)` and group its equations into nodes.

    Raises:
      ArgumentError, TargetError: for arguments that cannot be explained, and a target that is not in the output.
    """
    explained = positions(options.argnums, len(args))
    own_args = tuple(args[i] for i in explained)
    names = check_leaves(own_args, explained)
    shown = jax.tree.map(lambda leaf: None if is_left_out(leaf) else leaf, own_args)
    leaves, in_tree = jax.tree.flatten(shown)
    trees: dict[str, Any] = {"aux": None}
    function = with_names(fun)

    def flat(*leaves):
        arguments = list(args)
        given = iter(leaves)
        for i, arg in zip(explained, own_args, strict=True):
            arguments[i] = jax.tree.map(lambda leaf: leaf if is_left_out(leaf) else next(given), arg)
        out, aux = parted(called(function, arguments, kwargs), options.has_aux)
        out_leaves, trees["out"] = jax.tree.flatten(out)
        aux_leaves, aux_tree = jax.tree.flatten(aux)
        if options.has_aux:
            trees["aux"] = aux_tree
        for leaf in (*out_leaves, *aux_leaves):
            if dtype_of(leaf) is None:
                raise ArgumentError(f"the function returns {leaf!r}, which is no array; return arrays only.")
        return [*out_leaves, *aux_leaves]

    gradient = options.composite.gradient
    program = trace(flat, leaves, options.declared, keep_custom=gradient)
    count = trees["out"].num_leaves
    check_outputs(program.outputs[:count])
    if options.target is not None:
        options.target.check(program.outputs[:count])
    own = program.inputs
    program, outputs = explain_at_score(canonical(program, own, PASSES), count)
    if gradient:  # derivatives need no more than the equations themselves
        program = expanded(program)
    integers = [v for v in own if jnp.issubdtype(v.dtype, jnp.integer)]
    program, carriers, ids = add_carriers(program, integers)
    graph = build(program, [carriers.get(v, v) for v in own], outputs, ids, gradient)
    if options.target is not None:
        options.target.check(graph.outputs, per_example=_is_per_example(graph, own))
    return Traced(graph, names, options, leaves, in_tree, trees["out"], trees["aux"])


def _is_per_example(graph: Graph, inputs: Sequence[Var]) -> bool:
    """Tell whether the output is one score for each example of a batch: of vectors, at least."""
    if len(graph.outputs) != 1 or graph.outputs[0].ndim != 1 or not any(v.ndim > 1 for v in inputs):
        return False
    slots = graph.batch.slots.get(graph.outputs[0])
    if slots is None or not slots.axis.is_whole or slots.axis.size != max(v.shape[0] for v in inputs if v.ndim):
        return False
    return slots.numbers is None or len(set(slots.numbers)) == slots.axis.size  # each example once
