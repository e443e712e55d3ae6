"""Which entries of a value belong together: what a sum, a softmax or a statistic is taken over."""

from dataclasses import dataclass

from jrlrp.trace.program import Var


@dataclass(frozen=True)
class Axes:
    """Entries belong together along these dimensions."""

    dims: frozenset[int]


@dataclass(frozen=True)
class Segments:
    """Entries along dimension `dim` belong together where `index`, one of `count` numbers, is the same.

    The first `lead` dimensions of the value are the index's too: groups are within each, as by vmap.
    """

    dim: int
    index: Var
    count: int
    lead: int = 0

    @property
    def along(self) -> tuple[Var, int, int]:
        """What an equation gathers or scatters by that does so for these groups."""
        return self.index, self.dim, self.lead


Group = Axes | Segments
