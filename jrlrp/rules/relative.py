"""`Relative`: R-LRP, which divides by no activation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrlrp.rules.base import Array, Rule, per_example, spread
from jrlrp.rules.epsilon import LINEAR_KINDS


@dataclass(frozen=True, repr=False)
class Relative(Rule):
    """R-LRP: the classical message times |z_j|, then one factor for the whole layer and example.

    R_{i←j} = sgn(z_j) z_ij R_j,   R_i = κ Σ_j R_{i←j},   κ = Σ_j |R_j| / Σ_i |Σ_j R_{i←j}| (0 where that is 0/0).

    Nothing is divided by an activation; Σ|R| is kept by each layer; there are no parameters.

    The formulas are a reconstruction from the properties published in E. Nyiri, O. Gibaru, "Relative Layer-Wise
    Relevance Propagation: a more Robust Neural Networks eXplaination", arXiv:2501.14322: conservation up to a factor,
    no division by small values, no hyperparameters, one definition for every layer.
    """

    kinds = LINEAR_KINDS

    def __call__(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        (x,) = inputs
        x_axis, z_axis = layer.input_axes[0], layer.output_axis
        # κ undoes any positive factor of an example, so take the scales out before they can leave the dtype.
        r_scale = per_example(_largest, relevance, z_axis)
        x_scale = per_example(_largest, x, x_axis)
        r = relevance / spread(_or_one(r_scale), relevance, z_axis)
        share = x / spread(_or_one(x_scale), x, x_axis) * layer.pull(jnp.sign(output) * r)
        total = per_example(_total, share, x_axis)
        kappa = jnp.where(total == 0, 0, per_example(_total, r, z_axis) / _or_one(total))
        return (share * spread(kappa, x, x_axis) * spread(r_scale, x, x_axis),)


def _largest(x: Array, axis: Any = None) -> Array:
    return jnp.max(jnp.abs(x), axis=axis, initial=0)


def _total(x: Array, axis: Any = None) -> Array:
    return jnp.sum(jnp.abs(x), axis=axis)


def _or_one(x: Array) -> Array:
    return jnp.where(x == 0, 1, x)
