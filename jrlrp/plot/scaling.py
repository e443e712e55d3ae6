"""From relevance to colours: centred at zero, scaled robustly, red for and blue against."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jrlrp.errors import ArgumentError

COLOURS = "RdBu_r"  # diverging, its middle white, and told apart by the colour-blind


def limit(relevance: Any, quantile: float = 0.995) -> float:
    """Return the size of relevance that gets the full colour: a quantile of |R| among what is not zero; 1 for zeros."""
    if not 0 < quantile <= 1:
        raise ArgumentError(f"quantile={quantile!r}: expected a number above 0 and at most 1.")
    size = np.abs(np.asarray(relevance, float))
    size = size[np.isfinite(size) & (size > 0)]
    return float(np.quantile(size, quantile)) if size.size else 1.0


def scaled(relevance: Any, bound: float) -> np.ndarray:
    """Return relevance in parts of `bound`, clipped to [−1, 1]; what is not finite is 0."""
    values = np.asarray(relevance, float) / bound
    return np.clip(np.where(np.isfinite(values), values, 0.0), -1, 1)


def rgb(value: float) -> tuple[int, int, int]:
    """Return the colour of a scaled value as three numbers up to 255."""
    import matplotlib

    red, green, blue, _ = matplotlib.colormaps[COLOURS](0.5 + 0.5 * float(np.clip(value, -1, 1)) * 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def ink(colour: Sequence[int]) -> str:
    """Return the colour of writing that is read well on another: black or white."""
    red, green, blue = colour
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def as_named(value: Any) -> dict[str, Any]:
    """Return things by their names: those given, or the one thing given under no name."""
    if isinstance(value, Mapping) and not value:
        raise ArgumentError("there is nothing to draw: expected an array, or a dict with at least one.")
    return dict(value) if isinstance(value, Mapping) else {"": value}
