"""What the devices of a shard_map have of a node's output, and how that is put together for who asks for it.

Inside, a value has a leading axis for each axis of the mesh (and one for each scan). Outside, examples that lie along
an axis of the mesh lie along their own axis again, what is the same along one is there once, and any other stays as a
leading axis of devices.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import Affine, Leading, Node
from jrlrp.primitives.row import Op
from jrlrp.rules.base import Rule
from jrlrp.rules.epsilon import Epsilon, Zero
from jrlrp.trace.program import Var

Array = Any


def put_together(graph: Graph, node: Node, v: Var, array: Array) -> Array:
    """Return an output of a node, or its relevance, from what the devices have of it along leading axes."""
    axes = list(graph.leading[node])
    for place in reversed(range(len(axes))):
        if _is_the_same(axes[place], v):
            array = jax.lax.index_in_dim(array, 0, place, keepdims=False)
        elif (dim := _dim_of(axes[place], node)) is not None:
            at = len(axes) - 1 + dim
            array = jnp.moveaxis(array, place, at)
            array = array.reshape(*array.shape[:at], -1, *array.shape[at + 2 :])
        else:
            continue
        del axes[place]
    return array


def whole_shape(graph: Graph, node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of the leading axes that `put_together` leaves, and that of a node's own axes then."""
    v, lead, own = node.output, [], list(node.shape)
    for axis in graph.leading[node]:
        if _is_the_same(axis, v):
            continue
        if (dim := _dim_of(axis, node)) is not None:
            own[dim] *= axis.size
        else:
            lead.append(axis.size)
    return tuple(lead), tuple(own)


def taken_apart(graph: Graph, node: Node, array: Array) -> Array:
    """Return an array of the rank that `put_together` gives as devices have it; a size of 1 is the same for all."""
    axes, v = graph.leading[node], node.output
    left = [axis for axis in axes if not _is_the_same(axis, v) and _dim_of(axis, node) is None]
    first = len(left)
    for place, axis in enumerate(axes):
        dim = _dim_of(axis, node)
        if _is_the_same(axis, v):
            array, first = jnp.expand_dims(array, place), first + 1
        elif dim is not None:
            at = first + dim
            n = axis.size if array.shape[at] > 1 else 1
            array = array.reshape(*array.shape[:at], n, array.shape[at] // n, *array.shape[at + 1 :])
            array, first = jnp.moveaxis(array, at, place), first + 1
    return array


def copies(graph: Graph, node: Node) -> int:
    """Return how many devices have the same of a node's output."""
    count = 1
    for axis in graph.leading[node]:
        count *= axis.size if _is_the_same(axis, node.output) else 1
    return count


def parts_unknown(graph: Graph, rules: Mapping[Node, Rule]) -> list[str]:
    """Return the layers of which devices may have parts that types do not tell of, and whose rules look at weights."""
    nodes = graph.unchecked
    if not any(node.anchor.op is Op.COLLECTIVE for node in nodes):
        return []
    layers = (node for node in nodes if isinstance(node, Affine) and node.weight is not None)
    return sorted(node.name for node in layers if node in rules and not isinstance(rules[node], Epsilon | Zero))


def _is_the_same(axis: Leading, v: Var) -> bool:
    return axis.mesh is not None and v.varying is not None and axis.mesh not in v.varying


def _dim_of(axis: Leading, node: Node) -> int | None:
    """Return the axis of a node's output along which the examples of the devices along an axis of a mesh lie."""
    own = node.output_axis
    return own.dim if axis.apart and own is not None and own.is_whole else None
