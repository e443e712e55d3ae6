"""`AlphaBeta` and `ZPlus`: positive and negative contributions apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrlrp.rules.base import Array, Rule, ratio
from jrlrp.rules.epsilon import LINEAR_KINDS, check_bias


@dataclass(frozen=True, repr=False)
class AlphaBeta(Rule):
    """Share α of the relevance among the positive contributions and β among the negative ones.

    R_i = Σ_j (α z_ij⁺ / st(Σ_i z_ij⁺ + b_j⁺) + β z_ij⁻ / st(Σ_i z_ij⁻ + b_j⁻)) R_j, with α + β = 1.

    The split is of the contribution z_ij = w_ij x_i: a negative input with a negative weight is positive evidence.
    Texts that write α − β = 1 with a minus sign before β mean the negative of this β: their α2β1 is (2, −1) here.

    Args:
      alpha, beta: the two parts, numbers or scalar arrays that add up to 1.
      epsilon: the stabiliser of both denominators, ≥ 0.
      bias: "absorb" (b⁺ and b⁻ keep their shares) or "ignore" (they are left out).

    Raises:
      RuleError: if α + β ≠ 1, epsilon is negative, or the bias policy is another.

    Source: Bach et al. 2015, eq. (60).
    """

    kinds = LINEAR_KINDS

    alpha: Any = 2.0
    beta: Any = -1.0
    epsilon: Any = 1e-6
    bias: str = "absorb"

    def __post_init__(self) -> None:
        self.require(lambda a, b: abs(a + b - 1) <= 1e-5, "alpha + beta = 1", "alpha", "beta")
        self.require(lambda e: (e >= 0) & (e < float("inf")), "a finite epsilon ≥ 0", "epsilon")
        check_bias(self.bias)

    def unfit(self, node: Any) -> str | None:
        if node.kind == "linear":
            return f"{type(self).__name__} splits weights by sign, and this map has none; Epsilon, Zero or Relative fit"
        return None

    def __call__(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        (x,) = inputs
        parts = _signed_parts(x, layer.ranges[0])
        out = jnp.zeros_like(x)
        for factor, positive in ((self.alpha, True), (self.beta, False)):
            if isinstance(factor, (int, float)) and factor == 0:
                continue
            used = _contributions(layer, parts, positive)
            if not used:
                continue
            z = sum(layer.map(v, w) for v, w in used)
            if self.bias == "absorb" and layer.bias is not None:
                z = z + (jnp.maximum(layer.bias, 0) if positive else jnp.minimum(layer.bias, 0))
            epsilon = jnp.asarray(self.epsilon, z.dtype)
            share = jnp.asarray(factor, z.dtype) * ratio(relevance, z + epsilon if positive else z - epsilon)
            out = out + sum(v * layer.pull(share, w) for v, w in used)
        return (out,)


def _signed_parts(x: Array, known: tuple[float, float]) -> list[tuple[Array, bool]]:
    """Return the non-negative and non-positive parts of x, each with whether it is the former; one if that is known."""
    if known[0] >= 0:
        return [(x, True)]
    if known[1] <= 0:
        return [(x, False)]
    return [(jnp.maximum(x, 0), True), (jnp.minimum(x, 0), False)]


def _contributions(layer: Any, parts: list[tuple[Array, bool]], positive: bool) -> list[tuple[Array, Array | None]]:
    """Return the parts of the input, each with the weights that make contributions of one sign out of it.

    A map without weights (None) has no negative entries.
    """
    if layer.weight is None:
        return [(v, None) for v, sign in parts if sign == positive]
    split = {True: jnp.maximum(layer.weight, 0), False: jnp.minimum(layer.weight, 0)}
    return [(v, split[sign == positive]) for v, sign in parts]


@dataclass(frozen=True, repr=False)
class ZPlus(Rule):
    """Share relevance among the positive contributions only: R_i = Σ_j z_ij⁺ / st(Σ_i z_ij⁺ + b_j⁺) · R_j.

    Args:
      epsilon: the stabiliser, ≥ 0.
      bias: "absorb" (b⁺ keeps its share) or "ignore".

    Raises:
      RuleError: for a negative epsilon or another bias policy.

    Source: Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor decomposition".
    """

    kinds = LINEAR_KINDS

    epsilon: Any = 1e-6
    bias: str = "absorb"

    def __post_init__(self) -> None:
        AlphaBeta(1.0, 0.0, self.epsilon, self.bias)

    def unfit(self, node: Any) -> str | None:
        return AlphaBeta.unfit(self, node)  # type: ignore[arg-type]

    def __call__(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        return AlphaBeta(1.0, 0.0, self.epsilon, self.bias)(layer, inputs, output, relevance)
