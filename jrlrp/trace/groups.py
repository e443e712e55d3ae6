"""Which entries of a value belong together: what a sum, a softmax or a statistic is taken over."""

from dataclasses import dataclass

from jrlrp.trace.program import Var


@dataclass(frozen=True)
class Axes:
    """Entries belong together along these dimensions."""

    dims: frozenset[int]


@dataclass(frozen=True)
class Segments:
    """Entries along dimension `dim` belong together where `index`, one of `count` numbers, is the same."""

    dim: int
    index: Var
    count: int


Group = Axes | Segments
