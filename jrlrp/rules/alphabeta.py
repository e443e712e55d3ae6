"""`AlphaBeta` and `ZPlus`: positive and negative contributions apart."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrlrp.rules.base import Array
from jrlrp.rules.layer import LinearLayer
from jrlrp.rules.linear import BIAS, Part, Portion, WeightRule


@dataclass(frozen=True, repr=False)
class AlphaBeta(WeightRule):
    """Share α of the relevance among the positive contributions and β among the negative ones.

    R_i = Σ_j (α z_ij⁺ / st(Σ_i z_ij⁺ + b_j⁺) + β z_ij⁻ / st(Σ_i z_ij⁻ + b_j⁻)) R_j, with α + β = 1.

    The split is of the contribution z_ij = w_ij x_i: a negative input with a negative weight is positive evidence.
    Texts that write α − β = 1 with a minus sign before β mean the negative of this β: their α2β1 is (2, −1) here.

    Args:
      alpha, beta: the two parts, numbers or scalar arrays that add up to 1.
      epsilon: the stabiliser of both denominators, ≥ 0.
      bias: "absorb" (b⁺ and b⁻ keep their shares), "ignore" (they are left out), "distribute" (their shares are
        spread evenly over the inputs that reach the unit) or "whole" (b itself stands in both denominators, as in
        iNNvestigate).

    Raises:
      RuleError: if α + β ≠ 1, epsilon is negative, or the bias policy is another.

    Source: Bach et al. 2015, eq. (60).
    """

    policies = (*BIAS, "whole")

    alpha: Any = 2.0
    beta: Any = -1.0
    epsilon: Any = 1e-6
    bias: str = "absorb"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(lambda a, b: abs(a + b - 1) <= 1e-5, "alpha + beta = 1", "alpha", "beta")

    def portions(self, layer: LinearLayer, x: Array, output: Array) -> Iterable[Portion]:
        halves = _halves(x, layer.intervals[0])
        for sign, factor in ((1, self.alpha), (-1, self.beta)):
            if isinstance(factor, (int, float)) and factor == 0:
                continue
            parts = _contributions(layer, halves, sign)
            bias = None if layer.bias is None or self.bias == "ignore" else self._bias(layer.bias, sign)
            if parts:  # without contributions of this sign there is nothing to share among
                total = sum(layer.map(part.value, part.weight) for part in parts)
                yield Portion(parts, total if bias is None else total + bias, self.epsilon, bias, factor)

    def _bias(self, bias: Array, sign: int) -> Array:
        if self.bias == "whole":
            return bias
        return jnp.maximum(bias, 0) if sign > 0 else jnp.minimum(bias, 0)


def _halves(x: Array, known: tuple[float, float]) -> dict[int, Array]:
    """Return the non-negative (1) and the non-positive (−1) part of x; one alone if its sign is known."""
    if known[0] >= 0:
        return {1: x}
    if known[1] <= 0:
        return {-1: x}
    return {1: jnp.maximum(x, 0), -1: jnp.minimum(x, 0)}


def _contributions(layer: LinearLayer, halves: dict[int, Array], sign: int) -> list[Part]:
    """Return the halves of the input, each with the weights that make contributions of one sign out of it."""
    if layer.weight is None:  # a pool, which has no negative entries
        return [Part(halves[sign])] if sign in halves else []
    weights = {1: layer.positive_weight, -1: layer.negative_weight}
    return [Part(half, weights[side * sign]) for side, half in halves.items()]


@dataclass(frozen=True, repr=False)
class ZPlus(WeightRule):
    """Share relevance among the positive contributions only: R_i = Σ_j z_ij⁺ / st(Σ_i z_ij⁺ + b_j⁺) · R_j.

    Args:
      epsilon: the stabiliser, ≥ 0.
      bias: as for `AlphaBeta`.

    Raises:
      RuleError: for a negative epsilon or another bias policy.

    Source: Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor decomposition".
    """

    policies = AlphaBeta.policies

    epsilon: Any = 1e-6
    bias: str = "absorb"

    def portions(self, layer: LinearLayer, x: Array, output: Array) -> Iterable[Portion]:
        return AlphaBeta(1.0, 0.0, self.epsilon, self.bias).portions(layer, x, output)
