"""Rules that ask little of a node: `Pass`, `Block`, `Gradient`, and the shares of a sum."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.errors import RuleError
from jrlrp.rules.base import Array, Form, Rule, check_epsilon, ratio, ratio_bound, stabilize
from jrlrp.rules.layer import CustomLayer, Layer, LinearLayer, SumLayer
from jrlrp.rules.linear import LINEAR_KINDS


@dataclass(frozen=True, repr=False)
class Pass(Rule):
    """Hand relevance on unchanged: R_i = R_i of the output, for nodes whose input has the output's shape."""

    kinds = LINEAR_KINDS | {"activation", "factor", "softmax", "custom"}

    def unfit(self, node: Any) -> str | None:
        same = node.inputs[0].shape == node.shape or node.kind == "normalisation"
        return None if same else f"Pass needs an input of the output's shape {node.shape}, not {node.inputs[0].shape}"

    def hands(self, node: Any, received: Form) -> Form:
        able = node.kind == "factor" or (node.kind == "activation" and node.at_zero.vanishes)
        return received if able else Form.RELEVANCE

    def is_derivative(self, node: Any) -> bool:
        return node.kind == "factor"

    def push(
        self, layer: Any, inputs: Sequence[Array], outputs: Sequence[Array], tangents: Sequence[Array | None]
    ) -> tuple[Array]:
        (x,), (z,), (t,) = inputs, outputs, tangents
        assert t is not None
        if layer.at_zero.slopes is not None:
            above, below = layer.at_zero.slopes
            slope = jnp.where(x > 0, above, jnp.where(x < 0, below, layer.at_zero.slope))
        else:
            slope = jnp.where(x == 0, layer.at_zero.slope, z / jnp.where(x == 0, 1, x))
            slope = jnp.where(jnp.isfinite(slope), slope, 0)
        return (slope.astype(z.dtype) * t,)

    def __call__(self, layer: Layer, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        return (relevance.reshape(inputs[0].shape),)


@dataclass(frozen=True, repr=False)
class Block(Rule):
    """Hand nothing on: R_i = 0."""

    kinds = LINEAR_KINDS | {"activation", "factor", "max_pool", "sum", "product", "softmax", "log_sum_exp", "custom"}

    def passes(self, node: Any) -> Sequence[bool]:
        return (False,) * len(node.inputs)

    def hands(self, node: Any, received: Form) -> Form:
        return Form.NONE

    def __call__(self, layer: Layer, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array, ...]:
        return tuple(jnp.zeros_like(x) for x in inputs)


@dataclass(frozen=True, repr=False)
class Gradient(Rule):
    """Gradient × input of the node alone: R_i = x_i · Σ_j ∂z_j/∂x_i · R_j / st(z_j).

    Args:
      epsilon: the stabiliser, ≥ 0.

    Raises:
      RuleError: for a negative epsilon.
    """

    kinds = LINEAR_KINDS | {
        "activation",
        "factor",
        "max_pool",
        "sum",
        "product",
        "softmax",
        "log_sum_exp",
        "custom",
        "opaque",
    }

    epsilon: Any = 1e-6

    def __post_init__(self) -> None:
        check_epsilon(self)

    def __call__(self, layer: Layer, inputs: Sequence[Array], output: Any, relevance: Any) -> tuple[Array, ...]:
        def seed(z: Array, r: Array) -> Array:
            if not jnp.issubdtype(z.dtype, jnp.inexact):
                return np.zeros(z.shape, jax.dtypes.float0)
            return ratio(r, stabilize(z.astype(r.dtype), self.epsilon)).astype(z.dtype)

        outputs, back = jax.vjp(layer.run, *inputs)
        relevances = relevance if isinstance(relevance, tuple) else (relevance,)
        gradients = back(tuple(seed(z, r) for z, r in zip(outputs, relevances, strict=True)))
        return tuple(x * g.astype(x.dtype) for x, g in zip(inputs, gradients, strict=True))


@dataclass(frozen=True, repr=False)
class ShareRatio(Rule):
    """Each summand's share of a sum by contribution: R_a = a / st(a + b) · R.

    Args:
      epsilon: the stabiliser, ≥ 0; at 0 a sum that is exactly 0 passes its ratio on, and relevance given to it ends.

    Raises:
      RuleError: for a negative epsilon.

    Source: Bach et al. 2015, eq. (58), for weights of one.
    """

    kinds = frozenset({"sum"})

    epsilon: Any = 1e-6

    def __post_init__(self) -> None:
        check_epsilon(self)

    def hands(self, node: Any, received: Form) -> Form:
        return Form.RATIO

    def is_derivative(self, node: Any) -> bool:
        return True

    def stabilizer(self, layer: Any, output: Array) -> Any:
        return self.epsilon

    def __call__(self, layer: SumLayer, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array, ...]:
        share = ratio(relevance, stabilize(output, self.epsilon))
        return tuple(term * share for term in layer.terms(inputs))

    def absorbed(self, layer: SumLayer, inputs: Sequence[Array], output: Array, relevance: Array) -> dict[str, Array]:
        total = stabilize(output, self.epsilon)
        share = ratio(relevance, total)
        constant = output - sum(layer.terms(inputs))
        return {
            "bias": jnp.sum(share * constant),
            "stabilizer": jnp.sum(share * (total - output)),
            "saturated": jnp.sum(jnp.abs(share) >= ratio_bound(share.dtype)),
        }


@dataclass(frozen=True, repr=False)
class ShareAbsolute(Rule):
    """Each summand's share by magnitude: R_a = |a| / (|a| + |b|) · R, bounded; 0 where all summands are 0.

    So too what a fixed map sums.
    """

    kinds = frozenset({"sum", "fixed"})

    def __call__(
        self, layer: SumLayer | LinearLayer, inputs: Sequence[Array], output: Array, relevance: Array
    ) -> tuple[Array, ...]:
        if not hasattr(layer, "terms"):
            size, weight = jnp.abs(inputs[0]), jnp.abs(jnp.asarray(layer.weight))
            return (size * layer.pull(ratio(relevance, layer.map(size, weight)), weight),)
        sizes = [jnp.abs(term) for term in layer.terms(inputs)]
        largest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, sizes))  # it cancels: no derivative
        parts = [size / jnp.where(largest == 0, 1, largest) for size in sizes]  # whose sum cannot leave the dtype
        total = functools.reduce(jnp.add, parts)
        return tuple(part / jnp.where(total == 0, 1, total) * relevance for part in parts)


@dataclass(frozen=True, repr=False)
class ShareEqual(Rule):
    """Each of n summands gets an equal part: R_a = R / n."""

    kinds = frozenset({"sum"})

    def __call__(self, layer: SumLayer, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array, ...]:
        return tuple(relevance / len(inputs) for _ in inputs)


@dataclass(frozen=True, repr=False)
class FunctionRule(Rule):
    """A user's own rule of a primitive or a function: `function(operands, output, relevance)`.

    It returns the relevance of each operand, None for none. Several outputs come in a tuple, and so do their
    relevances.
    """

    kinds = frozenset({"custom"})

    function: Any

    def __call__(self, layer: CustomLayer, inputs: Sequence[Array], output: Any, relevance: Any) -> tuple[Array, ...]:
        operands = layer.operands(inputs)
        shares = self.function(operands, output, relevance)
        several = isinstance(shares, (tuple, list))
        given = [None if r is None else jnp.shape(r) for r in shares] if several else f"an array of {jnp.shape(shares)}"
        expected = [jnp.shape(x) for x in operands]
        if not isinstance(given, list) or not _fit(given, expected):
            raise RuleError(
                f"{self!r} returned relevance of shapes {given}; expected a tuple with an entry for each operand, None "
                f"or of its shape: {expected}."
            )
        return layer.shares(inputs, shares)

    def __repr__(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


def _fit(given: Sequence[Any], expected: Sequence[Any]) -> bool:
    return len(given) == len(expected) and all(a is None or a == b for a, b in zip(given, expected, strict=True))
