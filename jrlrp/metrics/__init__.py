"""How good maps are, measured: faithfulness, localisation, randomisation, robustness, complexity, conservation.

Everything takes arrays and functions of batches; models are evaluated in compiled batches of one size.
"""

from jrlrp.metrics.faithfulness import Curve, abpc, perturbation
from jrlrp.metrics.maps import (
    conservation_gap,
    entropy,
    gini,
    mass_within,
    pointing_game,
    rank_correlation,
    rank_within,
    ssim,
)
from jrlrp.metrics.randomised import Randomised, randomisation
from jrlrp.metrics.robustness import Sensitivity, sensitivity

__all__ = [
    "Curve",
    "Randomised",
    "Sensitivity",
    "abpc",
    "conservation_gap",
    "entropy",
    "gini",
    "mass_within",
    "perturbation",
    "pointing_game",
    "randomisation",
    "rank_correlation",
    "rank_within",
    "sensitivity",
    "ssim",
]
