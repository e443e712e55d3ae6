"""Concepts: where each channel has its part in a decision, beside the samples that show what it stands for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jrlrp.errors import ArgumentError
from jrlrp.plot.images import OUTLINE, as_maps, as_pictures, draw_map
from jrlrp.plot.picture import Picture, broken
from jrlrp.plot.scaling import as_named, limit
from jrlrp.rules.base import is_number

_SMALLEST = 3  # pixels along a side of a crop


def concepts(
    relevance: Any,
    samples: Sequence[Any],
    fields: Sequence[Any] | None = None,
    *,
    image: Any = None,
    title: str = "",
    share: float = 0.9,
    around: float = 1.0,
    overlay: float = 0.0,
    quantile: float = 0.995,
    power: float = 1.0,
    size: float = 1.1,
) -> Figure:
    """Draw a row for each channel: its conditional map, and its reference samples cropped to what the channel sees.

    Args:
      relevance: the channels' maps for one example, of shape (C, height, width), or as `jrlrp.concepts.maps` returns
        them, (C, 1, height, width, colours), colours being summed; or a dict from names to maps of shape
        (height, width) or (height, width, colours).
      samples: for each channel its reference samples, best first, of shape (K, height, width) or
        (K, height, width, 1 or 3).
      fields: for each channel the relevance of its samples, as `jrlrp.concepts.receptive_field` returns it: a sample is
        cropped to the square that holds most of |relevance|. None for whole samples.
      image: the example, of shape (height, width) or (height, width, 1 or 3), which the maps are laid over.
      title: what the example is called.
      share: of a field's |relevance| that lies between the edges of its square, along each axis.
      around: how many times as wide as that square a crop is; the square is outlined where it is more than once.
      overlay: how much of the (grey) image shows through the maps, from 0 to 1; without an image nothing does.
      quantile: of |R| other than 0 that gets the full colour; what is larger is clipped.
      power: colour goes with |R|^power; 0.5 lets small relevance show.
      size: of a sample, in inches.

    Returns:
      A matplotlib figure.

    Raises:
      ArgumentError: for arrays whose shapes do not go together, and numbers out of range.
    """
    for name, value, fits, expected in (
        ("share", share, lambda v: 0 < v <= 1, "a number above 0 and at most 1"),
        ("around", around, lambda v: v >= 1, "a number of at least 1"),
        ("overlay", overlay, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
        ("power", power, lambda v: v > 0, "a number above 0"),
        ("size", size, lambda v: v > 0, "a number of inches above 0"),
    ):
        if not (is_number(value) and np.ndim(value) == 0 and fits(value)):
            raise ArgumentError(f"concepts: {name}={value!r}; expected {expected}.")
    if isinstance(relevance, Mapping):
        named = {name: as_maps(np.asarray(one)[None], "concepts")[0] for name, one in as_named(relevance).items()}
        names, maps = list(named), list(named.values())
    else:
        of_one = np.ndim(relevance) == 5 and np.shape(relevance)[1] == 1
        maps = list(as_maps(np.asarray(relevance)[:, 0] if of_one else relevance, "concepts"))
        names = [""] * len(maps)
    picture = None if image is None else as_pictures(np.asarray(image)[None], "concepts")[0]
    if picture is not None and any(picture.shape[:2] != one.shape for one in maps):
        raise ArgumentError(f"concepts: an image of {picture.shape[:2]} pixels and maps of {maps[0].shape}.")
    rows = _rows(samples, fields, len(maps), share, around)
    first, most = int(picture is not None), max(map(len, rows))
    wide = [1.5] * (first + 1) + [1.0] * most
    figure = Picture(figsize=(size * sum(wide) + 0.6, 1.4 * size * len(maps) + 0.5), layout="constrained")
    grid = figure.add_gridspec(len(maps), len(wide), width_ratios=wide)
    if picture is not None:
        axis = _panel(figure, grid[: min(2, len(maps)), 0])
        axis.imshow(picture, cmap="gray", interpolation="nearest")
        axis.set_title(broken(title, 1.5 * size))
    elif title:
        figure.suptitle(title)
    for k, (one, name, row) in enumerate(zip(maps, names, rows, strict=True)):
        axis, bound = _panel(figure, grid[k, first]), limit(one, quantile)
        draw_map(axis, one, bound, power=power, picture=picture, overlay=overlay)
        axis.set_xlabel(f"± {bound:.2g}" if one.any() else "0", fontsize="small")
        axis.set_ylabel(broken(name, 1.4 * size), fontsize="small")
        axis.set_title("" if k else "where: red for,\nblue against", fontsize="medium")
        for j, sample in enumerate(row):
            axis = _panel(figure, grid[k, first + 1 + j])
            sample.draw(axis)
            axis.set_title("" if k or j else "what: best first", fontsize="medium", loc="left")
    return figure


@dataclass(frozen=True)
class _Sample:
    """A reference sample, the part of it that is shown, and the part of that which the channel sees."""

    picture: np.ndarray
    shown: tuple[slice, slice]
    seen: tuple[slice, slice]

    def draw(self, axis: Axes) -> None:
        axis.imshow(self.picture[self.shown], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if self.seen != self.shown:
            (top, bottom), (left, right) = ((s.start - t.start, s.stop - t.start) for s, t in self._spans)
            box = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=OUTLINE)
            axis.add_patch(box)

    @property
    def _spans(self) -> list[tuple[slice, slice]]:
        return list(zip(self.seen, self.shown, strict=True))


def _rows(
    samples: Sequence[Any], fields: Sequence[Any] | None, count: int, share: float, around: float
) -> list[list[_Sample]]:
    """Return the samples of each channel, with where they are cropped."""
    for name, given in (("samples", samples), ("fields", fields)):
        if given is not None and len(given) != count:
            raise ArgumentError(f"concepts: {name} of {len(given)} channels for {count} maps; expected one of each.")
    rows = [list(as_pictures(own, "concepts")) if len(own) else [] for own in samples]
    if fields is None:
        whole = slice(None), slice(None)
        return [[_Sample(picture, whole, whole) for picture in row] for row in rows]
    seen = [list(as_maps(own, "concepts")) if len(own) else [] for own in fields]
    for row, own in zip(rows, seen, strict=True):
        sizes = [picture.shape[:2] for picture in row], [field.shape for field in own]
        if sizes[0] != sizes[1]:
            raise ArgumentError(f"concepts: samples of sizes {sizes[0]} with fields of {sizes[1]}; expected the same.")
    return [
        [_Sample(p, _square(field, share, around), _square(field, share)) for p, field in zip(row, own, strict=True)]
        for row, own in zip(rows, seen, strict=True)
    ]


def _square(field: np.ndarray, share: float, around: float = 1.0) -> tuple[slice, slice]:
    """Return the square that holds a share of |field| along each axis, or as near to it as the array allows."""
    size = np.abs(np.nan_to_num(field))
    if not size.any():
        return slice(0, field.shape[0]), slice(0, field.shape[1])
    spans = []
    for other in (1, 0):
        below = np.cumsum(size.sum(other)) / size.sum()
        left, right = np.searchsorted(below, [(1 - share) / 2, (1 + share) / 2 - 1e-9], side="right")
        spans.append((int(left), int(right) + 1))
    side = round(around * max(_SMALLEST, *(right - left for left, right in spans)))
    rows, columns = (_widened(*span, side, length) for span, length in zip(spans, field.shape, strict=True))
    return rows, columns


def _widened(left: int, right: int, side: int, length: int) -> slice:
    start = max(0, min((left + right - side) // 2, length - side))
    return slice(start, min(start + side, length))


def _panel(figure: Figure, place: Any) -> Axes:
    axis = figure.add_subplot(place)
    axis.set_xticks([])
    axis.set_yticks([])
    return axis
