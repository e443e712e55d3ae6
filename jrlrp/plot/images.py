"""Maps and images as arrays that can be drawn, and a map drawn into a panel."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jrlrp.errors import ArgumentError
from jrlrp.plot.scaling import COLOURS, scaled

OUTLINE = "#1a9850"
_COLOURS = (1, 3, 4)  # how many channels an image may have, and how narrow no image is


def _is_one_image(array: np.ndarray) -> bool:
    """Tell whether an array of three axes is (height, width, channels), rather than (N, height, width)."""
    return array.ndim == 3 and array.shape[-1] in _COLOURS and min(array.shape[:2]) > max(_COLOURS)


def as_maps(relevance: Any, who: str) -> np.ndarray:
    """Return relevance as (N, height, width), a last axis of channels summed; `who` asks is named in the error."""
    maps = np.asarray(relevance, float)
    if maps.ndim == 2 or _is_one_image(maps):
        maps = maps[None]
    if maps.ndim == 4:
        maps = maps.sum(-1)
    if maps.ndim != 3 or not maps.size:
        raise ArgumentError(
            f"{who}: relevance of shape {np.shape(relevance)}; expected (height, width) or (N, height, width), with "
            "or without a last axis of channels."
        )
    return maps


def as_pictures(images: Any, who: str) -> np.ndarray:
    """Return images between 0 and 1, each stretched to its own range unless it lies there or counts to 255."""
    images = np.asarray(images)
    if images.ndim == 2 or _is_one_image(images):
        images = images[None]
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3):
        raise ArgumentError(
            f"{who}: images of shape {images.shape}; expected (height, width) or (N, height, width), with or without "
            "a last axis of 1 or 3 channels."
        )
    if images.dtype == np.uint8:
        return images / 255
    axes = tuple(range(1, images.ndim))
    low = np.minimum(images.min(axes, keepdims=True), 0)
    high = np.maximum(images.max(axes, keepdims=True), 1)
    stretched = (images - images.min(axes, keepdims=True)) / np.maximum(np.ptp(images, axis=axes, keepdims=True), 1e-12)
    return np.where((low < 0) | (high > 1), stretched, images)


def draw_map(
    axis: Axes, relevance: np.ndarray, bound: float, *, power: float, picture: np.ndarray | None, overlay: float
) -> None:
    """Draw a map, with full colour at ± `bound`, over a picture that shows through it in grey."""
    if overlay and picture is not None:
        grey = picture if picture.ndim == 2 else picture @ np.array([0.299, 0.587, 0.114])
        axis.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
    values = scaled(relevance, bound)
    values = np.sign(values) * np.abs(values) ** power
    seen = 1 - overlay if picture is not None else 1
    axis.imshow(values, cmap=COLOURS, vmin=-1, vmax=1, alpha=seen, interpolation="nearest")
