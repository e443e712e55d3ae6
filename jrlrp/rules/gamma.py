"""`Gamma`: contributions that agree with the unit's output count for more."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrlrp.errors import RuleError
from jrlrp.rules.base import Array
from jrlrp.rules.layer import LinearLayer
from jrlrp.rules.linear import BIAS, Part, Portion, WeightRule

VARIANTS = ("generalised", "classic")


@dataclass(frozen=True, repr=False)
class Gamma(WeightRule):
    """Share relevance by contribution, those of the output's sign counting 1 + γ times.

    Generalised: R_i = Σ_j (z_ij + γ z_ij^s) / st(z_j + γ (Σ_i z_ij^s + b_j^s)) · R_j, where s is the sign of z_j and
    v^s the part of v of that sign; a unit with z_j = 0 passes nothing on.
    Classic: R_i = Σ_j x_i (w_ij + γ w_ij⁺) / st(Σ_i x_i (w_ij + γ w_ij⁺) + b_j + γ b_j⁺) · R_j, right for inputs ≥ 0.

    Args:
      gamma: γ ≥ 0, a number or a scalar array.
      epsilon: the stabiliser, ≥ 0.
      bias: "absorb" (the bias keeps its share), "ignore" (it is left out), "distribute" (its share is spread evenly
        over the inputs that reach the unit) or "whole" (it stands in the denominator once, without γ, as in captum).
      variant: "generalised" or "classic".

    Raises:
      RuleError: for a negative gamma or epsilon, another bias policy or variant.

    Source: Montavon et al. 2019, "Layer-wise relevance propagation: an overview" (classic); Andéol et al. 2021,
    "Learning domain invariant representations by joint Wasserstein distance minimization" (generalised).
    """

    policies = (*BIAS, "whole")

    gamma: Any = 0.25
    epsilon: Any = 1e-6
    bias: str = "absorb"
    variant: str = "generalised"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(lambda g: (g >= 0) & (g < float("inf")), "a finite gamma ≥ 0", "gamma")
        if self.variant not in VARIANTS:
            raise RuleError(f"Gamma(variant={self.variant!r}): expected one of {', '.join(map(repr, VARIANTS))}.")

    def portions(self, layer: LinearLayer, x: Array, output: Array) -> Iterable[Portion]:
        bias = None if self.bias == "ignore" else layer.bias
        linear = output
        if layer.bias is not None:  # where it is ignored, the output less the bias would be too rough
            linear = output - bias if bias is not None else layer.map(x)
        sign = jnp.sign(linear if bias is None else output)
        if self.variant == "classic":
            sign = jnp.ones_like(sign)
            parts, total = self._classic(layer, x, linear)
        else:
            parts, total = self._generalised(layer, x, linear, sign)
        if bias is not None and self.bias != "whole":
            bias = bias + self.gamma * (bias + sign * jnp.abs(bias)) / 2
        if bias is not None:
            bias = bias * jnp.abs(sign)  # units that pass nothing on
        yield Portion(parts, total if bias is None else total + bias, self.epsilon, bias)

    def _classic(self, layer: LinearLayer, x: Array, linear: Array) -> tuple[list[Part], Array]:
        if layer.weight is None:  # a pool, whose weights are positive
            return [Part(x, None, 1 + self.gamma)], (1 + self.gamma) * linear
        weight = layer.weight + self.gamma * layer.positive_weight
        return [Part(x, weight)], layer.map(x, weight)

    def _generalised(self, layer: LinearLayer, x: Array, linear: Array, sign: Array) -> tuple[list[Part], Array]:
        # v^s = (v + s|v|) / 2, so that one product of |x| and |w| serves inputs of either sign. Nothing cancels:
        # what agrees with the output is at least half of |z_ij| and |b| in total.
        half = self.gamma / 2
        size, weight = jnp.abs(x), None if layer.weight is None else jnp.abs(layer.weight)
        parts = [Part(x, None, (1 + half) * jnp.abs(sign)), Part(size, weight, half * sign)]
        return parts, (1 + half) * linear + half * sign * layer.map(size, weight)
