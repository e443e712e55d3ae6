"""Rules of products of several active values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrlrp.errors import RuleError
from jrlrp.rules.base import Array, Rule
from jrlrp.rules.epsilon import LINEAR_KINDS, Epsilon


@dataclass(frozen=True, repr=False)
class SignalTakesAll(Rule):
    """A gate, known to lie in [0, 1], gets nothing and the signal all; with no gate among n factors, each gets R/n.

    In a contraction (two matrices, say) each signal is a linear layer with the other operand as its weights.

    Args:
      linear: the rule of those linear layers.

    Source: Arras et al. 2017, "Explaining recurrent neural network predictions in sentiment analysis".
    """

    kinds = frozenset({"product"})

    linear: Rule = Epsilon()

    def __post_init__(self) -> None:
        if not (isinstance(self.linear, Rule) and self.linear.kinds >= LINEAR_KINDS):
            raise RuleError(f"SignalTakesAll(linear={self.linear!r}): expected a rule of linear layers, Epsilon() say.")

    def __call__(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array, ...]:
        gates = layer.gates if any(layer.gates) and not all(layer.gates) else (False,) * len(inputs)
        part = relevance / (len(inputs) - sum(gates))

        def share(k: int, x: Array, gate: bool) -> Array:
            if gate:
                return jnp.zeros_like(x)
            return self.linear(layer.linear(k, inputs), (x,), output, part)[0] if layer.contraction else part

        return tuple(share(k, x, gate) for k, (x, gate) in enumerate(zip(inputs, gates, strict=True)))
