"""What can be kept of a run in place of its maps, or beside them: means, histograms, samples with the highest scores.

A reduction is a pytree with `update(batch)` and `merge(other)`, which return the reduction of more examples. Its leaves
are stored, so they have the same structure after each update.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from jrlrp.concepts import References
from jrlrp.errors import ArgumentError

Of = Callable[[Any, Any], Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """The examples of a batch that could be explained.

    Attributes:
      index: their numbers in the source, integers of shape (n,).
      value: what the model made of them, None if `explain` returns relevance alone.
      relevance: a pytree of NumPy arrays (n, ...).
    """

    index: np.ndarray
    value: Any
    relevance: Any


class Reduction(Protocol):
    """What `attribute` takes for a reduction: a pytree with these methods."""

    def update(self, batch: Batch) -> Any:
        """Return the reduction with more examples."""

    def merge(self, other: Any) -> Any:
        """Return the reduction of the examples of both."""


def _relevance(value: Any, relevance: Any) -> Any:
    return relevance


_data = partial(field, default_factory=lambda: np.zeros(()))


@partial(
    jax.tree_util.register_dataclass, data_fields=["total", "count"], meta_fields=["of", "absolute", "by", "groups"]
)
@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of relevance over examples, or over those of each group.

    Args:
      of: a function of (value, relevance) that returns what the mean is taken of, an array (n, ...); None for
        relevance.
      absolute: whether absolute values are taken.
      by: a function of (value, relevance) that returns each example's group, integers (n,) below `groups`.
      groups: how many there are.

    Attributes:
      total, count: the sums, float64 of shape (groups, ...), and how many examples each group has.
    """

    of: Of | None = None
    absolute: bool = False
    by: Of | None = None
    groups: int = 1
    total: np.ndarray = _data()
    count: np.ndarray = _data()

    @property
    def mean(self) -> np.ndarray:
        """The means, (groups, ...), or without that axis if there is one group; NaN of a group without examples."""
        total, count = np.asarray(self.total), np.asarray(self.count)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = total / count.reshape(-1, *(1,) * (total.ndim - 1))
        return found if self.by is not None or self.groups > 1 else found[0]

    def update(self, batch: Batch) -> "Mean":
        x = np.asarray((self.of or _relevance)(batch.value, batch.relevance), np.float64)
        x = np.abs(x) if self.absolute else x
        group = np.zeros(len(x), int) if self.by is None else np.asarray(self.by(batch.value, batch.relevance))
        if group.shape != x.shape[:1] or np.any((group < 0) | (group >= self.groups)):
            raise ArgumentError(
                f"Mean(by=...) returned {group!r}; expected {len(x)} groups, integers below {self.groups}."
            )
        total, count = np.zeros((self.groups, *x.shape[1:])), np.zeros(self.groups)
        np.add.at(total, group, x)
        np.add.at(count, group, 1)
        return replace(self, total=self.total + total, count=self.count + count)

    def merge(self, other: "Mean") -> "Mean":
        return replace(self, total=self.total + other.total, count=self.count + other.count)


@partial(jax.tree_util.register_dataclass, data_fields=["counts"], meta_fields=["edges", "of", "channels"])
@dataclass(frozen=True, eq=False)
class Histogram:
    """How often relevance lies between edges, for each feature or channel.

    Args:
      edges: ascending numbers.
      of: as for `Mean`.
      channels: the axis of it (after the examples' axis 0) that has a histogram for each entry, -1 say; "features" for
        one histogram for each feature; None for one of all.

    Attributes:
      counts: integers of shape (len(edges) + 1, ...): below the first edge, between two, from the last on.
    """

    edges: Sequence[float]
    of: Of | None = None
    channels: int | str | None = None
    counts: np.ndarray = _data()

    def __post_init__(self) -> None:
        edges = np.asarray(self.edges, float) if isinstance(self.edges, (Sequence, np.ndarray)) else np.zeros(0)
        if edges.ndim != 1 or not len(edges) or np.any(np.diff(edges) <= 0):
            raise ArgumentError(f"Histogram(edges={self.edges!r}): expected ascending numbers.")
        if not (self.channels in (None, "features") or isinstance(self.channels, int)):
            raise ArgumentError(f'Histogram(channels={self.channels!r}): expected an axis, "features" or None.')
        object.__setattr__(self, "edges", tuple(edges.tolist()))

    def update(self, batch: Batch) -> "Histogram":
        x = np.asarray((self.of or _relevance)(batch.value, batch.relevance))
        if self.channels == "features":
            flat = x.reshape(len(x), -1)
        elif self.channels is None:
            flat = x.reshape(-1, 1)
        else:
            assert isinstance(self.channels, int)
            flat = np.moveaxis(x, self.channels, -1).reshape(-1, x.shape[self.channels])
        bins, columns = len(self.edges) + 1, flat.shape[1]
        places = np.searchsorted(self.edges, flat, side="right") * columns + np.arange(columns)
        counts = np.bincount(places.ravel(), minlength=bins * columns).reshape(bins, columns)
        if self.channels == "features":
            counts = counts.reshape(bins, *x.shape[1:])
        elif self.channels is None:
            counts = counts[:, 0]
        return replace(self, counts=self.counts + counts)

    def merge(self, other: "Histogram") -> "Histogram":
        return replace(self, counts=self.counts + other.counts)


@partial(jax.tree_util.register_dataclass, data_fields=["references"], meta_fields=["of"])
@dataclass(frozen=True, eq=False)
class Top:
    """The examples in which each channel scores highest, as `concepts.References`.

    Args:
      references: `concepts.References.empty(channels, count)`.
      of: a function of (value, relevance) that returns scores and positions of channels, a pair of arrays (n,
        channels), as `concepts.scores` does; None where `explain` is a function that `concepts.scores` returned.
    """

    references: References
    of: Of | None = None

    def update(self, batch: Batch) -> "Top":
        scores, positions = (self.of or _relevance)(batch.value, batch.relevance)
        return replace(self, references=self.references.update(scores, batch.index, positions))

    def merge(self, other: "Top") -> "Top":
        return replace(self, references=self.references.merge(other.references))
