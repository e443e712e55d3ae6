"""What a row of the table of primitives says, and the words that it says it in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from jrlrp.primitives.intervals import Interval


class Op(Enum):
    """What a primitive computes, in the words that the passes over programs know; `OTHER` where none needs to know."""

    ADD = auto()
    SUB = auto()
    NEG = auto()
    MUL = auto()
    DIV = auto()
    POWER = auto()  # of a known exponent: integer_pow, square, sqrt, rsqrt
    POW = auto()  # of one operand to the other
    EXP = auto()
    EXP2 = auto()
    EXPM1 = auto()
    LOG = auto()
    LOG1P = auto()
    FORMULA = auto()  # of simpler operations, in whose spelling it is read: see trace/spellings.py
    ABS = auto()
    FLOOR = auto()
    LOGISTIC = auto()
    MAX = auto()
    MIN = auto()
    CLAMP = auto()
    SELECT = auto()
    EQUAL = auto()
    LESS = auto()  # or equal
    GREATER = auto()  # or equal
    COMPARE = auto()
    BOTH = auto()  # and, of truth values or bits
    LOGIC = auto()  # or, not, xor of them
    STOP = auto()  # stop_gradient
    CAST = auto()  # the same values in another dtype, on another device, in another layout
    SUM = auto()  # over axes
    PRODUCT = auto()  # over axes
    WINDOW_SUM = auto()
    CUMULATIVE_SUM = auto()
    MAXIMUM = auto()  # over axes
    MINIMUM = auto()
    WINDOW_MAXIMUM = auto()
    WINDOW_MINIMUM = auto()
    CHOICE = auto()  # sort, top_k, cumulative and scattered maxima
    DOT = auto()
    CONV = auto()
    GATHER = auto()
    PICK = auto()  # along an axis, as a top_k does
    SCATTER = auto()
    SCATTER_ADD = auto()
    SCATTER_MAX = auto()
    SLICE = auto()
    DYNAMIC_SLICE = auto()
    DYNAMIC_UPDATE = auto()
    RESHAPE = auto()
    SQUEEZE = auto()
    TRANSPOSE = auto()
    BROADCAST = auto()
    PAD = auto()
    CONCATENATE = auto()
    STACK = auto()
    PART = auto()  # split, unstack
    REVERSE = auto()
    TILE = auto()
    COUNT = auto()  # iota
    COLLECTIVE = auto()  # exchanges values between devices
    SCAN = auto()
    COND = auto()
    WHILE = auto()
    REMAT = auto()
    SHARD_MAP = auto()
    SOFTMAX = auto()  # those from here on are no primitives: a rewrite puts them together
    LOG_SUM_EXP = auto()
    NORMALISE = auto()
    IDENTITY = auto()  # equations that lead back to the value they began with
    FULL = auto()  # a value that depends on no other
    CARRY = auto()  # a carrier that moves along with its ids
    EMBEDDING = auto()  # where ids become numbers
    OTHER = auto()


# What the node is that an equation alone makes, if relevance passes it. "arithmetic" and "product" depend on how many
# operands carry relevance; "ends" hands none on; "opaque" has no rule.
ROW_KINDS = {
    "activation": "elementwise and nonlinear",
    "movement": "places, copies or selects values: relevance moves back to where the values came from",
    "max_pool": "takes some of the values: the winner takes all relevance",
    "average_pool": "sums values with non-negative weights",
    "linear": "any other map linear in the operand that carries relevance",
    "dense": "a product summed over axes",
    "conv": "a convolution",
    "arithmetic": "add, sub, mul, div, neg: a scale, a sum or a product",
    "softmax": "exp / Σ exp",
    "log_sum_exp": "log Σ exp",
    "normalisation": "centres, and divides by a statistic of the same values",
    "embedding": "where ids become numbers",
    "control": "holds programs of its own",
    "ends": "relevance ends here",
    "opaque": "no rule explains it",
}


@dataclass(frozen=True)
class Axis:
    """`size` slices along dimension `dim`, whose index is (outer, slice, inner) where a reshape merged axes."""

    dim: int
    size: int
    outer: int = 1
    inner: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether the dimension is that axis alone."""
        return self.outer == self.inner == 1


AxisFinder = Callable[[Any, int, Axis], Axis | None]


@dataclass(frozen=True)
class Row:
    """What is known of a primitive. Every field has to be given; None is an answer.

    Attributes:
      name: for people.
      op: what it computes.
      kind: one of `ROW_KINDS`.
      axes: `axes(eqn, operand, axis)` says where the slices along an operand's axis stand in the outputs, None where
        they are mixed or gone; None if they always are.
      interval: `interval(eqn, k, intervals)` is that of the k-th output, from the operands'; None if it may be any.
      pointwise: whether each entry of the output depends on the operands' entries at the same place only.
      constancy: whether an output varies along no axis but those (moved) that operands vary along.
      data: `data(eqn)` are the operands whose values come to the output; the others are indices or truth values.
      linear: `linear(eqn)` are those among them that the output is linear in, while the others stay; None for none.
      exponent: `exponent(eqn)` of a power; None if it is no power of a known exponent.
      bends: whether it is a nonlinear function of its data (what adds, scales and moves is not).
      rising: whether a pointwise function of one operand rises with it wherever it is defined.
    """

    name: str
    op: Op
    kind: str
    axes: AxisFinder | None
    interval: Callable[[Any, int, Sequence[Interval]], Interval] | None
    pointwise: bool
    constancy: bool
    data: Callable[[Any], Sequence[int]]
    linear: Callable[[Any], Sequence[int]] | None
    exponent: Callable[[Any], float] | None
    bends: bool
    rising: bool

    @property
    def moves(self) -> bool:
        """Whether values only change places."""
        return self.kind == "movement"
