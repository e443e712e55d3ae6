"""The numbers of an affine layer during a run, and what all layers have in common. They compute in float32 at least."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.graph.nodes import Affine, Node, Step
from jrlrp.primitives.row import Op
from jrlrp.rewrites.fast import DepthwiseConv
from jrlrp.rules import layer as seen
from jrlrp.trace import shards
from jrlrp.trace.program import Equation, Literal, Var

Array = Any


def wide(*dtypes: Any) -> Any:
    """Return the dtype that rules compute in for values of these dtypes: the widest, float32 at least."""
    return max((*map(jnp.dtype, dtypes), jnp.dtype(jnp.float32)), key=lambda dtype: jnp.finfo(dtype).bits)


class Layer(seen.Layer):
    """A node with the values of its constants."""

    def __init__(self, node: Node, constants: Sequence[Array]):
        self._node, self._constants = node, tuple(constants)
        self.intervals = node.intervals
        self.input_axes, self.output_axis = node.input_axes, node.output_axis

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Evaluate the node on inputs of the user's dtypes."""
        own = [x.astype(v.dtype) for x, v in zip(inputs, self._node.inputs, strict=True)]
        return self._node.run(own, self._constants)

    def linearised(self, *inputs: Array) -> tuple[Array, ...]:
        """Evaluate the node with what a rule holds held."""
        return self.run(*inputs)

    def waiting(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Return the inputs, of which nothing is made before relevance comes; see `zero_after`."""
        return inputs

    def value(self, v: Var) -> Array:
        """Return the value of one of the node's constants."""
        return v.value if isinstance(v, Literal) else self._constants[self._node.constants.index(v)]

    def vector_means(self, x: Array, r: Array) -> tuple[Array, Array] | None:
        return None

    def part(self, r: Array) -> Array:
        return r

    def added_up(self, r: Array) -> Array:
        return r

    def over_devices(self, of_input: Array, of_output: Array) -> tuple[Array, Array]:
        return of_input, of_output


@dataclass(frozen=True)
class Mesh:
    """The axes of a mesh, inside shard_map, along which a layer's input differs, and along which examples lie."""

    of_input: frozenset[str]
    apart: frozenset[str] = frozenset()


class LinearLayer(Layer, seen.LinearLayer):
    """z = map(x) + bias, for one input x.

    Attributes:
      dtype: the dtype of the arithmetic.
      weight: the weights with every scale after them folded in, in the shape of the core's weights; None if the map
        has none (an average pool, which has no negative entries; a map of kind "linear").
      positive_weight, negative_weight: their parts of one sign.
    """

    def __init__(
        self,
        node: Affine,
        constants: Sequence[Array],
        x: Array,
        relevance: Array | None,
        mesh: "Mesh | None" = None,
    ):
        """Take the relevance that the layer waits for, None for a layer that waits for none."""
        super().__init__(node, constants)
        self._relevance = relevance
        self._mesh = mesh or Mesh(shards.mesh_axes(x))
        self.dtype = wide(node.output.dtype, node.inputs[0].dtype)
        self._input = jax.typeof(x).update(dtype=self.dtype, weak_type=False)  # with its sharding and mesh axes

    def constant(self, v: Var) -> Array:
        return jnp.asarray(self.value(v), self.dtype)

    @cached_property
    def _zero(self) -> Array:
        if self._relevance is None:
            return jnp.zeros((), self.dtype)
        return zero_after(jax.lax.stop_gradient(self._relevance)).astype(self.dtype)

    def waiting(self, inputs: Sequence[Array]) -> Sequence[Array]:
        # Not what is the same on all devices: with what is not, it would count as other.
        varies = shards.mesh_axes(self._zero)
        return [x + self._zero if varies <= shards.mesh_axes(x) else x for x in inputs]

    @cached_property
    def weight(self) -> Array | None:
        node: Affine = self._node  # type: ignore[assignment]
        if node.core is None:
            weight = jnp.ones((), self.dtype)
        elif node.weight is None:
            return None
        else:
            weight = self.constant(node.weight)
        for step in node.steps:
            if step.role == "scale":
                weight = _scaled(weight, self._along_weight(step, weight), step)
            elif step.role == "shift" and step.negate:
                weight = -weight
        if node.core is None:  # one weight for each entry, so that a rule may split and count them
            weight = jnp.broadcast_to(weight, node.inputs[0].shape)
        return weight + self._zero

    def largest(self, x: Array) -> Array:
        axes = tuple(sorted(shards.mesh_axes(x) - self._mesh.apart))
        return jax.lax.pmax(x, axes) if axes else x

    @cached_property
    def positive_weight(self) -> Array:
        return jnp.maximum(jnp.asarray(self.weight), 0)

    @cached_property
    def negative_weight(self) -> Array:
        return jnp.minimum(jnp.asarray(self.weight), 0)

    @cached_property
    def ones(self) -> Array:
        """Weights of one: mapping with them sums the inputs that reach each unit."""
        if self.weight is None:
            return jnp.ones((), self.dtype) + self._zero
        return shards.varying(jnp.ones(self.weight.shape, self.dtype) + self._zero, [self.weight])

    @cached_property
    def unit_input(self) -> Array:
        """An input of ones, hidden from XLA, which would spend seconds on computing what follows while it compiles."""
        ones = jnp.ones(self._input.shape, self.dtype) + self._zero
        return jax.lax.optimization_barrier(shards.varying(ones, [self._input]))

    @cached_property
    def counts(self) -> Array:
        """How many inputs reach each unit, padding excluded."""
        return self.map(self.unit_input, self.ones)

    def _along_weight(self, step: Step, weight: Array) -> Array | None:
        if step.constant is None:
            return None
        c = self.constant(step.constant)
        if not step.places or c.ndim == 0:
            return c
        dims = [d for d in step.places if d is not None]
        c = c[tuple(slice(None) if d in dims else slice(0, 1) for d in range(c.ndim))]
        c = jnp.transpose(c, [*dims, *(d for d in range(c.ndim) if d not in dims)])
        kept = iter(c.shape)
        return c.reshape([next(kept) if d is not None else 1 for d in step.places])

    def map(self, x: Array, weight: Array | None = None) -> Array:
        """Return the linear part of the layer, with `weight` in place of its effective weights if given."""
        node: Affine = self._node  # type: ignore[assignment]
        x = x.astype(self.dtype)
        if node.core is None:
            return x * (self.weight if weight is None else weight)
        return self._follow(self._core(node.core, x, weight), scaled=weight is None)

    def _follow(self, z: Array, scaled: bool) -> Array:
        """Return what the movements after the core, and the scales if `scaled`, make of its output."""
        node: Affine = self._node  # type: ignore[assignment]
        for step in node.steps:
            if step.role == "move":
                z = step.equation.bind([z])
            elif step.role == "scale" and scaled:
                z = _scaled(z, None if step.constant is None else self.constant(step.constant), step)
            elif step.role == "shift" and step.negate and scaled:
                z = -z
        return z

    def _core(self, core: Equation, x: Array, weight: Array | None) -> Array:
        node: Affine = self._node  # type: ignore[assignment]
        if node.weight is None:
            return core.bind([x if k == node.operand else self._other(v) for k, v in enumerate(core.inputs)])
        w = self._own_weight if weight is None else weight
        x, w = shards.varying(x, [w]), shards.varying(w, [x])
        return core.bind([x, w] if node.operand == 0 else [w, x], preferred_element_type=x.dtype)

    @property
    def _own_weight(self) -> Array:
        return self.constant(self._node.weight)  # type: ignore[attr-defined]

    def _other(self, v: Var) -> Array:
        return self.constant(v) if jnp.issubdtype(v.dtype, jnp.floating) else self.value(v)

    def pull(self, r: Array, weight: Array | None = None) -> Array:
        """Return the transpose of `map` applied to `r`."""
        node: Affine = self._node  # type: ignore[assignment]
        if not isinstance(node.core, DepthwiseConv):
            (out,) = jax.linear_transpose(lambda x: self.map(x, weight), self._input)(r.astype(self.dtype))
            return out
        return node.core.pull(self._at_core(r, weight is None), self._own_weight if weight is None else weight)

    def _at_core(self, r: Array, scaled: bool) -> Array:
        """Return the transpose of `_follow` applied to `r`."""
        if not any(step.role == "move" or scaled for step in self._node.steps):  # type: ignore[attr-defined]
            return r.astype(self.dtype)
        at_core = jax.typeof(self._zeros_at_core)
        return jax.linear_transpose(lambda z: self._follow(z, scaled), at_core)(r.astype(self.dtype))[0]

    def vector_means(self, x: Array, r: Array) -> tuple[Array, Array] | None:
        node: Affine = self._node  # type: ignore[assignment]
        if node.core is not None and node.adds_apart:
            r = self._at_core(r, scaled=False)
            core = node.core
            sums = lambda v: self._core(core, v, None)
            back = jax.linear_transpose(sums, self._input)
            return back(sums(x))[0], back(r)[0]
        places = None if node.core is None else _places(node.core, node.operand)
        if places is None:
            return None
        in_x, in_r = places
        r = self._at_core(r, scaled=False)
        along_x = [d for d in range(x.ndim) if d not in in_x]
        along_r = [d for d in range(r.ndim) if d not in in_r]
        part = 1 / max(math.prod(x.shape[d] for d in along_x), 1)
        of_x = jnp.sum(x * part, axis=along_x, keepdims=True)
        of_r = jnp.sum(r * part, axis=along_r).transpose(np.argsort(in_x))
        return of_x, jnp.expand_dims(of_r, along_x)

    @property
    def _zeros_at_core(self) -> Array:
        """Zeros as what the core makes, which may differ along the axes of a mesh along which its operands do."""
        node: Affine = self._node  # type: ignore[assignment]
        zeros = jnp.zeros(node.core.output.shape if node.core else node.inputs[0].shape, self.dtype)
        return shards.varying(zeros, [self._input, *([] if node.weight is None else [self._own_weight])])

    def over_devices(self, of_input: Array, of_output: Array) -> tuple[Array, Array]:
        of_x, of_z = self._split
        return shards.added_over(of_input, of_x), shards.added_over(of_output, of_z)

    def part(self, r: Array) -> Array:
        return r / math.prod(map(jax.lax.axis_size, shards.mesh_axes(self._input) - self._mesh.of_input))

    def added_up(self, r: Array) -> Array:
        return shards.added_over(r, shards.mesh_axes(r) - self._mesh.of_input)

    @cached_property
    def _split(self) -> tuple[frozenset[str], frozenset[str]]:
        """The axes of a mesh over which the input, and the output, of a vector or an example is split."""
        node: Affine = self._node  # type: ignore[assignment]
        of_x = self._mesh.of_input
        of_weight = frozenset() if node.weight is None else shards.mesh_axes(self._own_weight)
        collective = [s.equation for s in node.steps if s.equation.op is Op.COLLECTIVE]
        added_up = frozenset(name for eqn in collective for name in eqn.params["axes"])
        if node.maps_vectors:  # what the input alone differs along counts the vectors
            return of_weight & added_up, of_weight - of_x
        return of_x - self._mesh.apart, (of_x | of_weight) - added_up - self._mesh.apart

    @cached_property
    def bias(self) -> Array | None:
        """What the layer adds to its linear part, in the output's shape or broadcasting to it; None without one."""
        node: Affine = self._node  # type: ignore[assignment]
        if not any(step.role == "shift" for step in node.steps):
            return None
        b = self._zeros_at_core
        for step in node.steps:
            if step.role == "move":
                b = step.equation.bind([b])
            elif step.role == "scale":
                b = _scaled(b, None if step.constant is None else self.constant(step.constant), step)
            elif step.role == "shift":
                c = self.constant(step.constant)  # type: ignore[arg-type]
                b = (-b if step.negate else b) + (-c if step.subtract else c)
        return b


def _places(core: Equation, operand: int) -> tuple[list[int], list[int]] | None:
    """Return which dimensions of an operand count the vectors that a core maps, and which of its output do.

    A product of matrices maps the vectors of one with the other, a sum over axes maps what lies along them; a
    convolution maps the whole image.
    """
    v = core.inputs[operand]
    if core.op is Op.SUM:
        return [d for d in range(v.ndim) if d not in core.params["axes"]], list(range(core.output.ndim))
    if core.op is not Op.DOT:
        return None
    contracting, batch = (dims[operand] for dims in core.params["dimension_numbers"])
    free = [d for d in range(v.ndim) if d not in (*contracting, *batch)]
    first = len(batch) if operand == 0 else core.output.ndim - len(free)
    return [*batch, *free], [*range(len(batch)), *range(first, first + len(free))]


@jax.custom_batching.custom_vmap
def zero_after(relevance: Array) -> Array:
    """Return 0, but on CPUs not before `relevance` is known.

    XLA's CPU backend runs whatever it can as soon as it can. What rules make of weights and inputs alone depends on no
    relevance, so it would stand in memory for all layers at once, from the forward pass on.
    """
    return jax.lax.platform_dependent(relevance, cpu=_waiting_zero, default=_zero)


def _zero(relevance: Array) -> Array:
    return shards.varying(jnp.zeros((), relevance.dtype), [relevance])


def _waiting_zero(relevance: Array) -> Array:
    if not relevance.size or any(jax.typeof(relevance).sharding.spec):  # one entry of a sharded array is nowhere
        return _zero(relevance)
    # By a dot, which nothing that waits computes anew.
    first = jnp.atleast_1d(relevance[(0,) * (relevance.ndim - 1)])[:8]
    known = first @ np.linspace(0.5, 1, first.size, dtype=first.dtype)
    return jnp.where(jnp.isfinite(known), 0 * known, 0)


@zero_after.def_vmap
def _zero_after_all(axis_size: int, batched: Any, relevance: Array) -> tuple[Array, bool]:
    return zero_after(relevance), False  # weights that differ for each example would be dear


def _scaled(x: Array, constant: Array | None, step: Step) -> Array:
    if constant is None:
        return -x
    return x / constant if step.invert else x * constant
