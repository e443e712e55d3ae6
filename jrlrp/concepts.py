"""Concepts: the relevance of single channels of a layer, where it lies in the input, and which samples have most.

A channel of a hidden layer stands for a concept, whatever the network has learnt it to be. The relevance of the output
that passes it is the concept's part in the decision (CRP); the samples in which that is highest show what the concept
is (relevance maximisation).

Source: Achtibat et al. 2023, "From attribution maps to human-understandable explanations through Concept Relevance
Propagation".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.api import check_argnums
from jrlrp.composites.composite import Composite
from jrlrp.conditions import Steering
from jrlrp.errors import ArgumentError
from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import Node
from jrlrp.patterns import check_pattern, one_each
from jrlrp.probes import relevance_at
from jrlrp.rules.base import Array, Rule, ratio
from jrlrp.target import as_target
from jrlrp.trace.hoist import hoisted
from jrlrp.transform import Traced, options, own_arithmetic, trace_function

__all__ = ["References", "Scores", "maps", "receptive_field", "scores"]

_CHUNK = 16
_LARGEST = np.iinfo(np.int32).max  # number of a sample


def maps(
    fun: Callable,
    at: Any,
    *,
    channels: Any = None,
    axis: int = -1,
    argnums: int | Sequence[int] = 0,
    rules: Composite | Rule | None = None,
    target: Any = "max",
    batch_size: int | None = None,
) -> Callable:
    """Return a function of `fun`'s arguments that returns a map for each channel of a node, by conditional relevance.

    Map c is `relevance(fun, conditions={at: one-hot mask of c})`. The forward pass, and all of the relevance above the
    node, is computed once. The maps of all channels add up to the whole under rules that are linear in relevance, where
    nothing goes around the node and relevance passes it once: not those of R-LRP, as each layer has its κ, and not at
    a node that hands on from turn to turn of a scan, where a mask acts at each turn.

    Args:
      fun, argnums, rules, target: as for `relevance`.
      at: a glob of the module path or the name of one node, or a matcher of one.
      channels: which ones, an array of integers of shape (C,), traced or not; None for all. A traced one out
        of range has a map of 0.
      axis: of the node's output, along which the channels lie.
      batch_size: how many maps are computed at a time, for memory; None for 16.

    Returns:
      A function that returns maps of shape (C, *x.shape); a tuple for a tuple `argnums`.

    Raises:
      As `relevance`; ArgumentError for another `at`, axis, channel or batch size.

    Example:
      >>> model = lambda x: jax.nn.relu(x @ jnp.array([[1.0, 2.0], [3.0, -1.0]])) @ jnp.array([1.0, 2.0])
      >>> concepts.maps(model, "dense#0", rules=jrlrp.Zero())(jnp.array([2.0, 1.0]))
      Array([[ 2.,  3.],
             [ 8., -2.]], dtype=float32)
    """
    check_pattern("at", at)
    check_argnums("maps", argnums)
    chosen = options(fun, rules, argnums=argnums, target=as_target(target))
    size = _CHUNK if batch_size is None else batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ArgumentError(f"batch_size={batch_size!r}: expected a number of maps, at least 1, or None.")

    @wraps(fun, updated=())
    def mapped(*args: Any, **kwargs: Any) -> Any:
        traced = trace_function(fun, args, kwargs, chosen)
        node, dim = _place(traced.graph, at, axis)
        count = node.shape[dim]
        wanted = jnp.arange(count) if channels is None else _channels(channels, count)
        ones = [1] * (len(node.shape) - 1 - dim)

        def one(channel: Array) -> Any:
            mask = jnp.reshape(_one_hot(channel, count), (count, *ones))
            own = _steered(traced, conditions={at: mask})
            passed = own.explain(waits=False)  # so that what all channels have in common can be hoisted
            return passed.propagate(own.initial(passed.out))[0]

        if not len(wanted):
            found = jax.tree.map(lambda v: jnp.zeros((0, *v.shape), v.dtype), jax.eval_shape(one, jnp.zeros((), int)))
        else:
            rest = hoisted(one, wanted[0])
            found = jax.vmap(rest)(wanted) if len(wanted) <= size else jax.lax.map(rest, wanted, batch_size=size)
        return found if isinstance(argnums, (tuple, list)) else found[0]

    return mapped


class Scores(NamedTuple):
    """The score of each channel in each example, and the position at which it is highest, both of shape (N, C)."""

    values: Array
    positions: Array


def scores(
    fun: Callable,
    at: Any,
    *,
    reduce: str = "sum",
    normalise: bool = False,
    of: str = "relevance",
    axis: int = -1,
    rules: Composite | Rule | None = None,
    target: Any = "max",
) -> Callable:
    """Return a function of `fun`'s arguments that scores the channels of a node in each example.

    Args:
      fun, rules, target: as for `relevance`; the first argument is explained.
      at, axis: as for `maps`.
      reduce: "sum" or "max", over all axes but those of examples and channels.
      normalise: whether an example's scores are divided by the sum of their magnitudes over channels.
      of: "relevance", or "activation", the node's output.

    Returns:
      A function that returns `Scores`: values, and the flat positions, row by row over the other axes, at which
      relevance (activation) is highest. One example has N = 1; so has a batch whose examples mix, or cannot be told
      apart, of which a JrlrpWarning tells.

    Raises:
      As `relevance`; ArgumentError for other options.
    """
    check_pattern("at", at)
    for name, value, allowed in (("reduce", reduce, ("sum", "max")), ("of", of, ("relevance", "activation"))):
        if value not in allowed:
            raise ArgumentError(f"{name}={value!r}: expected {' or '.join(map(repr, allowed))}.")
    if not isinstance(normalise, bool):
        raise ArgumentError(f"normalise={normalise!r}: expected True or False.")
    chosen = options(fun, rules, target=as_target(target))

    @wraps(fun, updated=())
    def scored(*args: Any, **kwargs: Any) -> Scores:
        traced = trace_function(fun, args, kwargs, chosen)
        node, dim = _place(traced.graph, at, axis)
        layout = _Layout.of(traced.graph, node, dim)
        if of == "activation":
            (found,) = traced.explain(wanted=[node], by_example=True).shown[node]
        else:
            passed = traced.explain({node: relevance_at(traced.graph, node)}, by_example=True)
            _, measured = passed.propagate(traced.initial(passed.out))
            (found,) = measured[node]
        flat = layout.flat(found)
        values = jnp.sum(flat, axis=1) if reduce == "sum" else jnp.max(flat, axis=1, initial=-jnp.inf)
        if normalise:
            total = jnp.sum(jnp.abs(values), axis=1, keepdims=True)
            values = jnp.where(jnp.isnan(total), jnp.nan, ratio(values, total))
        highest = jnp.argmax(flat, axis=1) if flat.shape[1] else jnp.full(values.shape, -1)
        return Scores(values, highest.astype(jnp.int32))

    return scored


def receptive_field(
    fun: Callable, at: Any, channel: Any, position: Any, *, axis: int = -1, rules: Composite | Rule | None = None
) -> Callable:
    """Return a function of `fun`'s arguments: the map of one entry of a node, the first argument's part in its value.

    Relevance begins at the entry, with the entry's own value.

    Args:
      fun, rules: as for `relevance`.
      at, axis: as for `maps`.
      channel: an integer, or one for each example, shape (N,). A traced one out of range has a map of 0.
      position: the flat position over all axes but those of examples and channels, as `scores` returns it: an integer,
        or one for each example.

    Returns:
      A function that returns relevance of the first argument's shape.

    Raises:
      As `relevance`; ArgumentError for another `at` or axis, and for integers of another shape or out of range.
    """
    check_pattern("at", at)
    chosen = options(fun, rules, target=as_target(None), start={at: _value})

    @wraps(fun, updated=())
    def field(*args: Any, **kwargs: Any) -> Any:
        traced = trace_function(fun, args, kwargs, chosen)
        node, dim = _place(traced.graph, at, axis)
        layout = _Layout.of(traced.graph, node, dim)
        mask = layout.one_hot(_indices("channel", channel), _indices("position", position))
        (values,) = traced.explain(wanted=[node], by_example=True).shown[node]
        own = _steered(traced, start={at: jnp.where(mask, values, 0)})
        passed = own.explain()
        return passed.propagate(own.initial(passed.out))[0][0]

    return field


def _value(z: Array) -> Array:
    return z


def _steered(traced: Traced, conditions: Any = None, start: Any = None) -> Traced:
    asked = Steering(conditions or {}, start or {}, names=("at", "at"))
    return replace(traced, options=replace(traced.options, steering=asked))


def _place(graph: Graph, at: Any, axis: int) -> tuple[Node, int]:
    """Return the one node that a pattern names, and its dimension of channels."""
    found = one_each(graph, "at", at)
    if len(found) > 1:
        names = ", ".join(graph.names[node] for node in found[:12])
        raise ArgumentError(f"at={at!r} matches {len(found)} nodes: {names}. Name one of them.")
    node = found[0]
    if node in graph.in_shards:
        raise ArgumentError(
            f"at={at!r} names {graph.names[node]}, inside shard_map, where each device has channels or examples of its "
            "own; name what comes out of the shard_map, or explain inside it."
        )
    if isinstance(axis, bool) or not isinstance(axis, int) or not -len(node.shape) <= axis < len(node.shape):
        raise ArgumentError(f"axis={axis!r}: expected an axis of the output of {graph.names[node]}, {node.shape}.")
    return node, axis % len(node.shape)


def _indices(name: str, given: Any) -> Array:
    array = given if isinstance(given, jax.Array) else np.asarray(given)
    if array.ndim > 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ArgumentError(f"{name}={given!r}: expected an integer, or an array of them, one for each example.")
    return array


def _channels(given: Any, count: int) -> Array:
    array = np.asarray(given) if not isinstance(given, jax.Array) else given
    if array.size == 0:
        array = array.astype(int)
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ArgumentError(
            f"channels={given!r}: expected an array of integers of one axis: [{given!r}] for one, np.flatnonzero(mask) "
            "for a mask."
        )
    _check_range("channels", array, count)
    return jnp.asarray(array)


def _one_hot(index: Array, count: int) -> Array:
    """Return which of so many an index is, counted from the end if it is negative: none, if it is out of range."""
    index = jnp.asarray(index)[..., None]
    return jnp.arange(count) == jnp.where(index < 0, index + count, index)


def _check_range(name: str, array: Array, count: int) -> None:
    if isinstance(array, jax.core.Tracer) or not array.size:
        return
    known = np.asarray(array)
    if known.min() < -count or known.max() >= count:
        raise ArgumentError(f"{name}={known.tolist()}: out of range, there are {count}.")


@dataclass(frozen=True)
class _Layout:
    """How the values of a node over all turns are laid out: examples, positions, channels.

    Attributes:
      shape: of the values, with a leading axis for each scan around the node.
      examples: the axis of examples, None if all is one.
      channels: the axis of channels.
    """

    shape: tuple[int, ...]
    examples: int | None
    channels: int

    @classmethod
    def of(cls, graph: Graph, node: Node, dim: int) -> "_Layout":
        turns, slots = graph.turns[node], graph.batch.slots
        own, examples = slots.get(node.output), None
        if slots and not node.output.size:  # nothing is known of what is empty
            examples = len(turns) + int(dim == 0)
        elif slots:
            if own is None or not own.axis.is_whole or own.order is not None or own.axis.dim == dim:
                raise ArgumentError(
                    f"the output of {graph.names[node]}, {node.shape}, has no axis of its own for examples in their "
                    "order beside that of channels (inside jax.lax.map examples are turns); take another node or axis, "
                    "or jax.vmap over single examples."
                )
            examples = len(turns) + own.axis.dim
        return cls((*turns, *node.shape), examples, len(turns) + dim)

    @property
    def order(self) -> list[int]:
        """The axes in the order examples, positions, channels."""
        ends = [self.channels] if self.examples is None else [self.examples, self.channels]
        rest = [d for d in range(len(self.shape)) if d not in ends]
        return [*ends[:-1], *rest, self.channels]

    @property
    def counts(self) -> tuple[int, int, int]:
        n = 1 if self.examples is None else self.shape[self.examples]
        rest = [size for d, size in enumerate(self.shape) if d not in (self.examples, self.channels)]
        return n, int(np.prod(rest, dtype=int)), self.shape[self.channels]

    def flat(self, values: Array) -> Array:
        """Return values as (examples, positions, channels)."""
        return jnp.transpose(values, self.order).reshape(self.counts)

    @own_arithmetic
    def one_hot(self, channel: Array, position: Array) -> Array:
        """Return a mask, as the values are laid out, of one entry of each example."""
        n, p, c = self.counts
        for name, given, count in (("channel", channel, c), ("position", position, p)):
            if given.ndim and given.shape != (n,):
                raise ArgumentError(f"{name} has shape {given.shape}; expected () or {(n,)}, one for each example.")
            _check_range(name, given, count)
        hot = lambda given, count: _one_hot(jnp.broadcast_to(jnp.asarray(given), (n,)), count)
        flat = hot(position, p)[:, :, None] & hot(channel, c)[:, None, :]
        order = self.order
        return jnp.transpose(flat.reshape([self.shape[d] for d in order]), [order.index(d) for d in range(len(order))])


@partial(jax.tree_util.register_dataclass, data_fields=["values", "samples", "positions"], meta_fields=[])
@dataclass(frozen=True)
class References:
    """The samples in which each channel scores highest, best first: a pytree, kept on the device.

    Attributes:
      values: the scores, shape (count, channels); −inf where there is none yet.
      samples: the samples' numbers; −1 where there is none, which must not be taken for the last sample. Of equal
        scores the lower number comes first.
      positions: where in the sample the channel is highest, as `Scores.positions`.
    """

    values: Array
    samples: Array
    positions: Array

    @classmethod
    def empty(cls, channels: int, count: int) -> "References":
        """Return a table for so many channels, of so many samples each."""
        for name, value in (("channels", channels), ("count", count)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ArgumentError(f"References.empty({name}={value!r}): expected an integer of at least 1.")
        none = jnp.full((count, channels), -1, jnp.int32)
        return cls(jnp.full((count, channels), -jnp.inf), none, none)

    def update(self, scores: Any, samples: Any, positions: Any) -> "References":
        """Return the table with more samples, none of which it has: one that comes twice is there twice.

        Args:
          scores: shape (N, channels).
          samples: the samples' numbers, integers of shape (N,).
          positions: integers of shape (N, channels).

        Raises:
          ArgumentError: for other shapes and dtypes.
        """
        values, channels = jnp.asarray(scores, self.values.dtype), self.values.shape[1]
        expected = (*values.shape[:1], channels)
        own = [("scores", values, expected), ("positions", jnp.asarray(positions), expected)]
        own.append(("samples", jnp.asarray(samples), expected[:1]))
        for name, array, shape in own:
            if array.shape != shape:
                raise ArgumentError(
                    f"update: {name} of shape {array.shape}; expected {shape}, for {channels} channels."
                )
        for name, array, _ in own[1:]:
            if not jnp.issubdtype(array.dtype, jnp.integer):
                raise ArgumentError(f"update: {name} of dtype {array.dtype}; expected integers.")
        if not isinstance(samples, jax.core.Tracer) and np.size(samples) and np.max(samples) > _LARGEST:
            raise ArgumentError(f"update: samples up to {np.max(samples)}; expected numbers of at most {_LARGEST}.")
        numbers = jnp.broadcast_to(jnp.asarray(samples)[:, None], values.shape)
        return self._with(values, numbers, jnp.asarray(positions))

    def merge(self, other: "References") -> "References":
        """Return the table of the samples of both, of another device or host, with as many for each channel as here."""
        if not isinstance(other, References) or other.values.shape[1] != self.values.shape[1]:
            raise ArgumentError(f"merge: expected References of {self.values.shape[1]} channels.")
        return self._with(other.values.astype(self.values.dtype), other.samples, other.positions)

    def _with(self, values: Array, samples: Array, positions: Array) -> "References":
        joined = [
            jnp.concatenate([own, new.astype(own.dtype)])
            for own, new in ((-self.values, -values), (self.samples, samples), (self.positions, positions))
        ]
        best = [v[: self.values.shape[0]] for v in jax.lax.sort(joined, dimension=0, num_keys=2)]
        return References(-best[0], *best[1:])
