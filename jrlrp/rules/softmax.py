"""The rule of a softmax inside a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrlrp.rules.base import Array, Form, Rule
from jrlrp.rules.layer import SoftmaxLayer


@dataclass(frozen=True, repr=False)
class SoftmaxTaylor(Rule):
    """R_x = x ⊙ (R − s ΣR) for s = softmax(x); entries whose s is 0, masked say, hand nothing on and get 0.

    Source: Achtibat et al. 2024, "AttnLRP", Proposition 3.1.
    """

    kinds = frozenset({"softmax"})

    def hands(self, node: Any, received: Form) -> Form:
        return Form.RATIO

    def push(
        self,
        layer: SoftmaxLayer,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        tangents: Sequence[Array | None],
    ) -> tuple[Array]:
        (t,), (output,) = tangents, outputs
        assert t is not None
        s = jnp.where(jnp.isfinite(output), output, 0)
        t = jnp.where(s == 0, 0, t)
        return (s * (t - layer.total(s * t)),)

    def __call__(self, layer: SoftmaxLayer, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        (x,) = inputs
        s = jnp.where(jnp.isfinite(output), output, 0)  # a row that is masked out whole is 0/0
        relevance = jnp.where(s == 0, 0, relevance)
        return (jnp.where(s == 0, 0, x) * (relevance - s * layer.total(relevance)),)


@dataclass(frozen=True, repr=False)
class ShareExponential(Rule):
    """R_i = softmax(x)_i R for log Σ exp(x): by the parts of the sum, as log, Σ and exp in a row have it.

    Source: Bach et al. 2015, eq. (58), for the sum inside; the logarithm passes relevance on.
    """

    kinds = frozenset({"log_sum_exp"})

    def __call__(
        self, layer: SoftmaxLayer, inputs: Sequence[Array], output: Array, relevance: Array
    ) -> tuple[Array, ...]:
        shares = (jnp.where(jnp.isfinite(s), s, 0) for s in layer.weights(inputs))
        return tuple(s * layer.spread(relevance) for s in shares)
