"""The rules of Relative Attributing Propagation (RAP): the order of importance is kept, whatever the signs are.

Source: Nam et al. 2020, "Relative Attributing Propagation: Interpreting the Comparative Contributions of Individual
Units in Deep Neural Networks", and the authors' code.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrlrp.rules.base import Array, RescalingRule, example_mean, over_example, ratio, ratio_bound, spread
from jrlrp.rules.input import ZBox
from jrlrp.rules.layer import LinearLayer
from jrlrp.rules.linear import Part, Portion, WeightRule

_LAYERS = frozenset({"conv", "dense"})


@dataclass(frozen=True, repr=False)
class MagnitudeShare(WeightRule):
    """The last layer's shares by size: R_i = Σ_t |m_it| / Σ_i |m_it| · R_t.

    m_it = x_i w_it + b_t's share: of the part b·Pos / (Pos + Neg) in proportion to x⁺w⁺, of b·Neg / (Pos + Neg) to
    x⁺w⁻, with Pos the sum of the positive contributions and Neg ≤ 0 that of the negative ones. Where Pos + Neg = 0,
    |b| is spread evenly. What speaks against a class is as important as what speaks for it.

    Source: Nam et al. 2020 (RAP); there R_t is the score whatever is given, here it is what is given.
    """

    kinds = _LAYERS

    def portions(self, layer: LinearLayer, x: Array, output: Array) -> Iterable[Portion]:
        above, below = jnp.maximum(x, 0), jnp.maximum(-x, 0)
        plus, minus = layer.positive_weight, -layer.negative_weight
        rising, falling = layer.map(above, plus), layer.map(above, minus)  # x⁺w⁺ and x⁺w⁻ of each unit, in size
        pos, neg = rising + layer.map(below, minus), falling + layer.map(below, plus)
        even = jnp.zeros_like(pos)
        risen = fallen = jnp.ones_like(pos)
        if layer.bias is not None:
            bias, total = layer.bias + jnp.zeros_like(pos), pos - neg
            part = ratio(bias, total)  # of Pos and of Neg
            limit = ratio_bound(x.dtype)
            risen = jnp.minimum(jnp.abs(1 + part * ratio(pos, rising)), limit)
            fallen = jnp.minimum(jnp.abs(1 + part * ratio(neg, falling)), limit)
            even = jnp.where(total == 0, jnp.abs(bias) / jnp.maximum(layer.counts, 1), 0)
        parts = [Part(above, plus, risen), Part(above, minus, fallen), Part(below, plus + minus)]
        parts.append(Part(jnp.ones((), x.dtype), layer.ones, even))
        size = rising * risen + falling * fallen + (pos - rising) + (neg - falling) + even * layer.counts
        yield Portion(parts, size, 0.0)


@dataclass(frozen=True, repr=False)
class RelativeAttributing(RescalingRule):
    """Shares of both signs' contributions, shifted so that their sum is what came in.

    C_i = Σ_j R_j (x_i w_ij⁺ / Z1_j + x_i |w_ij⁻| / (Z1_j + Z2_j)) with Z1 = Σ x w⁺ and Z2 = Σ x |w⁻|, over x⁺, and over
    |x⁻| with the weights negated; R_i = C_i − (ΣC − ΣR) / #{C ≠ 0} where C_i ≠ 0, else 0. The sums are over each vector
    that a matrix maps, and over each example for convolutions. Biases are left out.

    Args:
      by_sign: whether the first term is x_i |w_ij⁻| / Z2_j where R_j < 0, as the authors have it for convolutions.

    Source: Nam et al. 2020 (RAP). Their code shares ΣR twice where inputs have both signs; here one shift is for both.
    """

    kinds = _LAYERS

    by_sign: bool = False

    def __call__(self, layer: LinearLayer, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array]:
        (x,) = inputs
        weights = layer.positive_weight, -layer.negative_weight
        shares = jnp.zeros_like(x)
        for half, (plus, minus) in ((jnp.maximum(x, 0), weights), (jnp.maximum(-x, 0), weights[::-1])):
            shares = shares + half * self._shares(layer, half, plus, minus, relevance)
        return (_shifted(layer, shares, relevance),)

    def _shares(self, layer: LinearLayer, x: Array, plus: Array, minus: Array, relevance: Array) -> Array:
        """Return what an input of one gets, x being of one sign."""
        z1, z2 = layer.map(x, plus), layer.map(x, minus)
        both = layer.pull(ratio(relevance, z1 + z2), minus)
        if not self.by_sign:
            return both + layer.pull(ratio(relevance, z1), plus)
        above, below = jnp.maximum(relevance, 0), jnp.minimum(relevance, 0)
        return both + layer.pull(ratio(above, z1), plus) + layer.pull(ratio(below, z2), minus)


def _shifted(layer: LinearLayer, shares: Array, relevance: Array) -> Array:
    """Return shares, those that are not 0 less one number, so that they add up to the relevance."""
    whole = layer.added_up(shares)
    some = (whole != 0).astype(shares.dtype)
    means = layer.vector_means(whole, relevance)
    if means is not None:
        of_shares, of_relevance = means
        count, _ = layer.vector_means(some, relevance)  # type: ignore[misc]
    else:
        axis = layer.input_axes[0]
        of_shares, count = (spread(example_mean(v, axis), shares, axis) for v in (whole, some))
        mean = example_mean(relevance, layer.output_axis) * (relevance.size / max(shares.size, 1))
        of_relevance = spread(mean, shares, axis)
    of_shares, of_relevance = layer.over_devices(of_shares, of_relevance)
    count, _ = layer.over_devices(count, 0.0)
    return shares - layer.part(some * (of_shares - of_relevance) / jnp.where(count == 0, 1, count))


@dataclass(frozen=True, repr=False)
class InputBox(WeightRule):
    """zB with the least and the largest value of each example for bounds; see `ZBox`.

    Args:
      epsilon: the stabiliser, ≥ 0.

    Raises:
      RuleError: for a negative epsilon.

    Source: Nam et al. 2020 (RAP), for the first convolution.
    """

    kinds = _LAYERS

    epsilon: Any = 1e-6

    @property
    def needs_batch_axis(self) -> bool:
        return True

    def portions(self, layer: LinearLayer, x: Array, output: Array) -> Iterable[Portion]:
        axis = layer.input_axes[0]
        greatest = lambda v: layer.largest(over_example(lambda parts, dims: jnp.max(parts, axis=dims), v, axis))
        low, high = -spread(greatest(-x), x, axis), spread(greatest(x), x, axis)
        return ZBox(low, high, self.epsilon).portions(layer, x, output)
