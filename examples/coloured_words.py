"""Relevance of words as colours: red speaks for one class, blue for the other; for terminals and as HTML."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reviews import Tokens, word_spans
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from jrlrp.plot.scaling import ink, rgb

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>jrlrp</title><style>
{stylesheet}
body {{ font: 17px/1.7 Georgia, serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; white-space: pre-wrap;
  color: #111; background: #fff }}
</style></head><body>{code}</body></html>
"""


@dataclass(frozen=True)
class Word:
    """A word of a text, or a mark that a model puts around the text.

    `space` says whether a space comes before it; `relevance` is None if the model did not read it.
    """

    text: str
    space: bool
    relevance: float | None
    mark: bool = False


def owners(text: str, tokens: Tokens) -> list[int | None]:
    """Return for each token the number of the word that it is of, None for marks."""
    word_at = {place: k for k, (begin, end) in enumerate(word_spans(text)) for place in range(begin, end)}
    return [None if mark else word_at.get(span[0]) for span, mark in zip(tokens.spans, tokens.marks, strict=True)]


def join(text: str, tokens: Tokens, relevance: Sequence[float]) -> list[Word]:
    """Return the words of a text, each with the sum of its tokens' relevance, and the marks around them."""
    spans, sums, before, after = word_spans(text), {}, [], []
    for owner, mark, value in zip(owners(text, tokens), tokens.marks, relevance, strict=False):
        if owner is not None:
            sums[owner] = sums.get(owner, 0.0) + float(value)
        elif mark:
            (after if sums else before).append(Word(mark, bool(sums), float(value), mark=True))
    words = [
        Word(text[begin:end], bool(before) if k == 0 else spans[k - 1][1] < begin, sums.get(k))
        for k, (begin, end) in enumerate(spans)
    ]
    return [*before, *words, *after]


def coloured(words: Sequence[Word]) -> Text:
    """Return the words on backgrounds whose strength is their relevance in parts of the largest; marks are grey."""
    sizes = [abs(word.relevance) for word in words if word.relevance is not None and not word.mark]
    text, scale = Text(), max(sizes, default=0.0) or 1.0
    for word in words:
        text.append(" " if word.space else "")
        grey = word.mark or word.relevance is None
        text.append(word.text, "bright_black" if grey else _style(word.relevance / scale))
    return text


def legend(negative: str, positive: str) -> Text:
    """Return what the colours mean."""
    steps = Text.assemble(*((" ", _style(k / 8)) for k in range(-8, 9)))
    return Text.assemble(f"speaks for {negative} ", steps, f" speaks for {positive}; grey: no word, or not read")


def save_html(lines: Iterable[Text], output: Path) -> None:
    """Write the lines as a web page that needs no other file."""
    console = Console(record=True, file=io.StringIO(), width=100, color_system="truecolor", force_terminal=True)
    for line in lines:
        console.print(line, soft_wrap=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    console.save_html(str(output), code_format=_PAGE)


def _style(strength: float) -> Style:
    """Return the style of a relevance in [−1, 1]."""
    behind = rgb(strength)
    return Style(color=ink(behind), bgcolor=Color.from_rgb(*behind))
