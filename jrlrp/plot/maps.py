"""Heat maps of images, alone, over the images, and in grids of presets × examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jrlrp.errors import ArgumentError
from jrlrp.plot.images import OUTLINE, as_maps, as_pictures, draw_map
from jrlrp.plot.picture import Picture, broken
from jrlrp.plot.scaling import COLOURS, as_named, limit


def heatmaps(
    relevance: Any,
    images: Any = None,
    *,
    masks: Any = None,
    titles: Sequence[str] | None = None,
    shared: bool = False,
    across: bool = False,
    overlay: float = 0.0,
    quantile: float = 0.995,
    power: float = 1.0,
    size: float = 2.4,
) -> Figure:
    """Draw maps in a grid: a row for each preset, a column for each example, red for and blue against.

    Args:
      relevance: maps of shape (height, width) or (N, height, width), or with a last axis of channels, which is summed;
        or a dict from names to such maps. (A, B, 1, 3 or 4) is one image if A and B are more than 4.
      images: the examples, of such shapes, with 1 or 3 channels if any: the first row (column), and what maps are laid
        over.
      masks: where something is that maps should find, of the maps' shape: outlined in green.
      titles: what the examples are called.
      shared: whether all maps have one scale and colour bar, or each its own.
      across: whether presets are columns and examples rows.
      overlay: how much of the (grey) image shows through the maps, from 0 to 1.
      quantile: of |R| other than 0 that gets the full colour; what is larger is clipped.
      power: colour goes with |R|^power; 0.5 lets small relevance show.
      size: of a panel, in inches.

    Returns:
      A matplotlib figure.

    Raises:
      ArgumentError: for arrays whose shapes do not go together.

    Example:
      >>> figure = plot.heatmaps({"default": np.eye(8)[None]}, images=np.ones((1, 8, 8, 3)), titles=["an image"])
      >>> figure.savefig("map.png")  # doctest: +SKIP
    """
    rows = {name: as_maps(maps, "heatmaps") for name, maps in as_named(relevance).items()}
    pictures = None if images is None else as_pictures(images, "heatmaps")
    outlines = None if masks is None else np.asarray(masks) != 0
    if outlines is not None and outlines.ndim == 2:
        outlines = outlines[None]
    count = len(next(iter(rows.values())))
    _require_fit(rows, count, pictures, outlines, titles, bool(overlay))
    first = int(pictures is not None)
    shape = (len(rows) + first, count)
    wide, high = shape if across else shape[::-1]
    figure = Picture(figsize=(size * wide + 0.8, size * high + 0.3), layout="constrained")
    panels = figure.subplots(high, wide, squeeze=False)
    grid = panels.T if across else panels  # of presets × examples
    if pictures is not None:
        for axis, picture in zip(grid[0], pictures, strict=True):
            axis.imshow(picture, cmap="gray", interpolation="nearest")
    bounds = _bounds(rows, shared, quantile)
    for line, (name, maps) in zip(grid[first:], rows.items(), strict=True):
        for k, (axis, one) in enumerate(zip(line, maps, strict=True)):
            picture = None if pictures is None else pictures[k]
            draw_map(axis, one, bounds[name][k], power=power, picture=picture, overlay=overlay)
            if not shared:
                axis.set_xlabel(f"± {bounds[name][k]:.2g}" if one.any() else "0", fontsize="small")
    if outlines is not None:
        _outline(grid, outlines)
    names = ["input" if any(rows) else ""] * first + list(rows)
    beside, above = (titles or (), names) if across else (names, titles or ())
    _label(panels, beside, above, size, maps.shape[1] / maps.shape[2])
    _colour_bar(figure, grid[first:], high, next(iter(bounds.values()))[0] if shared else None, power)
    return figure


def _require_fit(
    rows: Mapping[str, np.ndarray],
    count: int,
    pictures: np.ndarray | None,
    outlines: np.ndarray | None,
    titles: Sequence[str] | None,
    overlay: bool,
) -> None:
    for name, maps in rows.items():
        if len(maps) != count or (pictures is not None and len(pictures) != count):
            raise ArgumentError(f"heatmaps: {name or 'relevance'} has {len(maps)} maps; expected one for each example.")
        if outlines is not None and outlines.shape != maps.shape:
            raise ArgumentError(f"heatmaps: masks of shape {outlines.shape} for maps of shape {maps.shape}.")
        laid_over = overlay or outlines is not None
        if laid_over and pictures is not None and pictures.shape[1:3] != maps.shape[1:]:
            raise ArgumentError(
                f"heatmaps: images of {pictures.shape[1:3]} pixels and maps of {maps.shape[1:]}; an overlay or "
                "masks need them of one size."
            )
    if titles is not None and len(titles) != count:
        raise ArgumentError(f"heatmaps: {len(titles)} titles for {count} examples.")


def _label(panels: np.ndarray, beside: Sequence[str], above: Sequence[str], size: float, height: float) -> None:
    """Name the rows and columns of panels so many inches wide, and so high in parts of that."""
    for axis in panels.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, name in zip(panels[:, 0], beside, strict=bool(beside)):
        axis.set_ylabel(broken(name, size * min(1.0, height)))
    for axis, name in zip(panels[0], above, strict=bool(above)):
        axis.set_title(broken(name, size))


def _outline(grid: np.ndarray, masks: np.ndarray) -> None:
    for line in grid:
        for axis, mask in zip(line, masks, strict=True):
            if mask.any():
                axis.contour(mask, levels=[0.5], colors=OUTLINE, linewidths=0.8)


def _bounds(rows: Mapping[str, np.ndarray], shared: bool, quantile: float) -> dict[str, list[float]]:
    if shared:
        bound = limit(np.concatenate([maps.ravel() for maps in rows.values()]), quantile)
        return {name: [bound] * len(maps) for name, maps in rows.items()}
    return {name: [limit(one, quantile) for one in maps] for name, maps in rows.items()}


def _colour_bar(figure: Figure, grid: np.ndarray, rows: int, bound: float | None, power: float) -> None:
    mappable = ScalarMappable(Normalize(-1, 1), COLOURS)
    ticks = [-1, -(0.25**power), 0, 0.25**power, 1]
    bar = figure.colorbar(mappable, ax=list(grid.flat), shrink=0.8, fraction=0.05, aspect=20 * rows, ticks=ticks)
    names = ["against", "", "0", "", "for"]
    if bound is not None:
        names = [f"{part * bound:.2g}" if part else "0" for part in (-1, -0.25, 0, 0.25, 1)]
    bar.ax.set_yticklabels(names)
    bar.set_label("relevance")
