"""Charts: bars for tables, series before their relevance, curves of metrics, and where relevance went."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jrlrp.errors import ArgumentError
from jrlrp.plot.picture import Picture, broken
from jrlrp.plot.scaling import COLOURS, as_named, limit, scaled

FOR, AGAINST, NEUTRAL = "#b2182b", "#2166ac", "#888888"


def bars(
    relevance: Any,
    names: Sequence[str],
    values: Sequence[Any] | None = None,
    *,
    top: int | None = None,
    title: str = "",
) -> Figure:
    """Draw the relevance of a table's features as bars, the largest above, with their values beside their names.

    Args:
      relevance: a number for each feature, of shape (features,).
      names: the features' names.
      values: what the example has in them.
      top: how many features to show; None for all.

    Returns:
      A matplotlib figure.

    Raises:
      ArgumentError: unless there are as many names (and values) as numbers.
    """
    sizes = np.asarray(relevance, float)
    if sizes.shape != (len(names),) or (values is not None and len(values) != len(names)):
        raise ArgumentError(
            f"bars: relevance of shape {sizes.shape} for {len(names)} names"
            + ("" if values is None else f" and {len(values)} values")
            + "; expected one for each."
        )
    order = np.argsort(-np.abs(sizes), kind="stable")[:top][::-1]
    labels = [names[k] if values is None else f"{names[k]} = {_shown(values[k])}" for k in order]
    room = 0.08 * max(map(len, labels), default=0)  # inches that the longest label takes
    figure = Picture(figsize=(max(6.5, 3.5 + room), 0.3 * len(order) + 0.9), layout="constrained")
    axis = figure.subplots()
    drawn = axis.barh(range(len(order)), sizes[order], color=[FOR if sizes[k] > 0 else AGAINST for k in order])
    axis.bar_label(drawn, fmt=_number, padding=3, fontsize="small")
    axis.set_yticks(range(len(order)), labels)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.margins(x=0.15)
    axis.set(xlabel="relevance")
    axis.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize="large")  # over the labels too, which leave the axis little room
    return figure


def series(
    values: Any,
    relevance: Any,
    *,
    names: Sequence[str] | None = None,
    time: Any = None,
    title: str = "",
    quantile: float = 0.995,
) -> Figure:
    """Draw time series before their relevance: a panel for each channel, red for and blue against.

    Args:
      values: one example, of shape (time,) or (time, channels).
      relevance: of the same shape; or a dict from names to such, which gives each its panels and its scale.
      names: the channels' names.
      time: the moments, equally spaced, of shape (time,); None for 0, 1, 2, …
      quantile: of |R| that gets the full colour, over all channels.

    Returns:
      A matplotlib figure.

    Raises:
      ArgumentError: for shapes that do not go together.
    """
    lines = np.asarray(values, float)
    rows = {name: np.asarray(shares, float) for name, shares in as_named(relevance).items()}
    for shares in rows.values():
        if lines.shape != shares.shape or lines.ndim not in (1, 2) or not lines.size:
            raise ArgumentError(
                f"series: values of shape {lines.shape} and relevance of shape {shares.shape}; expected one shape, "
                "(time,) or (time, channels)."
            )
    lines = lines.reshape(len(lines), -1)
    moments = np.arange(len(lines)) if time is None else np.asarray(time, float)
    if moments.shape != (len(lines),) or (names is not None and len(names) != lines.shape[1]):
        raise ArgumentError(f"series: expected {len(lines)} moments and {lines.shape[1]} names.")
    half = (moments[-1] - moments[0]) / max(len(moments) - 1, 1) / 2 or 0.5
    panels = [
        (name, k, colours)
        for name, shares in rows.items()
        for k, colours in enumerate(scaled(shares, limit(shares, quantile)).reshape(lines.shape).T)
    ]
    figure = Picture(figsize=(7, 1.7 * len(panels) + 0.7), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, k, colours) in zip(grid, panels, strict=True):
        line = lines[:, k]
        room = 0.1 * np.ptp(line) or 0.5
        extent = (moments[0] - half, moments[-1] + half, line.min() - room, line.max() + room)
        kind: dict[str, Any] = {"cmap": COLOURS, "aspect": "auto", "interpolation": "nearest"}
        shown = axis.imshow(colours[None], vmin=-1, vmax=1, extent=extent, **kind)
        axis.plot(moments, line, color="black", linewidth=1.3)
        named = (name, names[k] if names is not None else "")
        axis.set_ylabel("\n".join(broken(part, 1.7) for part in named if part))
    grid[-1].set_xlabel("time")
    figure.suptitle(title)
    bar = figure.colorbar(shown, ax=list(grid), ticks=[-1, 0, 1], label="relevance")
    bar.ax.set_yticklabels(["against", "0", "for"])
    return figure


def curves(
    found: Any, *, score: str = "probability", xlabel: str = "features replaced", title: str = "", band: float = 1.96
) -> Figure:
    """Draw the curves of metrics: the mean over examples, and a band of standard errors.

    Args:
      found: a `metrics.Curve`, or a dict from names to curves.
      score, xlabel: what the axes are called.
      band: how many standard errors wide the band is, on either side; 1.96 for a confidence of 95 %.

    Returns:
      A matplotlib figure.

    Raises:
      ArgumentError: for curves of more than one value for each example and level.
    """
    figure = Picture(figsize=(7.6 if isinstance(found, Mapping) else 6.2, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, curve in as_named(found).items():
        if curve.values.ndim != 2:
            raise ArgumentError(f"curves: values of shape {curve.values.shape}; expected (examples, levels).")
        error = band * curve.values.std(0) / np.sqrt(len(curve.values))
        (line,) = axis.plot(curve.levels, curve.mean, marker="o", markersize=3, label=name)
        axis.fill_between(curve.levels, curve.mean - error, curve.mean + error, color=line.get_color(), alpha=0.15)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set(xlabel=xlabel, ylabel=score, title=title)
    axis.spines[["top", "right"]].set_visible(False)
    if isinstance(found, Mapping):
        figure.legend(loc="outside right upper", fontsize="small")
    return figure


def waterfall(audit: Any, *, most: int = 12) -> Figure:
    """Draw where an audit says relevance went, from the output to the inputs, as a waterfall.

    Args:
      audit: an `Audit` of one call, not of a vmapped one.
      most: how many of the nodes that absorb most are bars of their own; the others are one. Nodes that keep nothing
        but rounding are not drawn.

    Returns:
      A matplotlib figure.

    Raises:
      ArgumentError: for an audit of several calls.
    """
    absorbed = np.asarray(audit.absorbed, float)
    if absorbed.ndim != 1:
        raise ArgumentError(f"waterfall: an audit of shape {absorbed.shape[:-1]}; expected that of one call.")
    noise = 1e-6 * np.max(audit.size_received, initial=0)
    order = [k for k in np.argsort(-np.abs(absorbed), kind="stable") if abs(absorbed[k]) > noise]
    single = sorted(order[:most], reverse=True)  # from the output on
    steps = [(audit.names[k], -absorbed[k]) for k in single]
    if order[most:]:
        steps.append((f"{len(order) - most} others", -sum(absorbed[k] for k in order[most:])))
    level, labels = float(audit.output), ["output"]
    figure = Picture(figsize=(7.5, 0.32 * (len(steps) + 2) + 0.9), layout="constrained")
    axis = figure.subplots()
    drawn = [axis.barh(0, level, color=NEUTRAL)]
    for row, (name, change) in enumerate(steps, 1):
        drawn.append(axis.barh(row, change, left=level, color=FOR if change > 0 else AGAINST))
        axis.plot([level, level], [row - 1.4, row + 0.4], color="black", linewidth=0.6)
        level += change
        labels.append(name)
    drawn.append(axis.barh(len(steps) + 1, float(audit.inputs), color=NEUTRAL))
    for bar, amount in zip(drawn, (audit.output, *(change for _, change in steps), audit.inputs), strict=True):
        axis.bar_label(bar, [_number(float(amount))], padding=3, fontsize="small")
    axis.use_sticky_edges = False  # or a bar that ends at the axis has its number outside
    axis.margins(x=0.1)
    axis.set_yticks(range(len(steps) + 2), [*labels, "inputs"])
    axis.invert_yaxis()
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel("relevance")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def _number(value: float) -> str:
    """Return three digits of a number, without an exponent unless it is small."""
    return f"{value:.3g}" if abs(value) < 1e-3 else np.format_float_positional(float(f"{value:.3g}"), trim="-")
