"""Rules of max-pools and of everything else that chooses among its inputs."""

from dataclasses import dataclass

from jrlrp.rules.base import Rule


@dataclass(frozen=True, repr=False)
class WinnerTakesAll(Rule):
    """The largest input of a window takes all of its relevance; ties are broken as JAX's pullback breaks them."""

    kinds = frozenset({"max_pool"})
    native = True
