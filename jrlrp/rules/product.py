"""Rules of products of several active values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrlrp.errors import RuleError
from jrlrp.rules.base import Array, Form, Rule, brief, derivative
from jrlrp.rules.epsilon import Epsilon
from jrlrp.rules.layer import ProductLayer
from jrlrp.rules.linear import LINEAR_KINDS

# Of so many factors, R/n is cheaper than the derivative: XLA computes each product of the others anew.
_MANY = 8


@dataclass(frozen=True, repr=False)
class Uniform(Rule):
    """Each of n factors gets an equal part, R/n, whatever it is.

    In a contraction O = AB: R_A = A ⊙ (R / (2 st(O)) Bᵀ), and R_B alike.

    Args:
      linear: the rule of the linear layer that each operand of a contraction is, the other being its weights.

    Raises:
      RuleError: for a rule that serves no linear layers.

    Source: Achtibat et al. 2024, "AttnLRP", Proposition 3.3.
    """

    kinds = frozenset({"product"})

    linear: Rule = Epsilon()

    def __post_init__(self) -> None:
        if not (isinstance(self.linear, Rule) and self.linear.kinds >= LINEAR_KINDS):
            name = type(self).__name__
            raise RuleError(f"{name}(linear={self.linear!r}): expected a rule of linear layers, Epsilon() say.")

    def constants(self, layer: ProductLayer) -> Sequence[bool]:
        """Say of each factor whether it is a constant, which gets nothing."""
        return (False,) * len(layer.gates)

    def passes(self, node: Any) -> Sequence[bool]:
        return tuple(not constant for constant in self.constants(node))

    def hands(self, node: Any, received: Form) -> Form:
        if node.contraction:
            return self.linear.hands(node, received)
        many = len(node.inputs) > _MANY
        return Form.RELEVANCE if many else received

    def push(
        self,
        layer: ProductLayer,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        tangents: Sequence[Array | None],
    ) -> tuple[Array]:
        constants = self.constants(layer)
        signed = [
            None if constant or t is None else -t if inverse else t
            for t, constant, inverse in zip(tangents, constants, layer.inverse, strict=True)
        ]
        (tangent,) = derivative(layer.run, inputs, signed)
        count = len(inputs) - sum(constants)
        return (tangent if count == 1 else tangent / count,)

    def stabilizer(self, layer: ProductLayer, output: Array) -> Any:
        return self.linear.stabilizer(layer, output) if layer.contraction else 0.0

    def __call__(
        self, layer: ProductLayer, inputs: Sequence[Array], output: Array, relevance: Array
    ) -> tuple[Array, ...]:
        constants = self.constants(layer)
        part = relevance / (len(inputs) - sum(constants))

        def share(k: int, x: Array, constant: bool) -> Array:
            if constant:
                return jnp.zeros_like(x)
            if not layer.contraction:
                return part
            return _only(self.linear, self.linear(layer.linear(k, inputs, part), (x,), output, part))

        return tuple(share(k, x, constant) for k, (x, constant) in enumerate(zip(inputs, constants, strict=True)))


@dataclass(frozen=True, repr=False)
class SignalTakesAll(Uniform):
    """A gate, known to lie in [0, 1], gets nothing and the signals all; with no gate among n factors, each gets R/n.

    Args:
      linear: as for `Uniform`.

    Raises:
      RuleError: for a rule that serves no linear layers.

    Source: Arras et al. 2017, "Explaining recurrent neural network predictions in sentiment analysis".
    """

    def constants(self, layer: ProductLayer) -> Sequence[bool]:
        return _some(layer.gates)


@dataclass(frozen=True, repr=False)
class ValuesOnly(Uniform):
    """Factors that come out of a softmax or an activation (attention weights, SwiGLU's gate) are constants.

    Where that holds for all factors, the softmaxes alone are, else the gates; the others share alike.

    Args:
      linear: as for `Uniform`.

    Raises:
      RuleError: for a rule that serves no linear layers.

    Source: Ali et al. 2022, "XAI for Transformers: Better Explanations through Conservative Propagation".
    """

    def constants(self, layer: ProductLayer) -> Sequence[bool]:
        softmax = [origin == "softmax" for origin in layer.origins]
        made = [origin in ("softmax", "activation") for origin in layer.origins]
        return next((flags for flags in (made, softmax) if any(_some(flags))), _some(layer.gates))


def _only(rule: Rule, shares: Any) -> Array:
    """Return the one share that a linear rule has to return in a tuple."""
    if isinstance(shares, (tuple, list)) and len(shares) == 1:
        return shares[0]
    raise RuleError(f"{rule!r} returned {brief(shares)}; expected a tuple with the relevance of its one input.")


def _some(flags: Sequence[bool]) -> Sequence[bool]:
    """Return the flags, or none set if all are: something has to take the relevance."""
    return (False,) * len(flags) if all(flags) else flags
