"""Relevance that is conditioned at a node, or begins there: masks and seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.analyses.travel import Travel
from jrlrp.errors import ArgumentError
from jrlrp.graph.devices import copies, taken_apart, whole_shape
from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import Node
from jrlrp.patterns import as_mapping, one_each
from jrlrp.rules.base import Form, brief, broadcasts, is_number

Array = Any


@dataclass(frozen=True)
class Steering:
    """The checked `conditions` and `start` of a call: what patterns map to; see `relevance`.

    `names` are what the caller calls them.
    """

    conditions: Mapping[Any, Any] = field(default_factory=dict)
    start: Mapping[Any, Any] = field(default_factory=dict)
    names: tuple[str, str] = ("conditions", "start")


def steering(conditions: Any, start: Any) -> Steering:
    """Return what a call's `conditions` and `start` say.

    Raises:
      ArgumentError: for what is no mapping from patterns to masks, or to seeds.
    """
    masks = as_mapping("conditions", conditions, "masks")
    seeds = as_mapping("start", start, "relevance, or to functions of the nodes' values that return it")
    for pattern, mask in masks.items():
        masks[pattern] = _array("conditions", pattern, mask)
    for pattern, seed in seeds.items():
        seeds[pattern] = seed if _is_function(seed) else _array("start", pattern, seed)
    return Steering(masks, seeds)


def _is_function(seed: Any) -> bool:
    return callable(seed) and not isinstance(seed, (jax.Array, np.ndarray))


def _array(keyword: str, pattern: Any, given: Any) -> Array:
    """Return numbers as an array, or raise ArgumentError; a mask may be of truth values."""
    try:
        array = given if isinstance(given, jax.Array) else np.asarray(given)
    except (TypeError, ValueError):
        array = None
    if array is None or not (is_number(array) or (keyword == "conditions" and array.dtype == bool)):
        raise ArgumentError(f"{keyword}={{{pattern!r}: {brief(given)}}}: expected an array of numbers.")
    if keyword == "conditions" and type(given) is int and given not in (0, 1):
        raise ArgumentError(
            f"conditions={{{pattern!r}: {given}}}: a mask of one number multiplies all of the relevance. For channel "
            f"{given} of 10, write jnp.arange(10) == {given}; to multiply, {float(given)}."
        )
    if not isinstance(array, jax.core.Tracer) and not np.isfinite(np.asarray(array)).all():
        raise ArgumentError(f"{keyword}={{{pattern!r}: {brief(given)}}}: not all of it is finite.")
    return array


@dataclass(frozen=True, eq=False)
class Steered:
    """What is asked of the nodes of a graph.

    Attributes:
      masks: what multiplies the relevance at a node's output, with a leading axis for each scan around the node.
      seeds: for each node at which relevance begins, arrays that broadcast to its output, with a leading axis for each
        scan, and functions of its value.
      copies: how many devices begin the same relevance there, of whom each gives a part.
    """

    masks: Mapping[Node, Array]
    seeds: Mapping[Node, tuple[Any, ...]]
    copies: Mapping[Node, int]
    names: tuple[str, str]

    def check_effect(self, graph: Graph, way: Travel) -> None:
        """Raise ArgumentError for nodes that hand no relevance on: what is asked of it there has no effect."""
        for keyword, nodes in zip(self.names, (self.masks, self.seeds), strict=True):
            idle = [graph.names[node] for node in nodes if way.handed.get(node, Form.NONE) is Form.NONE]
            if idle:
                raise ArgumentError(
                    f"{keyword} has no effect at {', '.join(idle)}: under these rules no relevance passes there; leave "
                    "it out, or choose rules that hand relevance on there, rules=jrlrp.attn_lrp() say."
                )

    def begin(self, node: Node, value: Array) -> Array:
        """Return the relevance that begins at a node whose value, with a leading axis for each scan, is given."""
        total = jnp.zeros_like(value)
        for seed in self.seeds[node]:
            if _is_function(seed):
                for _ in range(value.ndim - len(node.shape)):
                    seed = jax.vmap(seed)
                total = total + seed(value)
            else:
                total = total + seed.astype(value.dtype)
        return total / self.copies[node]


def steered(graph: Graph, asked: Steering) -> Steered:
    """Find the nodes that conditions and starts are for.

    Raises:
      ArgumentError: where a pattern names no node, or a glob several, or where a shape does not fit.
    """
    masks: dict[Node, Array] = {}
    for pattern, mask in asked.conditions.items():
        for node in one_each(graph, "conditions", pattern):
            own = _fitted("conditions", graph, node, mask)
            masks[node] = masks[node] * own if node in masks else own
    seeds: dict[Node, tuple[Any, ...]] = {}
    for pattern, seed in asked.start.items():
        for node in one_each(graph, "start", pattern):
            own = _checked(graph, node, seed) if _is_function(seed) else _fitted("start", graph, node, seed)
            seeds[node] = (*seeds.get(node, ()), own)
    return Steered(masks, seeds, {node: copies(graph, node) for node in seeds}, asked.names)


def _fitted(keyword: str, graph: Graph, node: Node, given: Array) -> Array:
    """Return a mask or seed of all turns and devices: with an axis for each, and one for each of the node's own."""
    (turns, shape), own = whole_shape(graph, node), np.shape(given)
    lead = turns if len(own) == len(turns) + len(shape) else ()
    if not broadcasts(own, (*lead, *shape)):
        each = f", or with leading axes {turns} for each turn or device its own" if turns else ""
        raise ArgumentError(
            f"{keyword} gives {graph.names[node]} an array of shape {own}; expected one that broadcasts to the node's "
            f"output, {shape}{each}."
        )
    own = own[len(lead) :]
    filled = jnp.reshape(jnp.asarray(given), (*np.shape(given)[: len(lead)], *[1] * (len(shape) - len(own)), *own))
    apart = taken_apart(graph, node, filled.reshape(*[1] * (len(turns) - len(lead)), *filled.shape))
    wide = [
        n if axis.mesh is not None else axis.size for n, axis in zip(apart.shape, graph.leading[node], strict=False)
    ]
    return jnp.broadcast_to(apart, (*wide, *apart.shape[len(wide) :]))


def _checked(graph: Graph, node: Node, function: Any) -> Any:
    """Return a function of a node's value, or raise ArgumentError if what it returns does not fit."""
    value = jax.ShapeDtypeStruct(node.shape, node.output.dtype)
    found = jax.eval_shape(function, value)
    leaves = jax.tree.leaves(found)
    fits = len(leaves) == 1 and hasattr(found, "shape") and broadcasts(found.shape, node.shape)
    if not fits or not jnp.issubdtype(found.dtype, jnp.floating):
        raise ArgumentError(
            f"the function that start gives {graph.names[node]} returns {found}; expected relevance that broadcasts to "
            f"the node's output, {value}."
        )
    return lambda value: jnp.broadcast_to(function(value), value.shape).astype(value.dtype)
