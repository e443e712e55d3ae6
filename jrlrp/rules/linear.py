"""The step that all classical rules of linear layers share: relevance in proportion to contributions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import jax.numpy as jnp

from jrlrp.errors import RuleError
from jrlrp.rules.base import Array, Rule, check_epsilon, ratio, ratio_bound, stabilize

LINEAR_KINDS = frozenset({"conv", "dense", "linear", "scale", "average_pool", "normalisation"})
BIAS = ("absorb", "ignore", "distribute")


@dataclass(frozen=True)
class Part:
    """Contributions value_i · weight_ij · factor_j; the weights are the layer's own where None."""

    value: Array
    weight: Array | None = None
    factor: Any = 1.0


@dataclass(frozen=True)
class Portion:
    """The part `factor` of each R_j, shared as Σ_parts contribution_ij / st(total_j), st with `epsilon`.

    `bias` is what of the total is no input's; None if that is nothing.
    """

    parts: Sequence[Part]
    total: Array
    epsilon: Any
    bias: Array | None = None
    factor: Any = 1.0

    def share(self, relevance: Array) -> Array:
        """Return what a contribution of one gets at each unit."""
        share = ratio(relevance, stabilize(self.total, self.epsilon))
        return share if isinstance(self.factor, float) and self.factor == 1 else share * self.factor


class LinearRule(Rule):
    """A rule of linear layers, given by the portions that it shares.

    A subclass is a frozen dataclass that defines `portions`. Of a layer it sees `weight` (with every scale after it
    folded in; None if the map has none), `positive_weight`, `negative_weight`, `bias` (of the output's shape, or None),
    `ones` (weights of one), `unit_input`, `counts` (how many inputs reach each unit), `ranges` (of the input),
    `map(x, weight=None)` and its transpose `pull(r, weight=None)`. A field `bias` set to "distribute" spreads the
    bias's part of each portion over the inputs.

    Fields named `epsilon` and `bias` are checked: `policies` are the values that `bias` may have.
    """

    kinds = LINEAR_KINDS
    policies: ClassVar[Sequence[str]] = BIAS

    bias: str = "absorb"

    def __post_init__(self) -> None:
        names = {field.name for field in fields(self)}
        if "epsilon" in names:
            check_epsilon(self)
        if "bias" in names and self.bias not in self.policies:
            expected = ", ".join(map(repr, self.policies))
            raise RuleError(f"{type(self).__name__}(bias={self.bias!r}): expected one of {expected}.")

    def unfit(self, node: Any) -> str | None:
        if self.bias != "distribute" or node.kind != "normalisation":
            return None
        return f"{type(self).__name__}(bias='distribute') spreads the bias over the weights, and this map has none"

    def portions(self, layer: Any, x: Array, output: Array) -> Iterable[Portion]:
        """Return what is shared, for the layer's input `x` and output."""
        raise TypeError(f"{type(self).__name__} defines no portions(layer, x, output).")

    def __call__(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        (x,) = inputs
        result = jnp.zeros_like(x)
        for portion in self.portions(layer, x, output):
            share = portion.share(relevance)
            for part in portion.parts:
                result = result + part.value * layer.pull(share * part.factor, part.weight)
            if self.bias == "distribute" and portion.bias is not None:
                result = result + layer.pull(share * portion.bias / layer.counts, layer.ones)
        return (result,)

    def absorbed(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> dict[str, Array]:
        (x,) = inputs
        kept = dict.fromkeys(("bias", "stabilizer", "saturated"), jnp.zeros((), x.dtype))
        for portion in self.portions(layer, x, output):
            share = portion.share(relevance)
            added = stabilize(portion.total, portion.epsilon) - portion.total
            kept["stabilizer"] += jnp.sum(share * added)
            kept["saturated"] += jnp.sum(jnp.abs(ratio(relevance, portion.total + added)) >= ratio_bound(x.dtype))
            if self.bias != "distribute" and portion.bias is not None:
                kept["bias"] += jnp.sum(share * portion.bias)
        return kept


class WeightRule(LinearRule):
    """A rule that looks at single weights, which maps of kind "linear" and normalisations do not have."""

    def unfit(self, node: Any) -> str | None:
        return without_weights(self, node) or super().unfit(node)


def without_weights(rule: Rule, node: Any) -> str | None:
    """Say that a rule of weights cannot serve a node because there are none; None if there are."""
    if node.kind not in ("linear", "normalisation"):
        return None
    return f"{type(rule).__name__} looks at single weights, and this map has none; Epsilon, Zero or Relative fit"
