"""The numbers of a node during a run: what a rule sees of it, see `jrlrp.rules.layer`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.graph.linear_layer import Layer, LinearLayer, Mesh, wide
from jrlrp.graph.nodes import (
    Activation,
    Affine,
    AtZero,
    Choice,
    Custom,
    LogSumExp,
    Node,
    Normalisation,
    Product,
    Softmax,
    Sum,
)
from jrlrp.primitives.row import Op
from jrlrp.rules import layer as seen
from jrlrp.trace.groups import Axes
from jrlrp.trace.program import Region, Var, evaluated, read

Array = Any


class NormalisationLayer(Layer, seen.MapLayer):
    """A normalisation with its statistics held: z = map(x) + bias, as of a `LinearLayer` without weights."""

    weight = None

    def __init__(self, node: Normalisation, constants: Sequence[Array], x: Array):
        super().__init__(node, constants)
        self._x = x

    @cached_property
    def _values(self) -> dict[Var, Array]:
        """All values inside, the statistics among them."""
        node, values = self._node, dict(zip(self._node.constants, self._constants, strict=True))
        values[node.inputs[0]] = self._x.astype(node.inputs[0].dtype)
        region, *after = node.equations
        assert isinstance(region, Region)
        return evaluated([*region.equations, *after], values)

    def _with_statistics_held(self, x: Array) -> Array:
        node: Normalisation = self._node  # type: ignore[assignment]
        values = {node.inputs[0]: x.astype(node.inputs[0].dtype)}
        for eqn, held in node.held.items():
            arguments = [
                read(v, self._values if k in held or v not in values else values) for k, v in enumerate(eqn.inputs)
            ]
            values.update(zip(eqn.outputs, eqn.run(arguments), strict=True))
        return values[node.output].astype(wide(node.output.dtype))

    def linearised(self, x: Array) -> tuple[Array]:
        return (self._with_statistics_held(x).astype(self._node.output.dtype),)

    @cached_property
    def bias(self) -> Array:
        return self._with_statistics_held(jnp.zeros_like(self._x))

    def map(self, x: Array, weight: None = None) -> Array:
        return self._with_statistics_held(x) - self.bias

    def pull(self, r: Array, weight: None = None) -> Array:
        outputs, back = jax.vjp(self._with_statistics_held, self._x)
        return back(r.astype(outputs.dtype))[0]


class SumLayer(Layer, seen.SumLayer):
    """A signed sum; `terms` are the signed summands."""

    def terms(self, inputs: Sequence[Array]) -> list[Array]:
        node: Sum = self._node  # type: ignore[assignment]
        return [x if sign > 0 else -x for x, sign in zip(inputs, node.signs, strict=True)]


class ActivationLayer(Layer):
    """An activation; `at_zero` says what it is there."""

    @property
    def at_zero(self) -> AtZero:
        node: Activation = self._node  # type: ignore[assignment]
        return node.at_zero


class ChoiceLayer(Layer, seen.ChoiceLayer):
    """A maximum over windows, over axes, or of its inputs."""

    def window_sums(self, *inputs: Array) -> Array:
        """Return the sums of what the maxima are taken of."""
        (eqn,) = self._node.equations
        if eqn.op is Op.MAX:
            return sum(inputs)
        (x,) = inputs
        if eqn.op is Op.MAXIMUM:
            return jnp.sum(x, axis=eqn.params["axes"])
        names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
        zero = np.zeros((), x.dtype)  # known, so that JAX sees a sum
        return jax.lax.reduce_window(x, zero, jax.lax.add, *(eqn.params[name] for name in names))


class ProductLayer(Layer, seen.ProductLayer):
    """A product.

    Attributes:
      gates: which factors are known to lie in [0, 1].
      origins: the kind of node that each factor comes out of, seen through movements and scales; None for an input.
      contraction: whether it sums over axes.
    """

    def __init__(self, node: Product, constants: Sequence[Array], waits: bool = True):
        super().__init__(node, constants)
        self._waits = waits
        self.gates, self.inverse = node.gates, node.inverse
        self.origins, self.contraction = node.origins, node.contraction

    def linear(self, k: int, inputs: Sequence[Array], relevance: Array) -> LinearLayer:
        """Return a contraction as a linear layer of its k-th operand, the other being the weights."""
        (core,), other = self._node.equations, 1 - k
        v, w = core.inputs[k], Var(core.inputs[other].shape, core.inputs[other].dtype)  # may be one variable: x xᵀ
        pair = (v, w) if k == 0 else (w, v)
        core = replace(core, inputs=pair)
        node = Affine(
            kind="dense",
            equations=(core,),
            inputs=(v,),
            outputs=core.outputs,
            intervals=(self.intervals[k],),
            input_axes=(self.input_axes[k],),
            output_axis=self.output_axis,
            core=core,
            operand=k,
            weight=w,
        )
        # Attention of a row that is masked out whole is 0/0, and its relevance 0: together they must not be NaN.
        weight = jnp.where(jnp.isfinite(inputs[other]), inputs[other], 0)
        return LinearLayer(node, [weight], inputs[k], relevance if self._waits else None)


class CustomLayer(Layer, seen.CustomLayer):
    """An equation with a rule of its own; `operands` are the values of all that it reads, in order."""

    def operands(self, inputs: Sequence[Array]) -> list[Array]:
        (eqn,) = self._node.equations
        given = dict(zip(self._node.inputs, inputs, strict=True))
        return [given[v] if v in given else self.value(v) for v in eqn.inputs]

    def shares(self, inputs: Sequence[Array], relevances: Sequence[Array | None]) -> tuple[Array, ...]:
        """Return the relevance of each input from that of each operand, None being none."""
        (eqn,) = self._node.equations
        pairs = list(zip(eqn.inputs, relevances, strict=True))
        return tuple(
            sum((r for operand, r in pairs if operand is v and r is not None), jnp.zeros_like(x))
            for v, x in zip(self._node.inputs, inputs, strict=True)
        )


class SoftmaxLayer(Layer, seen.SoftmaxLayer):
    """A softmax, or a log Σ exp, over groups of entries."""

    def __init__(self, node: Softmax | LogSumExp, constants: Sequence[Array]):
        super().__init__(node, constants)
        self._group = node.group

    def total(self, r: Array) -> Array:
        """Return for each entry the sum of `r` over its group."""
        if isinstance(self._group, Axes):
            return jnp.sum(r, axis=tuple(sorted(self._group.dims)), keepdims=True)
        group = self._group
        assert group is not None
        index = self.value(group.index).reshape(*r.shape[: group.lead], -1)
        total: Callable = lambda r, index: jax.ops.segment_sum(r, index, group.count)[index]
        for _ in range(group.lead):
            total = jax.vmap(total)
        return jnp.moveaxis(total(jnp.moveaxis(r, group.dim, group.lead), index), group.lead, group.dim)

    def weights(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the softmax weights of the inputs: the shares of a log Σ exp."""
        if self._group is None:
            return tuple(jax.nn.softmax(jnp.stack(inputs), axis=0))
        assert isinstance(self._group, Axes)
        return (jax.nn.softmax(inputs[0], axis=tuple(sorted(self._group.dims))),)

    def spread(self, r: Array) -> Array:
        """Return what is one for each group as one for each entry."""
        if not isinstance(self._group, Axes):
            return r
        (x,) = self._node.inputs
        return r.reshape([1 if d in self._group.dims else n for d, n in enumerate(x.shape)])


def layer_of(
    node: Node,
    inputs: Sequence[Array],
    constants: Sequence[Array],
    relevances: Sequence[Array],
    waits: bool = True,
    mesh: Mesh | None = None,
) -> Layer:
    """Return the numbers of a node whose outputs have these relevances, for which what it is made of waits, or not."""
    if isinstance(node, Affine):
        return LinearLayer(node, constants, inputs[0], relevances[0] if waits else None, mesh)
    if isinstance(node, Normalisation):
        return NormalisationLayer(node, constants, inputs[0])
    if isinstance(node, Activation):
        return ActivationLayer(node, constants)
    if isinstance(node, Sum):
        return SumLayer(node, constants)
    if isinstance(node, Choice):
        return ChoiceLayer(node, constants)
    if isinstance(node, Product):
        return ProductLayer(node, constants, waits)
    if isinstance(node, Custom):
        return CustomLayer(node, constants)
    if isinstance(node, (Softmax, LogSumExp)):
        return SoftmaxLayer(node, constants)
    return Layer(node, constants)
