"""Rules of max-pools and of everything else that chooses among its inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.rules.base import Array, Rule, check_epsilon, ratio, stabilize
from jrlrp.rules.layer import ChoiceLayer


@dataclass(frozen=True, repr=False)
class WinnerTakesAll(Rule):
    """The largest input of a window takes all of its relevance; ties are broken as JAX's pullback breaks them."""

    kinds = frozenset({"max_pool"})
    native = True


@dataclass(frozen=True, repr=False)
class Proportional(Rule):
    """Share a window's relevance by the inputs' positive parts: R_i = Σ_j x_i⁺ / st(Σ_{i in window j} x_i⁺) · R_j.

    For maxima over windows, over axes and of two values.

    Args:
      epsilon: the stabiliser, ≥ 0.

    Raises:
      RuleError: for a negative epsilon.
    """

    kinds = frozenset({"max_pool"})

    epsilon: Any = 1e-6

    def __post_init__(self) -> None:
        check_epsilon(self)

    def unfit(self, node: Any) -> str | None:
        return None if node.sums_windows else "Proportional is for maxima over windows, over axes and of two values"

    def __call__(
        self, layer: ChoiceLayer, inputs: Sequence[Array], output: Array, relevance: Array
    ) -> tuple[Array, ...]:
        positive = [jnp.maximum(x, 0) for x in inputs]
        total, back = jax.vjp(layer.window_sums, *positive)
        shares = back(ratio(relevance, stabilize(total, self.epsilon)))
        return tuple(x * share for x, share in zip(positive, shares, strict=True))
