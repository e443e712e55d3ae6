"""`Zero` (simple LRP) and `Epsilon`: shares of the output's value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jrlrp.errors import RuleError
from jrlrp.rules.base import Array, Rule, ratio, stabilize

LINEAR_KINDS = frozenset({"conv", "dense", "linear", "scale", "average_pool"})
BIAS = ("absorb", "ignore")


def check_bias(bias: Any) -> None:
    if bias not in BIAS:
        raise RuleError(f"bias={bias!r}: expected one of {', '.join(map(repr, BIAS))}.")


@dataclass(frozen=True, repr=False)
class Epsilon(Rule):
    """Share relevance by contribution, damped where the output is small: R_i = Σ_j z_ij / st(z_j) · R_j.

    st(z) = z + ε·sgn(z), and z_ij = w_ij x_i.

    Args:
      epsilon: the stabiliser ε ≥ 0, a number or a scalar array.
      bias: "absorb" (the bias keeps its share) or "ignore" (it is left out of z_j, so that the layer conserves).

    Raises:
      RuleError: for a negative or non-numeric epsilon, or another bias policy.

    Source: Bach et al. 2015, "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by LRP", eq. (58).
    """

    kinds = LINEAR_KINDS

    epsilon: Any = 1e-6
    bias: str = "absorb"

    def __post_init__(self) -> None:
        self.require(lambda e: (e >= 0) & (e < float("inf")), "a finite epsilon ≥ 0", "epsilon")
        check_bias(self.bias)

    def __call__(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        (x,) = inputs
        if self.bias == "ignore" and layer.bias is not None:
            output = output - layer.bias
        return (x * layer.pull(ratio(relevance, stabilize(output, self.epsilon))),)


@dataclass(frozen=True, repr=False)
class Zero(Rule):
    """Share relevance by contribution: R_i = Σ_j z_ij / z_j · R_j; a unit with z_j = 0 passes nothing on.

    On a ReLU network it equals gradient × input.

    Args:
      bias: "absorb" (the bias keeps its share) or "ignore" (it is left out of z_j, so that the layer conserves).

    Raises:
      RuleError: for another bias policy.

    Source: Bach et al. 2015, eq. (56).
    """

    kinds = LINEAR_KINDS

    bias: str = "absorb"

    def __post_init__(self) -> None:
        check_bias(self.bias)

    def __call__(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        return Epsilon(0.0, self.bias)(layer, inputs, output, relevance)
