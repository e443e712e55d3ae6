"""Rules for the layer next to the input: `Flat`, `WSquare` and `ZBox`, which do without the input's values or sign."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.errors import RuleError
from jrlrp.rules.base import Array, bound, broadcasts, is_number
from jrlrp.rules.layer import LinearLayer
from jrlrp.rules.linear import Part, Portion, WeightRule


@dataclass(frozen=True, repr=False)
class Flat(WeightRule):
    """Spread relevance evenly: R_i = Σ_j R_j / n_j, with n_j the number of inputs that reach unit j.

    Args:
      epsilon: the stabiliser of n_j, ≥ 0.

    Raises:
      RuleError: for a negative epsilon.

    Source: Lapuschkin et al. 2019, "Unmasking Clever Hans predictors and assessing what machines really learn".
    """

    epsilon: Any = 1e-6

    def portions(self, layer: LinearLayer, x: Array, output: Array) -> Iterable[Portion]:
        yield Portion([Part(jnp.ones((), x.dtype), layer.ones)], layer.counts, self.epsilon)


@dataclass(frozen=True, repr=False)
class WSquare(WeightRule):
    """Share relevance by squared weights: R_i = Σ_j w_ij² / st(Σ_i w_ij²) · R_j.

    Args:
      epsilon: the stabiliser, ≥ 0.
      bias: "ignore", or "absorb" (b_j² stands in the denominator and keeps its share, as in zennit).

    Raises:
      RuleError: for a negative epsilon or another bias policy.

    Source: Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor decomposition".
    """

    policies = ("ignore", "absorb")

    epsilon: Any = 1e-6
    bias: str = "ignore"

    def portions(self, layer: LinearLayer, x: Array, output: Array) -> Iterable[Portion]:
        one = jnp.ones((), x.dtype)
        if layer.weight is None:  # a pool: the weights of a unit are alike
            square = jnp.square(layer.map(layer.unit_input) / jnp.maximum(layer.counts, 1))
            return [Portion([Part(one, layer.ones, square)], square * layer.counts, self.epsilon)]
        # Shares do not change with the size of all weights; squares of large ones could leave the dtype.
        bias = None if self.bias == "ignore" else layer.bias
        sizes = [jnp.max(jnp.abs(v), initial=0) for v in (layer.weight, bias) if v is not None]
        largest = layer.largest(functools.reduce(jnp.maximum, sizes))
        scale = jnp.where(largest == 0, 1, largest)
        weight = jnp.square(layer.weight / scale)
        epsilon = jnp.minimum(self.epsilon / scale / scale, bound(x.dtype))
        total = layer.map(layer.unit_input, weight)
        if bias is not None:
            bias = jnp.square(bias / scale)
            total = total + bias
        return [Portion([Part(one, weight)], total, epsilon, bias)]


@dataclass(frozen=True, repr=False)
class ZBox(WeightRule):
    """Share relevance by contribution, as seen from the corners of the box that inputs lie in.

    R_i = Σ_j (x_i w_ij − l_i w_ij⁺ − h_i w_ij⁻) / st(Σ_i (x_i w_ij − l_i w_ij⁺ − h_i w_ij⁻)) · R_j.

    Args:
      low, high: the least and the largest value of the layer's input: numbers, or arrays that broadcast to its shape.
      epsilon: the stabiliser, ≥ 0.

    Raises:
      RuleError: if low > high somewhere, for bounds that are no finite numbers, or a negative epsilon; and, before
        anything runs, for bounds that do not fit the layer's input.

    Source: Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor decomposition".
    """

    low: Any
    high: Any
    epsilon: Any = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("low", "high"):
            value = getattr(self, name)
            if isinstance(value, (list, tuple)) and len(set(map(np.shape, value))) == 1:
                object.__setattr__(self, name, np.asarray(value))
            if not is_number(getattr(self, name)):
                raise RuleError(f"ZBox({name}={value!r}): expected a number or an array of numbers.")
        try:
            np.broadcast_shapes(np.shape(self.low), np.shape(self.high))
        except ValueError:
            shapes = f"{np.shape(self.low)} and {np.shape(self.high)}"
            raise RuleError(f"ZBox got low and high of shapes {shapes}; expected shapes that go together.") from None
        known = [v for v in (self.low, self.high) if not isinstance(v, jax.core.Tracer)]
        if not all(np.isfinite(v).all() for v in known):
            raise RuleError(f"ZBox(low={self.low!r}, high={self.high!r}): expected finite bounds.")
        if len(known) == 2 and np.any(np.asarray(self.low) > np.asarray(self.high)):
            raise RuleError(f"ZBox(low={self.low!r}, high={self.high!r}): expected low ≤ high.")

    def unfit(self, node: Any) -> str | None:
        shape = node.inputs[0].shape
        for name in ("low", "high"):
            given = np.shape(getattr(self, name))
            if not broadcasts(given, shape):
                return f"{name} has shape {given}, which does not broadcast to the layer's input of shape {shape}"
        return super().unfit(node)

    def portions(self, layer: LinearLayer, x: Array, output: Array) -> Iterable[Portion]:
        above, below = x - jnp.asarray(self.low, x.dtype), x - jnp.asarray(self.high, x.dtype)
        if layer.weight is None:  # a pool has no negative weights
            parts = [Part(above)]
        else:
            parts = [Part(above, layer.positive_weight), Part(below, layer.negative_weight)]
        yield Portion(parts, sum(layer.map(part.value, part.weight) for part in parts), self.epsilon)
