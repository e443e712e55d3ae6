"""jrlrp: layer-wise relevance propagation as a transform of JAX functions."""

import importlib
from typing import Any

from jrlrp.api import audit, plan, pullback, relevance, value_and_relevance
from jrlrp.batches import in_batches, stream
from jrlrp.composites.composite import Composite
from jrlrp.composites.matcher import Matcher, match
from jrlrp.composites.presets import (
    attn_lrp,
    clrp,
    cp_lrp,
    deep_taylor,
    default,
    epsilon,
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
    excitation_backprop,
    gradient_times_input,
    rap,
    relative,
    relative_plus,
    sglrp,
)
from jrlrp.custom import custom_relevance
from jrlrp.errors import (
    ArgumentError,
    JrlrpError,
    JrlrpWarning,
    RuleError,
    TargetError,
    UnreachedError,
    UnsupportedError,
)
from jrlrp.modules import named
from jrlrp.primitives.register import register_kind, register_rule
from jrlrp.report import Audit, Plan, PlanNode
from jrlrp.rules.alphabeta import AlphaBeta, ZPlus
from jrlrp.rules.base import Rule
from jrlrp.rules.epsilon import Epsilon, Zero
from jrlrp.rules.gamma import Gamma
from jrlrp.rules.input import Flat, WSquare, ZBox
from jrlrp.rules.linear import LinearRule, Part, Portion
from jrlrp.rules.pooling import Proportional, WinnerTakesAll
from jrlrp.rules.product import SignalTakesAll, Uniform, ValuesOnly
from jrlrp.rules.relative import Relative, RelativePlus
from jrlrp.rules.relative_attributing import InputBox, MagnitudeShare, RelativeAttributing
from jrlrp.rules.softmax import SoftmaxTaylor
from jrlrp.rules.structure import Block, Gradient, Pass, ShareAbsolute, ShareEqual, ShareRatio

__version__ = "0.1.0"

__all__ = [
    "AlphaBeta",
    "ArgumentError",
    "Audit",
    "Block",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "Gradient",
    "InputBox",
    "JrlrpError",
    "JrlrpWarning",
    "LinearRule",
    "MagnitudeShare",
    "Matcher",
    "Part",
    "Pass",
    "Plan",
    "PlanNode",
    "Portion",
    "Proportional",
    "Relative",
    "RelativeAttributing",
    "RelativePlus",
    "Rule",
    "RuleError",
    "ShareAbsolute",
    "ShareEqual",
    "ShareRatio",
    "SignalTakesAll",
    "SoftmaxTaylor",
    "TargetError",
    "Uniform",
    "UnreachedError",
    "UnsupportedError",
    "ValuesOnly",
    "WSquare",
    "WinnerTakesAll",
    "ZBox",
    "ZPlus",
    "Zero",
    "attn_lrp",
    "audit",
    "clrp",
    "cp_lrp",
    "custom_relevance",
    "deep_taylor",
    "default",
    "epsilon",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "excitation_backprop",
    "gradient_times_input",
    "in_batches",
    "match",
    "named",
    "plan",
    "pullback",
    "rap",
    "register_kind",
    "register_rule",
    "relative",
    "relative_plus",
    "relevance",
    "sglrp",
    "stream",
    "value_and_relevance",
]


def __getattr__(name: str) -> Any:
    """Import a module when it is first asked for; pictures need matplotlib."""
    if name in ("baselines", "concepts", "contrastive", "metrics", "plot"):
        return importlib.import_module(f"jrlrp.{name}")
    raise AttributeError(f"module 'jrlrp' has no attribute {name!r}")
