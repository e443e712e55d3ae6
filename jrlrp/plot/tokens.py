"""Coloured words: for a figure, a web page and a terminal."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jrlrp.errors import ArgumentError
from jrlrp.plot.picture import Picture
from jrlrp.plot.scaling import ink, limit, rgb, scaled

_SPECIAL = re.compile(r"\[[A-Z]+\]|<[^<>]*>")  # [CLS], <s>, <|endoftext|>


def joined(words: Sequence[str], relevance: Any) -> tuple[list[str], np.ndarray]:
    """Return whole words and their relevance, the sum of their pieces'.

    Pieces are what "##" goes on with (WordPiece), or what has no "▁" or "Ġ" before it (SentencePiece, byte-level BPE)
    where others have; [CLS], <s> and their like stay apart. Words without such signs stay as they are.

    Args, errors: as for `tokens`.
    """
    values = _one_each(words, relevance)
    begins = any(word.startswith(("▁", "Ġ")) for word in words)
    found: list[str] = []
    sums: list[float] = []
    for k, (word, value) in enumerate(zip(words, values, strict=True)):
        apart = _SPECIAL.fullmatch(word) or (k and _SPECIAL.fullmatch(words[k - 1]))
        goes_on = word.startswith("##") and len(word) > 2  # "##" alone is what it is
        piece = goes_on or (begins and not word.startswith(("▁", "Ġ")))
        text = word[2:] if goes_on else word.lstrip("▁Ġ") if begins else word
        if piece and found and not apart:
            found[-1], sums[-1] = found[-1] + text, sums[-1] + value
        else:
            found.append(text)
            sums.append(value)
    return found, np.array(sums)


def tokens(
    words: Sequence[str], relevance: Any, *, join: bool = True, width: float = 7.0, quantile: float = 1.0
) -> Figure:
    """Draw words on the colours of their relevance, red for and blue against.

    Args:
      words: the tokens.
      relevance: a number for each, of shape (len(words),).
      join: whether pieces of words become words, see `joined`.
      width: of the figure, in inches; lines are broken to fit.
      quantile: of |R| that gets the full colour.

    Returns:
      A matplotlib figure.

    Raises:
      ArgumentError: unless there is one number for each word.
    """
    coloured = [(word, colour) for word, _, colour in _coloured(words, relevance, join, quantile)]
    letters = int(width * 10)  # that fit a line of a fixed-width font of 11 points
    lines = list(_lines([word for word, _ in coloured], letters))
    figure = Picture(figsize=(width, 0.32 * (len(lines) or 1) + 0.15))
    for number, line in enumerate(lines):
        at, height = 0.005, 1 - (number + 0.5) / len(lines)
        for k in line:
            word, colour = coloured[k]
            box = {"facecolor": [c / 255 for c in colour], "edgecolor": "none", "boxstyle": "square,pad=0.22"}
            style: dict[str, Any] = {"family": "monospace", "fontsize": 11, "va": "center", "color": ink(colour)}
            figure.text(at + 0.5 / letters, height, _plain(word), bbox=box, **style)
            at += (len(_plain(word)) + 1) / letters
    return figure


def tokens_html(words: Sequence[str], relevance: Any, *, join: bool = True, quantile: float = 1.0) -> str:
    """Return a fragment of HTML with words on the colours of their relevance, each with its number as a tooltip.

    Args, errors: as for `tokens`.
    """
    spans = [
        f'<span style="background:rgb{colour};color:{ink(colour)};padding:0 .15em" title="{number:.3g}">'
        f"{html.escape(word)}</span>"
        for word, number, colour in _coloured(words, relevance, join, quantile)
    ]
    return f'<p style="line-height:1.6">{" ".join(spans)}</p>'


def tokens_terminal(words: Sequence[str], relevance: Any, *, join: bool = True, quantile: float = 1.0) -> str:
    """Return words on the colours of their relevance, for a terminal that knows 24-bit colours.

    Args, errors: as for `tokens`.
    """
    parts = []
    for word, _, (red, green, blue) in _coloured(words, relevance, join, quantile):
        writing = 30 if ink((red, green, blue)) == "#000000" else 97
        parts.append(f"\x1b[{writing};48;2;{red};{green};{blue}m{_plain(word)}\x1b[0m")
    return " ".join(parts)


def _coloured(
    words: Sequence[str], relevance: Any, join: bool, quantile: float
) -> list[tuple[str, float, tuple[int, int, int]]]:
    """Return words, their relevance and its colour."""
    values = _one_each(words, relevance)
    if join:
        words, values = joined(words, values)
    colours = [rgb(v) for v in scaled(values, limit(values, quantile))]
    return list(zip(words, values.tolist(), colours, strict=True))


def _one_each(words: Sequence[str], relevance: Any) -> np.ndarray:
    values = np.asarray(relevance, float)
    if isinstance(words, str) or values.shape != (len(words),):
        raise ArgumentError(f"tokens: relevance of shape {values.shape} for {len(words)} words; expected one for each.")
    return values


def _plain(word: str) -> str:
    """Return a word without what would break its line or command a terminal."""
    return "".join(c if c.isprintable() else "·" for c in word) or " "


def _lines(words: Sequence[str], letters: int) -> Iterable[list[int]]:
    line: list[int] = []
    used = 0
    for k, word in enumerate(words):
        length = len(_plain(word)) + 1
        if line and used + length > letters:
            yield line
            line, used = [], 0
        line.append(k)
        used += length
    if line:
        yield line
