"""jrlrp: layer-wise relevance propagation as a transform of JAX functions."""

from jrlrp.api import plan, pullback, relevance, value_and_relevance
from jrlrp.composites.composite import Composite, Matcher, match
from jrlrp.composites.presets import epsilon, epsilon_plus, gradient_times_input, relative
from jrlrp.errors import ArgumentError, JrlrpError, RuleError, TargetError, UnsupportedError
from jrlrp.graph.kinds import register_kind
from jrlrp.report import Plan, PlanNode
from jrlrp.rules.alphabeta import AlphaBeta, ZPlus
from jrlrp.rules.base import Rule
from jrlrp.rules.epsilon import Epsilon, Zero
from jrlrp.rules.pooling import WinnerTakesAll
from jrlrp.rules.product import SignalTakesAll
from jrlrp.rules.relative import Relative
from jrlrp.rules.softmax import SoftmaxTaylor
from jrlrp.rules.structure import Block, Gradient, Pass, ShareAbsolute, ShareEqual, ShareRatio

__version__ = "0.1.0"

__all__ = [
    "AlphaBeta",
    "ArgumentError",
    "Block",
    "Composite",
    "Epsilon",
    "Gradient",
    "JrlrpError",
    "Matcher",
    "Pass",
    "Plan",
    "PlanNode",
    "Relative",
    "Rule",
    "RuleError",
    "ShareAbsolute",
    "ShareEqual",
    "ShareRatio",
    "SignalTakesAll",
    "SoftmaxTaylor",
    "TargetError",
    "UnsupportedError",
    "WinnerTakesAll",
    "ZPlus",
    "Zero",
    "epsilon",
    "epsilon_plus",
    "gradient_times_input",
    "match",
    "plan",
    "pullback",
    "register_kind",
    "relative",
    "relevance",
    "value_and_relevance",
]
