"""The field's presets."""

from typing import Any

from jrlrp.composites.composite import Composite, classical, match
from jrlrp.errors import RuleError
from jrlrp.rules.alphabeta import ZPlus
from jrlrp.rules.epsilon import Epsilon
from jrlrp.rules.product import SignalTakesAll
from jrlrp.rules.relative import Relative
from jrlrp.rules.structure import Block, ShareAbsolute, ShareEqual, ShareRatio

_SKIPS = {"absolute": ShareAbsolute(), "ratio": ShareRatio(0.0), "symmetric": ShareEqual()}


def relative(skip: str = "absolute") -> Composite:
    """R-LRP everywhere: the default. It has no numbers to choose.

    Softmax weights are constants, gates get nothing, max-pools give all to the winner.

    Args:
      skip: how a skip connection shares: "absolute", |a|/(|a|+|b|); "ratio", the classical a/(a+b); or "symmetric".

    Raises:
      RuleError: for another `skip`.

    Source: Nyiri & Gibaru 2025, arXiv:2501.14322 (a reconstruction, see `Relative`).
    """
    if not isinstance(skip, str) or skip not in _SKIPS:
        raise RuleError(f"relative(skip={skip!r}): expected one of {', '.join(map(repr, _SKIPS))}.")
    rule = Relative()
    return Composite(
        [
            (match(("affine", "average_pool")), rule),
            (match("sum"), _SKIPS[skip]),
            (match("product"), SignalTakesAll(rule)),
            (match("softmax"), Block()),
        ]
    )


def epsilon(epsilon: Any = 1e-6) -> Composite:
    """ε everywhere.

    Args:
      epsilon: the stabiliser of conv and dense layers, ≥ 0.

    Raises:
      RuleError: for a negative epsilon.

    Source: Bach et al. 2015.
    """
    return Composite([*classical(), (match("affine"), Epsilon(epsilon))])


def epsilon_plus(epsilon: Any = 1e-6) -> Composite:
    """z⁺ for convolutions, ε for dense layers.

    Args:
      epsilon: the stabiliser of the dense layers, ≥ 0.

    Raises:
      RuleError: for a negative epsilon.

    Source: zennit's EpsilonPlus; Lapuschkin et al. 2019.
    """
    return Composite([*classical(), (match("dense"), Epsilon(epsilon)), (match("conv"), ZPlus())])


def gradient_times_input() -> Composite:
    """x · ∂score/∂x of the explained score; for ids, Σ over features of embedding · gradient. For comparison.

    Source: Shrikumar et al. 2016, "Not just a black box".
    """
    return Composite(gradient=True)
