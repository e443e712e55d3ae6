"""The field's presets."""

from typing import Any

from jrlrp.composites.composite import Composite, as_optional, classical
from jrlrp.composites.matcher import Matcher, match
from jrlrp.errors import RuleError
from jrlrp.rules.alphabeta import AlphaBeta, ZPlus
from jrlrp.rules.base import Rule
from jrlrp.rules.epsilon import Epsilon
from jrlrp.rules.gamma import Gamma
from jrlrp.rules.input import Flat, WSquare, ZBox
from jrlrp.rules.product import SignalTakesAll, Uniform, ValuesOnly
from jrlrp.rules.relative import Relative, RelativePlus
from jrlrp.rules.relative_attributing import InputBox, MagnitudeShare, RelativeAttributing
from jrlrp.rules.structure import Block, Pass, ShareAbsolute, ShareEqual, ShareRatio


def standardises(node: Any) -> bool:
    """Tell whether a scale layer could be the standardisation of inputs."""
    return node.standardises


def attends(node: Any) -> bool:
    """Tell whether a factor of a product comes out of a softmax."""
    return "softmax" in node.origins


def convolved(node: Any) -> bool:
    """Tell whether a convolution whose windows overlap lies before a node, or is it."""
    return node.convolved


# What standardises the input of a network's first layer passes relevance on: it has nothing to share, and ε would
# divide by its values where a pixel is near the mean. What a position embedding adds keeps its share.
_STANDARDISATION = (match("scale", first=True, last=False, where=standardises), Pass())
_SKIPS = {"absolute": ShareAbsolute(), "ratio": ShareRatio(0.0), "symmetric": ShareEqual()}


def relative(skip: str = "absolute") -> Composite:
    """R-LRP everywhere. It has no numbers to choose.

    Softmax weights are constants, gates get nothing, max-pools give all to the winner. Normalisations and scales pass
    relevance on: a unit of one input has nothing to share.

    Args:
      skip: how a skip connection shares: "absolute", |a|/(|a|+|b|); "ratio", the classical a/(a+b); or "symmetric".

    Raises:
      RuleError: for another `skip`.

    Source: Nyiri & Gibaru 2025, arXiv:2501.14322 (a reconstruction, see `Relative`).
    """
    if not isinstance(skip, str) or skip not in _SKIPS:
        raise RuleError(f"skip={skip!r}: expected one of {', '.join(map(repr, _SKIPS))}.")
    rule = Relative()
    return _preset(
        [
            (match(("conv", "dense", "linear", "average_pool")), rule),
            (match("fixed"), ShareAbsolute()),
            (match(("normalisation", "scale")), Pass()),
            (match("sum"), _SKIPS[skip]),
            (match("product"), SignalTakesAll(rule)),
            (match("softmax"), Block()),
        ]
    )


def relative_plus(skip: str = "absolute") -> Composite:
    """R-LRP of agreeing contributions for convolutions, R-LRP for all else: the default. It has no numbers to choose.

    A convolution that no other layer follows gets R-LRP too: it tells classes apart, and has evidence against each.

    Args:
      skip: as for `relative`.

    Raises:
      RuleError: for another `skip`.

    Source: ours, see `RelativePlus`; ε-plus by R-LRP's means.
    """
    return _preset([(match("conv", last=False), RelativePlus())], base=relative(skip))


def default() -> Composite:
    """The rules of `rules=None`: R-LRP where convolutions are, ratios in all else. It has no numbers to choose.

    - A convolution gives to what agrees with its unit (`RelativePlus`); dense layers after one, and a convolution that
      no other layer follows, have R-LRP (`Relative`). Convolutions whose windows overlap are meant: without such a one
      before it, a convolution that maps patches one by one is as any dense layer.
    - All other layers, sums and normalisations hand on ratios R/z, as LRP-0 does, and nothing is divided.
    - A gate, known to lie in [0, 1], gets nothing.
    - In attention, and in any other product, factors share alike, and softmax has its Taylor rule.
    - Max-pools give all to the winner; activations pass relevance on.

    Source: ours, of R-LRP (see `Relative`), Achtibat et al. 2024 (attention) and Arras et al. 2017 (gates).
    """
    ratio = Epsilon(0.0)
    return _preset(
        [
            (match("product"), SignalTakesAll(ratio)),
            (match("product", where=attends), Uniform(ratio)),
            (match(("conv", "dense"), where=convolved), Relative()),
            (match("conv", last=False, where=convolved), RelativePlus()),
        ],
        base=attn_lrp(),
    )


def epsilon(epsilon: Any = 1e-6) -> Composite:
    """ε everywhere.

    Args:
      epsilon: the stabiliser of conv and dense layers, ≥ 0.

    Raises:
      RuleError: for a negative epsilon.

    Source: Bach et al. 2015.
    """
    return _preset([*classical(), (match("affine"), Epsilon(epsilon)), _STANDARDISATION])


def epsilon_plus(epsilon: Any = 1e-6) -> Composite:
    """z⁺ for convolutions, ε for dense layers.

    Args:
      epsilon: the stabiliser of the dense layers, ≥ 0.

    Raises:
      RuleError: for a negative epsilon.

    Source: zennit's EpsilonPlus; Lapuschkin et al. 2019.
    """
    return _layered(ZPlus(), Epsilon(epsilon))


def epsilon_plus_flat(epsilon: Any = 1e-6) -> Composite:
    """`epsilon_plus` with the flat rule for the first layer.

    Args:
      epsilon: the stabiliser of the dense layers, ≥ 0.

    Raises:
      RuleError: for a negative epsilon.

    Source: zennit's EpsilonPlusFlat; Lapuschkin et al. 2019.
    """
    return _layered(ZPlus(), Epsilon(epsilon), Flat())


def epsilon_gamma_box(low: Any, high: Any, gamma: Any = 0.25, epsilon: Any = 1e-6) -> Composite:
    """γ for convolutions, ε for dense layers, zB for the first layer.

    Args:
      low, high: the bounds of the first layer's input: numbers, or arrays that broadcast to its shape.
      gamma: γ of the convolutions, ≥ 0.
      epsilon: the stabiliser of the dense layers, ≥ 0.

    Raises:
      RuleError: for a parameter outside its domain, or bounds that do not fit.

    Source: zennit's EpsilonGammaBox; Montavon et al. 2019.
    """
    return _layered(Gamma(gamma), Epsilon(epsilon), ZBox(low, high))


def epsilon_alpha2_beta1(epsilon: Any = 1e-6) -> Composite:
    """αβ with α=2, β=−1 for convolutions, ε for dense layers.

    Args:
      epsilon: the stabiliser of the dense layers, ≥ 0.

    Raises:
      RuleError: for a negative epsilon.

    Source: zennit's EpsilonAlpha2Beta1; Bach et al. 2015.
    """
    return _layered(AlphaBeta(2.0, -1.0), Epsilon(epsilon))


def epsilon_alpha2_beta1_flat(epsilon: Any = 1e-6) -> Composite:
    """`epsilon_alpha2_beta1` with the flat rule for the first layer.

    Args:
      epsilon: the stabiliser of the dense layers, ≥ 0.

    Raises:
      RuleError: for a negative epsilon.

    Source: zennit's EpsilonAlpha2Beta1Flat.
    """
    return _layered(AlphaBeta(2.0, -1.0), Epsilon(epsilon), Flat())


def excitation_backprop() -> Composite:
    """z⁺ for convolutions and dense layers.

    Source: Zhang et al. 2016, "Top-down neural attention by excitation backprop".
    """
    return _layered(ZPlus(), ZPlus())


def deep_taylor(low: Any = None, high: Any = None) -> Composite:
    """z⁺ for convolutions and dense layers; for the first layer zB, or w² if no bounds are given.

    Args:
      low, high: the bounds of the first layer's input, both or none.

    Raises:
      RuleError: for one bound without the other, or bounds that do not fit.

    Source: Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor decomposition".
    """
    if (low is None) != (high is None):
        raise RuleError(f"deep_taylor(low={low!r}, high={high!r}): expected both bounds or none.")
    return _layered(ZPlus(), ZPlus(), WSquare() if low is None else ZBox(low, high))


def attn_lrp(epsilon: Any = 0.0) -> Composite:
    """AttnLRP: ε for conv and dense layers, equal parts for the factors of every product, the Taylor rule for softmax.

    Normalisations have their statistics held, as in the authors' code, and are affine layers then. For RMS norms that
    is Proposition 3.4, which passes relevance on; for layer norms, whose centring and bias the proposition skips too,
    it keeps relevance from growing where a feature is near zero.

    Args:
      epsilon: the stabiliser of all that divides, ≥ 0; at 0 nothing divides, as in the authors' efficient code.

    Raises:
      RuleError: for a negative epsilon.

    Source: Achtibat et al. 2024, "AttnLRP: attention-aware layer-wise relevance propagation for transformers".
    """
    rule = Epsilon(epsilon)
    entries = [(match(("affine", "normalisation")), rule), (match("product"), Uniform(rule)), _STANDARDISATION]
    return _preset([*classical(epsilon), *entries])


def cp_lrp(epsilon: Any = 0.0) -> Composite:
    """ε for conv and dense layers; attention weights and the gates that activations make are constants.

    Args:
      epsilon: the stabiliser of all that divides, ≥ 0; at 0 nothing divides, as in the authors' efficient code.

    Raises:
      RuleError: for a negative epsilon.

    Source: Ali et al. 2022, "XAI for Transformers: Better Explanations through Conservative Propagation".
    """
    rule = Epsilon(epsilon)
    return _preset(
        [
            *classical(epsilon),
            (match(("affine", "normalisation")), rule),
            (match("product"), ValuesOnly(rule)),
            (match("softmax"), Block()),
            _STANDARDISATION,
        ]
    )


def clrp(low: Any = None, high: Any = None) -> Composite:
    """z⁺ for convolutions and dense layers, without biases; zB for the first layer if bounds are given.

    The rules of CLRP, whose maps are differences: `jrlrp.contrastive.contrast(f, rules=clrp())`.

    Args:
      low, high: the bounds of the first layer's input, both or none.

    Raises:
      RuleError: for one bound without the other, or bounds that do not fit.

    Source: Gu et al. 2018, "Understanding individual decisions of CNNs via contrastive backpropagation".
    """
    return _contrasting("clrp", low, high)


def sglrp(low: Any = None, high: Any = None) -> Composite:
    """The rules of `clrp`, for maps that begin with softmax's gradient: `target=jrlrp.contrastive.softmax_gradient(t)`.

    Args:
      low, high: as for `clrp`.

    Raises:
      RuleError: as `clrp`.

    Source: Iwana et al. 2019, "Explaining convolutional neural networks using softmax gradient layer-wise relevance
    propagation".
    """
    return _contrasting("sglrp", low, high)


def rap() -> Composite:
    """RAP: the last layer shares by magnitude, the others by sign with a uniform shift; zB for a first convolution.

    Relevance is positive for what matters, and below zero for what matters less than the rest.

    Source: Nam et al. 2020, "Relative Attributing Propagation: Interpreting the Comparative Contributions of Individual
    Units in Deep Neural Networks". The authors' code shares ΣR twice where inputs have both signs, and takes a layer
    whose largest relevance is exactly 1 for the last one; here one shift serves both halves, and the graph says which
    layer is the last.
    """
    return _preset(
        [
            *classical(),
            (match("dense"), RelativeAttributing()),
            (match("conv"), RelativeAttributing(by_sign=True)),
            (match("conv", first=True), InputBox()),
            (match(("conv", "dense"), last=True), MagnitudeShare()),
            _STANDARDISATION,
        ]
    )


def gradient_times_input() -> Composite:
    """x · ∂score/∂x of the explained score; for ids, Σ over features of embedding · gradient. For comparison.

    Source: Shrikumar et al. 2016, "Not just a black box".
    """
    return Composite(gradient=True)


def _contrasting(name: str, low: Any, high: Any) -> Composite:
    if (low is None) != (high is None):
        raise RuleError(f"{name}(low={low!r}, high={high!r}): expected both bounds or none.")
    plus = ZPlus(bias="ignore")
    return _layered(plus, plus, None if low is None else ZBox(low, high))


def _layered(conv: Rule, dense: Rule, first: Rule | None = None) -> Composite:
    """Return the classical composite with these rules for convolutions, dense layers and the first of either."""
    entries = [*classical(), (match("dense"), dense), (match("conv"), conv), _STANDARDISATION]
    return _preset(entries if first is None else [*entries, (match(("conv", "dense"), first=True), first)])


def _preset(entries: list[tuple[Matcher, Rule]], base: Composite | None = None) -> Composite:
    """Return a composite for networks that need not have a node for each of its entries."""
    return Composite(as_optional(entries), base=base)
