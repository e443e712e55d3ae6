"""`Relative` and `RelativePlus`: R-LRP, which divides by no activation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrlrp.rules.base import Array, RescalingRule, mean_size, saturate, spread
from jrlrp.rules.layer import LinearLayer
from jrlrp.rules.linear import LINEAR_KINDS, without_weights


@dataclass(frozen=True, repr=False)
class Relative(RescalingRule):
    """R-LRP: the classical message times |z_j|, then one factor wherever the layer is applied.

    R_{i←j} = sgn(z_j) z_ij R_j,   R_i = κ Σ_j R_{i←j},   κ = Σ_j |R_j| / Σ_i |Σ_j R_{i←j}| (0 where that is 0/0).

    A matrix is applied to vectors, and each has its κ: each position of a sequence, as if they came one at a time, in
    a scan, or by vmap. So has all that a mean is taken of, over axes or windows side by side. Anything else, a
    convolution above all, has one κ for each example.

    Nothing is divided by an activation; Σ|R| is kept by each layer; there are no parameters.

    The formulas are a reconstruction from the properties published in E. Nyiri, O. Gibaru, "Relative Layer-Wise
    Relevance Propagation: a more Robust Neural Networks eXplaination", arXiv:2501.14322: conservation up to a factor,
    no division by small values, no hyperparameters, one definition for every layer.
    """

    kinds = LINEAR_KINDS

    has_ratios = True

    def __call__(self, layer: LinearLayer, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        (x,) = inputs
        gains, scaled = self._scaling(layer, x, output, relevance)
        return (scaled(saturate(x * gains, x.dtype)),)

    def ratios(self, layer: LinearLayer, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        (x,) = inputs
        gains, scaled = self._scaling(layer, x, output, relevance)
        return (scaled(gains),)

    def _scaling(
        self, layer: LinearLayer, x: Array, output: Array, relevance: Array
    ) -> tuple[Array, Callable[[Array], Array]]:
        """Return what each input gets in parts of it, but for κ, and what multiplies by κ."""
        x_axis, z_axis = layer.input_axes[0], layer.output_axis
        # κ undoes any positive factor of an example. Mean sizes are divided out on the way, so that no sum of large
        # relevance leaves the dtype.
        _, size = layer.over_devices(0.0, mean_size(relevance, z_axis))
        unit = relevance / spread(_or_one(size), relevance, z_axis)
        sign = (output > 0).astype(unit.dtype) - (output < 0).astype(unit.dtype)
        gains = self._gains(layer, x, unit, sign)
        share = saturate(x * layer.added_up(gains), x.dtype)
        sizes = layer.vector_means(jnp.abs(share), jnp.abs(unit))
        if sizes is None:  # then those of each example, of which the units have a mean size of 1 over all devices
            of_share, _ = layer.over_devices(spread(mean_size(share, x_axis), x, x_axis), 0.0)
            of_unit = unit.size / max(x.size, 1)
        else:
            of_share, of_unit = layer.over_devices(*sizes)
        return gains, lambda v: v / _or_one(of_share) * of_unit * spread(size, x, x_axis)

    def _gains(self, layer: LinearLayer, x: Array, unit: Array, sign: Array) -> Array:
        """Return the sum of messages to each input in parts of it, but for positive factors of an example."""
        return layer.pull(unit * sign)


@dataclass(frozen=True, repr=False)
class RelativePlus(Relative):
    """R-LRP of the contributions that agree with their unit, as z⁺ is the classical rule of the positive ones.

    R_{i←j} = (sgn(z_j) z_ij)⁺ R_j, and κ as in `Relative`.

    What speaks against a unit gets nothing, so nothing cancels and the many small messages of a deep network do not
    become noise; and so relevance keeps the sign that it came with, as it does under z⁺. Nothing is divided by an
    activation, and there are no parameters. It is ours, not the paper's.
    """

    def unfit(self, node: Any) -> str | None:
        return without_weights(self, node) or super().unfit(node)

    def _gains(self, layer: LinearLayer, x: Array, unit: Array, sign: Array) -> Array:
        # (s v)⁺ = (s v + |s| |v|) / 2, so that one product of |x| and |w| serves inputs of either sign; κ has the half.
        # The two cancel up to rounding, so what gets nothing may get some 1e-7 of the largest message in float32.
        weight = None if layer.weight is None else jnp.abs(layer.weight)  # a pool's are positive
        return layer.pull(unit * sign) + jnp.sign(x) * layer.pull(unit * jnp.abs(sign), weight)


def _or_one(x: Array) -> Array:
    return jnp.where(x == 0, 1, x)
