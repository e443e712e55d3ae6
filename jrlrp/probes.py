"""Probes: what is measured of the relevance that passes a node.

A probe is an extra input of the node, all zeros, whose cotangent is the measurement: captured relevance and the audit
are both read off in this way, by the same pullback that gives the relevance of the inputs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.errors import ArgumentError
from jrlrp.graph.graph import Graph
from jrlrp.graph.linear_layer import wide
from jrlrp.graph.nodes import Control, Node
from jrlrp.primitives.row import Op
from jrlrp.rules.base import Array, Rule, bound, saturate
from jrlrp.trace import compat

# What the audit measures of each node: Σ R that came in, went out, and was kept by biases and by stabilisers; Σ |R|
# in and out; the number of relevances and ratios that were cut off at their bounds.
AMOUNTS = ("received", "passed", "bias", "stabilizer", "size_received", "size_passed", "saturated")


@dataclass(frozen=True)
class Passage:
    """One node's relevance on its way: tuples of outputs and what each received, of inputs and what each was passed.

    `axes` are those of the mesh, inside shard_map, along which devices add up what they measure.
    """

    rule: Rule
    layer: Any
    inputs: Sequence[Array]
    outputs: Sequence[Array]
    received: Sequence[Array]
    passed: Sequence[Array]
    axes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Probe:
    """`measure(passage)` has the structure, shapes and dtypes of `zeros`."""

    zeros: Any
    measure: Callable[[Passage], Any]


def as_patterns(capture: Any) -> tuple[Any, ...]:
    """Return what `capture` names as a tuple: globs of module paths or node names, and matchers of nodes.

    Raises:
      ArgumentError: for anything else.
    """
    several = isinstance(capture, Iterable) and not isinstance(capture, str)
    patterns = tuple(capture) if several else (capture,)
    for pattern in patterns:
        if not isinstance(pattern, str) and not callable(pattern):
            raise ArgumentError(f"capture={pattern!r}: expected globs of module paths, or matchers: match(...).")
    return patterns


def capturing(graph: Graph, patterns: Sequence[Any], gradient: bool) -> dict[Node, Probe]:
    """Return the probes of relevance at the outputs of all nodes that the patterns name.

    Args:
      patterns: as `as_patterns` returns them.
      gradient: gradients pass the nodes, to be multiplied by values.

    What is captured inside a scan has a leading axis of its turns.

    Raises:
      ArgumentError: where nothing matches.
    """
    chosen: dict[Node, Probe] = {}
    for pattern in patterns:
        found = [node for node, name in graph.names.items() if _names(pattern, node, name)]
        found = [node for node in found if not isinstance(node, Control)]
        if graph.in_shards.intersection(found):
            raise ArgumentError(
                f"capture={pattern!r} names a node inside shard_map, where each device has relevance of its own; "
                "capture what comes out of the shard_map, or call relevance(..., capture=...) inside it."
            )
        if not found:
            known = ", ".join(list(graph.names.values())[:12]) or "(none: no relevance passes anything)"
            raise ArgumentError(f"capture={pattern!r} matches no node; plan() prints their names. Some are: {known}.")
        chosen.update({node: _capture(node, graph.turns[node], gradient) for node in found})
    return chosen


def _names(pattern: Any, node: Node, name: str) -> bool:
    if not isinstance(pattern, str):
        return bool(pattern(node))
    return fnmatchcase(node.path, pattern) or fnmatchcase(name, pattern)


def _capture(node: Node, turns: tuple[int, ...], gradient: bool) -> Probe:
    floating = [k for k, v in enumerate(node.outputs) if jnp.issubdtype(v.dtype, jnp.floating)]

    def measure(passage: Passage) -> tuple[Array, ...]:
        pairs = [(passage.outputs[k], passage.received[k], node.outputs[k].dtype) for k in floating]
        return tuple((z * r if gradient else r).astype(dtype) for z, r, dtype in pairs)

    outputs = [node.outputs[k] for k in floating]
    return Probe(tuple(jnp.zeros((*turns, *v.shape), v.dtype) for v in outputs), measure)


def auditing(graph: Graph, gradient: bool) -> dict[Node, Probe]:
    """Return the probes of all nodes' amounts; see `AMOUNTS`."""
    measured = {node: turns for node, turns in graph.turns.items() if not isinstance(node, Control)}
    return {node: _audit(node, turns, gradient) for node, turns in measured.items()}


def _audit(node: Node, turns: tuple[int, ...], gradient: bool) -> Probe:
    # What a carrier's cotangent says is multiplied already. An embedding's table is no explained input beside its ids.
    moves_ids, looks_up = (node.equations[-1].op is op for op in (Op.CARRY, Op.EMBEDDING))

    def measure(passage: Passage) -> Array:
        received = _relevance(passage.received, passage.outputs, gradient and not moves_ids)
        passed = _relevance(passage.passed, passage.inputs, gradient and not (moves_ids or looks_up))
        kept: Mapping[str, Array] = {}
        if not gradient and len(node.outputs) == 1:
            kept = passage.rule.absorbed(passage.layer, passage.inputs, passage.outputs[0], passage.received[0])
        amounts = {
            "received": _total(received),
            "passed": _total(passed),
            "bias": kept.get("bias", 0),
            "stabilizer": kept.get("stabilizer", 0),
            "size_received": _total([jnp.abs(r) for r in received]),
            "size_passed": _total([jnp.abs(r) for r in passed]),
            "saturated": kept.get("saturated", 0) + sum(jnp.sum(jnp.abs(r) >= limit) for r in passed),
        }
        own = [_of_device(jnp.asarray(amounts[name], dtype), passage.axes) for name in AMOUNTS]
        return saturate(jnp.stack(own), dtype)

    limit = 0.99 * min(bound(v.dtype) for v in node.inputs)  # the values were rounded to their dtype
    dtype = wide(*(v.dtype for v in node.outputs if jnp.issubdtype(v.dtype, jnp.floating)))
    return Probe(jnp.zeros((*turns, len(AMOUNTS)), dtype), measure)


def _of_device(amount: Array, axes: frozenset[str]) -> Array:
    """Return one device's part of an amount that is the same along some of the axes that it will be summed over."""
    same = tuple(axes - compat.mesh_axes(amount))
    if not same:
        return amount
    return jax.lax.pcast(amount / jax.lax.axis_size(same), same, to="varying")


def _relevance(cotangents: Sequence[Array], values: Sequence[Array], gradient: bool) -> list[Array]:
    pairs = [(r, z) for r, z in zip(cotangents, values, strict=True) if jnp.issubdtype(z.dtype, jnp.floating)]
    return [r * z if gradient else r for r, z in pairs]


def _total(relevances: Sequence[Array]) -> Array:
    """Return the sum of all entries, by way of the largest so that no partial sum leaves the dtype."""
    largest = jnp.stack([jnp.max(jnp.abs(r), initial=0) for r in relevances]).max()
    scale = jnp.where(largest == 0, 1, largest)
    return scale * sum(jnp.sum(r / scale) for r in relevances)
