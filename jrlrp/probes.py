"""Probes: what is measured of the relevance that passes a node.

A probe is an extra input of the node, all zeros, whose cotangent is the measurement: captured relevance and the audit
are both read off in this way, by the same pullback that gives the relevance of the inputs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrlrp.errors import ArgumentError
from jrlrp.graph.graph import Graph
from jrlrp.graph.linear_layer import wide
from jrlrp.graph.nodes import Control, Node
from jrlrp.patterns import as_patterns, named
from jrlrp.rules.base import Array, Rule, bound, ratio, saturate
from jrlrp.trace import shards
from jrlrp.trace.program import Var

# What the audit measures of each node: Σ R that came in, went out, and was kept by biases and by stabilisers; Σ |R|
# in and out; the number of relevances and ratios that were cut off at their bounds.
AMOUNTS = ("received", "passed", "bias", "stabilizer", "size_received", "size_passed", "saturated")


@dataclass(frozen=True)
class Passage:
    """One node's relevance on its way: tuples of outputs and what each received, of inputs and what each was passed.

    `came` is what came to the outputs, of which a mask may take a part. `ratios` is what was received in parts of the
    outputs' values, None where it came as R.

    `axes` are those of the mesh, inside shard_map, along which devices add up what they measure.
    """

    rule: Rule
    layer: Any
    inputs: Sequence[Array]
    outputs: Sequence[Array]
    came: Sequence[Array]
    received: Sequence[Array]
    ratios: Sequence[Array | None]
    passed: Sequence[Array]
    axes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Probe:
    """`measure(passage)` has the structure, shapes and dtypes of `zeros`."""

    zeros: Any
    measure: Callable[[Passage], Any]


@dataclass(frozen=True)
class Capture:
    """What is captured of the nodes that patterns name: their relevance, or its ratio to the values, and the values."""

    patterns: tuple[Any, ...] = ()
    values: bool = False
    ratio: bool = False


def as_capture(capture: Any, values: Any, as_ratio: Any) -> Capture:
    """Return what is to be captured.

    Raises:
      ArgumentError: for what are no patterns or flags, and flags without anything to capture.
    """
    patterns = as_patterns(capture)
    for name, flag in (("values", values), ("ratio", as_ratio)):
        if not isinstance(flag, bool):
            raise ArgumentError(f"{name}={flag!r}: expected True or False.")
        if flag and not patterns:
            raise ArgumentError(f"{name}=True says what to return of captured nodes; name them with capture=...")
    return Capture(patterns, values, as_ratio)


def capturing(graph: Graph, chosen: Capture) -> dict[Node, Probe]:
    """Return the probes of relevance at the outputs of all nodes that are to be captured.

    What is captured inside a scan has a leading axis of its turns, and inside a shard_map of its devices; see
    `devices.put_together`.

    Raises:
      ArgumentError: where nothing matches.
    """
    found = (node for pattern in chosen.patterns for node in named(graph, "capture", pattern))
    return {node: relevance_at(graph, node, chosen.ratio) for node in found}


def relevance_at(graph: Graph, node: Node, as_ratio: bool = False) -> Probe:
    """Return the probe of the relevance at a node's outputs, or of its ratio to their values."""
    turns = graph.turns[node]
    numbers = [k for k, v in enumerate(node.outputs) if jnp.issubdtype(v.dtype, jnp.inexact)]

    def measure(passage: Passage) -> tuple[Array, ...]:
        found = [_ratio(passage, k) if as_ratio else passage.received[k] for k in numbers]
        real = [jnp.real(r).astype(_real(node.outputs[k])) for k, r in zip(numbers, found, strict=True)]
        return tuple(shards.varying_along(r, passage.axes) for r in real)

    outputs = [node.outputs[k] for k in numbers]
    return Probe(tuple(jnp.zeros((*turns, *v.shape), _real(v)) for v in outputs), measure)


def _ratio(passage: Passage, k: int) -> Array:
    c = passage.ratios[k]
    return ratio(passage.received[k], passage.outputs[k]) if c is None else c


def unknown_at(graph: Graph, node: Node, unknown: Array) -> tuple[Array, ...]:
    """Return NaN for the entries of examples that are `unknown`, NaN in it, else 0: for what `relevance_at` measures.

    Where it is not known which entries are an example's, one unknown example makes all NaN.
    """

    def at(v: Var) -> Array:
        own = None if node in graph.in_shards else graph.batch.slots.get(v)
        if own is None or own.entries is None or not own.axis.is_whole:
            return jnp.sum(unknown).astype(_real(v))
        of_entry = jnp.where(own.entries >= 0, unknown[own.entries], 0).astype(_real(v))
        return of_entry.reshape([-1 if d == own.axis.dim else 1 for d in range(v.ndim)])

    return tuple(at(v) for v in node.outputs if jnp.issubdtype(v.dtype, jnp.inexact))


class Edges(NamedTuple):
    """The zeros of a probe of control flow: for its first states, and for the outputs of each of its bodies."""

    start: Any
    ends: Sequence[Any]


def auditing(graph: Graph) -> dict[Node, Probe]:
    """Return the probes of all nodes' amounts; see `AMOUNTS`."""
    probes: dict[Node, Probe] = {}
    for node, turns in graph.turns.items():
        if not isinstance(node, Control):
            probes[node] = _audit(node, turns)
        elif node.starts or any(body.unmade for body in node.bodies):
            probes[node] = _edges(node, turns)
    return probes


def _edges(node: Control, turns: tuple[int, ...]) -> Probe:
    """Return the probe of what comes to control flow's constant first states and outputs, and goes no further."""
    dtype = _wide(node.outputs)

    def measure(passage: Passage) -> Array:
        received = _relevance(passage.received, passage.outputs)
        return _amounts({"received": _total(received), "size_received": _size(received)}, dtype, passage.axes)

    zeros = jnp.zeros((*turns, len(AMOUNTS)), dtype)
    inside = jnp.zeros((*turns, *node.turns, len(AMOUNTS)), dtype)
    return Probe(Edges(zeros, [inside if body.unmade else () for body in node.bodies]), measure)


def _audit(node: Node, turns: tuple[int, ...]) -> Probe:
    def measure(passage: Passage) -> Array:
        received = _relevance(passage.came, passage.outputs)
        passed = _relevance(passage.passed, passage.inputs)
        kept: Mapping[str, Array] = {}
        if len(node.outputs) == 1:
            kept = passage.rule.absorbed(passage.layer, passage.inputs, passage.outputs[0], passage.received[0])
        amounts = {
            "received": _total(received),
            "passed": _total(passed),
            "bias": kept.get("bias", 0),
            "stabilizer": kept.get("stabilizer", 0),
            "size_received": _size(received),
            "size_passed": _size(passed),
            "saturated": kept.get("saturated", 0) + sum(jnp.sum(jnp.abs(r) >= limit) for r in passed),
        }
        return _amounts(amounts, dtype, passage.axes)

    limit = 0.99 * min(bound(_real(v)) for v in node.inputs)  # the values were rounded to their dtype
    dtype = _wide(node.outputs)
    return Probe(jnp.zeros((*turns, len(AMOUNTS)), dtype), measure)


def _amounts(found: Mapping[str, Array], dtype: Any, axes: frozenset[str]) -> Array:
    """Return amounts in one array, 0 where none was found."""
    own = [_of_device(jnp.asarray(found.get(name, 0), dtype), axes) for name in AMOUNTS]
    return saturate(jnp.stack(own), dtype)


def _of_device(amount: Array, axes: frozenset[str]) -> Array:
    """Return one device's part of an amount that is the same along some of the axes that it will be summed over."""
    same = tuple(axes - shards.mesh_axes(amount))
    if not same:
        return amount
    return jax.lax.pcast(amount / jax.lax.axis_size(same), same, to="varying")


def _real(v: Var) -> Any:
    """Return the dtype of relevance of a variable."""
    return jnp.finfo(v.dtype).dtype


def _wide(variables: Iterable[Var]) -> Any:
    return wide(*(_real(v) for v in variables if jnp.issubdtype(v.dtype, jnp.inexact)))


def _relevance(relevances: Sequence[Array], values: Sequence[Array]) -> list[Array]:
    """Return the relevance of values that are numbers: real, as it is of a real score.

    None of it is NaN, which JAX's own derivatives make where an example's values are: its score has no relevance.
    """
    real = (jnp.real(r) for r, z in zip(relevances, values, strict=True) if jnp.issubdtype(z.dtype, jnp.inexact))
    return [jnp.where(jnp.isnan(r), 0, r) for r in real]


def _size(relevances: Sequence[Array]) -> Array:
    return _total([jnp.abs(r) for r in relevances])


def _total(relevances: Sequence[Array]) -> Array:
    """Return the sum of all entries, by way of the largest so that no partial sum leaves the dtype."""
    largest = jnp.stack([jnp.max(jnp.abs(r), initial=0) for r in relevances]).max()
    scale = jnp.where(largest == 0, 1, largest)
    return scale * sum(jnp.sum(r / scale) for r in relevances)
