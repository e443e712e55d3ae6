"""The numbers of a node during a run: what a rule sees of it. All of them compute in at least float32."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.graph.nodes import Affine, Node, Product, Softmax, Step, Sum
from jrlrp.trace.inline import Equation, Literal, Var

Array = Any


def wide(*dtypes: Any) -> Any:
    """Return the dtype that rules compute in for values of these dtypes: the widest, float32 at least."""
    return max((*map(jnp.dtype, dtypes), jnp.dtype(jnp.float32)), key=lambda dtype: jnp.finfo(dtype).bits)


class Layer:
    """A node with the values of its constants.

    Attributes:
      ranges: the interval that each input is known to lie in.
      input_axes, output_axis: where the independent examples are, which rules that look at a whole example need.
    """

    def __init__(self, node: Node, constants: Sequence[Array]):
        self._node, self._constants = node, tuple(constants)
        self.ranges = node.ranges
        self.input_axes, self.output_axis = node.input_axes, node.output_axis

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Evaluate the node on inputs of the user's dtypes."""
        own = [x.astype(v.dtype) for x, v in zip(inputs, self._node.inputs, strict=True)]
        return self._node.run(own, self._constants)

    def value(self, v: Var) -> Array:
        """Return the value of one of the node's constants."""
        return v.value if isinstance(v, Literal) else self._constants[self._node.constants.index(v)]


class LinearLayer(Layer):
    """z = map(x) + bias, for one input x.

    Attributes:
      dtype: the dtype of the arithmetic.
      weight: the weights with every scale after them folded in, in the shape of the core's weights; None if the map
        has none (an average pool, which has no negative entries; a map of kind "linear").
    """

    def __init__(self, node: Affine, constants: Sequence[Array], x: Array):
        super().__init__(node, constants)
        self.dtype = wide(node.output.dtype, node.inputs[0].dtype)
        self._input = jax.typeof(x).update(dtype=self.dtype, weak_type=False)  # with its sharding and mesh axes

    def constant(self, v: Var) -> Array:
        return jnp.asarray(self.value(v), self.dtype)

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
        return weight

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
        z = self._core(node.core, x, weight)
        for step in node.steps:
            if step.role == "move":
                z = step.equation.bind([z])
            elif step.role == "scale" and weight is None:
                z = _scaled(z, None if step.constant is None else self.constant(step.constant), step)
            elif step.role == "shift" and step.negate and weight is None:
                z = -z
        return z

    def _core(self, core: Equation, x: Array, weight: Array | None) -> Array:
        node: Affine = self._node  # type: ignore[assignment]
        if node.weight is None:
            return core.bind([x if k == node.operand else self._other(v) for k, v in enumerate(core.inputs)])
        w = self.constant(node.weight) if weight is None else weight
        return core.bind([x, w] if node.operand == 0 else [w, x], preferred_element_type=x.dtype)

    def _other(self, v: Var) -> Array:
        return self.constant(v) if jnp.issubdtype(v.dtype, jnp.floating) else self.value(v)

    def pull(self, r: Array, weight: Array | None = None) -> Array:
        """Return the transpose of `map` applied to `r`."""
        (out,) = jax.linear_transpose(lambda x: self.map(x, weight), self._input)(r.astype(self.dtype))
        return out

    @cached_property
    def bias(self) -> Array | None:
        """What the layer adds to its linear part, in the output's shape or broadcasting to it; None without one."""
        node: Affine = self._node  # type: ignore[assignment]
        if not any(step.role == "shift" for step in node.steps):
            return None
        b = jnp.zeros(node.core.output.shape if node.core else node.inputs[0].shape, self.dtype)
        for step in node.steps:
            if step.role == "move":
                b = step.equation.bind([b])
            elif step.role == "scale":
                b = _scaled(b, None if step.constant is None else self.constant(step.constant), step)
            elif step.role == "shift":
                c = self.constant(step.constant)  # type: ignore[arg-type]
                b = (-b if step.negate else b) + (-c if step.subtract else c)
        return b


def _scaled(x: Array, constant: Array | None, step: Step) -> Array:
    if constant is None:
        return -x
    return x / constant if step.invert else x * constant


class SumLayer(Layer):
    """A signed sum; `terms` are the signed summands."""

    def terms(self, inputs: Sequence[Array]) -> list[Array]:
        node: Sum = self._node  # type: ignore[assignment]
        return [x if sign > 0 else -x for x, sign in zip(inputs, node.signs, strict=True)]


class ProductLayer(Layer):
    """A product; `gates` says which factors are known to lie in [0, 1], `contraction` that it sums over axes."""

    def __init__(self, node: Product, constants: Sequence[Array]):
        super().__init__(node, constants)
        self.gates, self.contraction = node.gates, node.contraction

    def linear(self, k: int, inputs: Sequence[Array]) -> LinearLayer:
        """Return a contraction as a linear layer of its k-th operand, the other being the weights."""
        (core,), other = self._node.equations, 1 - k
        v, w = core.inputs[k], Var(core.inputs[other].shape, core.inputs[other].dtype)  # may be one variable: x xᵀ
        core = replace(core, inputs=(v, w) if k == 0 else (w, v))
        node = Affine(
            kind="dense",
            equations=(core,),
            inputs=(v,),
            outputs=core.outputs,
            ranges=(self.ranges[k],),
            input_axes=(self.input_axes[k],),
            output_axis=self.output_axis,
            core=core,
            operand=k,
            weight=w,
        )
        return LinearLayer(node, [inputs[other]], inputs[k])


class SoftmaxLayer(Layer):
    """A softmax over the dimensions `dims`."""

    def __init__(self, node: Softmax, constants: Sequence[Array]):
        super().__init__(node, constants)
        self.dims = tuple(sorted(node.dims))


def layer_of(node: Node, inputs: Sequence[Array], constants: Sequence[Array]) -> Layer:
    """Return the numbers of a node."""
    if isinstance(node, Affine):
        return LinearLayer(node, constants, inputs[0])
    if isinstance(node, Sum):
        return SumLayer(node, constants)
    if isinstance(node, Product):
        return ProductLayer(node, constants)
    if isinstance(node, Softmax):
        return SoftmaxLayer(node, constants)
    return Layer(node, constants)
