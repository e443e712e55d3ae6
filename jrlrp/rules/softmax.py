"""The rule of a softmax inside a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrlrp.rules.base import Array, Rule


@dataclass(frozen=True, repr=False)
class SoftmaxTaylor(Rule):
    """R_x = x ⊙ (R − s ΣR) for s = softmax(x); entries of x that are −∞ get 0.

    Source: Achtibat et al. 2024, "AttnLRP", Proposition 3.1.
    """

    kinds = frozenset({"softmax"})

    def __call__(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        (x,) = inputs
        total = jnp.sum(relevance, axis=layer.dims, keepdims=True)
        s = jnp.where(jnp.isfinite(output), output, 0)  # a row that is masked out whole is 0/0
        return (jnp.where(jnp.isfinite(x), x, 0) * (relevance - s * total),)
