"""The step that all classical rules of linear layers share: relevance in proportion to contributions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.errors import RuleError
from jrlrp.rules.base import Array, Rule, brief, broadcasts, check_epsilon, ratio, ratio_bound, stabilize
from jrlrp.rules.layer import LinearLayer

LINEAR_KINDS = frozenset({"conv", "dense", "linear", "fixed", "scale", "average_pool", "normalisation"})
BIAS = ("absorb", "ignore", "distribute")


@dataclass(frozen=True)
class Part:
    """Contributions value_i · weight_ij · factor_j; the weights are the layer's own where None.

    Raises:
      RuleError: for what are no numbers.
    """

    value: Array
    weight: Array | None = None
    factor: Any = 1.0

    def __post_init__(self) -> None:
        _require_numbers(self, "value", "factor", weight=None)


@dataclass(frozen=True)
class Portion:
    """The part `factor` of each R_j, shared as Σ_parts contribution_ij / st(total_j), st with `epsilon`.

    `bias` is what of the total is no input's; None if that is nothing.

    Raises:
      RuleError: for parts that are none, and what are no numbers.
    """

    parts: Sequence[Part]
    total: Array
    epsilon: Any
    bias: Array | None = None
    factor: Any = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.parts, Part):
            raise RuleError("Portion got a Part for its parts; expected a list of Parts: [Part(x)], say.")
        parts = self.parts if isinstance(self.parts, Iterable) else (self.parts,)
        object.__setattr__(self, "parts", tuple(parts))
        for part in self.parts:
            if not isinstance(part, Part):
                raise RuleError(f"Portion got {brief(part)} among its parts; expected a list of Parts: [Part(x)], say.")
        _require_numbers(self, "total", "epsilon", "factor", bias=None)

    def share(self, relevance: Array) -> Array:
        """Return what a contribution of one gets at each unit."""
        share = ratio(relevance, stabilize(self.total, self.epsilon))
        return share if isinstance(self.factor, float) and self.factor == 1 else share * self.factor


def _require_numbers(given: Any, *names: str, **optional: None) -> None:
    """Raise RuleError unless the fields are numbers or arrays, or None where they may be."""
    for name in (*names, *optional):
        value = getattr(given, name)
        if not (
            isinstance(value, (int, float, np.generic, np.ndarray, jax.Array)) or (value is None and name in optional)
        ):
            or_none = ", or None" if name in optional else ""
            raise RuleError(
                f"{type(given).__name__} got {brief(value)} for its {name}; expected an array or a number{or_none}."
            )


class LinearRule(Rule):
    """A rule of linear layers, given by the portions that it shares.

    A subclass is a frozen dataclass that defines `portions`. Of a layer it sees `weight` (with every scale after it
    folded in; None if the map has none), `positive_weight`, `negative_weight`, `bias` (of the output's shape, or None),
    `ones` (weights of one), `unit_input`, `counts` (how many inputs reach each unit), `intervals` (of the input),
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

    def portions(self, layer: LinearLayer, x: Array, output: Array) -> Iterable[Portion]:
        """Return what is shared, for the layer's input `x` and output."""
        raise RuleError(f"{type(self).__name__} defines no portions(layer, x, output).")

    def _checked(self, layer: LinearLayer, x: Array, output: Array) -> Iterator[Portion]:
        """Return the portions, or raise RuleError for what are none, or do not fit the layer."""
        portions, name = self.portions(layer, x, output), f"{type(self).__name__}.portions"
        if not isinstance(portions, Iterable):
            raise RuleError(f"{name} returned {brief(portions)}; yield each Portion, or return a list of them.")
        for portion in portions:
            if not isinstance(portion, Portion):
                raise RuleError(f"{name} gave {brief(portion)}; expected a Portion([Part(x)], total, epsilon), say.")
            _check_shapes(name, portion, layer, x, output)
            known = hasattr(portion.total, "dtype")
            yield portion if known else replace(portion, total=jnp.asarray(portion.total, output.dtype))

    def __call__(self, layer: LinearLayer, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        (x,) = inputs
        result = jnp.zeros_like(x)
        for portion in self._checked(layer, x, output):
            share = portion.share(relevance)
            for part in portion.parts:
                result = result + part.value * layer.pull(share * part.factor, part.weight)
            if self.bias == "distribute" and portion.bias is not None:
                result = result + layer.pull(share * portion.bias / layer.counts, layer.ones)
        return (result,)

    def absorbed(
        self, layer: LinearLayer, inputs: Sequence[Array], output: Array, relevance: Array
    ) -> dict[str, Array]:
        (x,) = inputs
        kept = dict.fromkeys(("bias", "stabilizer", "saturated"), jnp.zeros((), x.dtype))
        for portion in self._checked(layer, x, output):
            share = portion.share(relevance)
            added = stabilize(portion.total, portion.epsilon) - portion.total
            kept["stabilizer"] += jnp.sum(share * added)
            kept["saturated"] += jnp.sum(jnp.abs(ratio(relevance, portion.total + added)) >= ratio_bound(x.dtype))
            if self.bias != "distribute" and portion.bias is not None:
                kept["bias"] += jnp.sum(share * portion.bias)
        return kept


def _check_shapes(name: str, portion: Portion, layer: LinearLayer, x: Array, output: Array) -> None:
    """Raise RuleError unless all that a portion holds fits the layer."""
    own = {f"{field} of a Portion": getattr(portion, field) for field in ("total", "epsilon", "bias", "factor")}
    fitting = [(field, value, output.shape, "output") for field, value in own.items()]
    for part in portion.parts:
        fitting.append(("value of a Part", part.value, x.shape, "input"))
        fitting.append(("factor of a Part", part.factor, output.shape, "output"))
    for field, value, shape, side in fitting:
        if value is not None and not broadcasts(jnp.shape(value), shape):
            raise RuleError(
                f"{name}: the {field} has shape {jnp.shape(value)}; expected that of the layer's {side}, {shape}."
            )
    weights = [jnp.shape(part.weight) for part in portion.parts if part.weight is not None]
    expected = jnp.shape(layer.ones) if weights and hasattr(layer, "ones") else None
    for shape in weights:
        if shape != expected:
            wanted = "none, as the layer has no weights" if expected is None else f"the layer's weights', {expected}"
            raise RuleError(f"{name}: the weight of a Part has shape {shape}; expected {wanted}.")


class WeightRule(LinearRule):
    """A rule that looks at single weights, which maps of kind "linear" and normalisations do not have."""

    def unfit(self, node: Any) -> str | None:
        return without_weights(self, node) or super().unfit(node)


def without_weights(rule: Rule, node: Any) -> str | None:
    """Say that a rule of weights cannot serve a node because there are none; None if there are."""
    if node.kind not in ("linear", "normalisation"):
        return None
    return f"{type(rule).__name__} looks at single weights, and this map has none; Epsilon, Zero or Relative fit"
