"""A small causal language model of film reviews, word by word."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from packaged import keep
from review_lstm import FIRST, words
from review_lstm import UNKNOWN as UNKNOWN_WORD
from reviews import Review
from sequence_networks import CausalLM
from training import train

LENGTH, EPOCHS, RATE = 24, 12, 2e-3


def windows(reviews: Sequence[Review], ids: dict[str, int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first words (N, length) of each review that is longer, and the word that follows them (N,)."""
    texts = [words(review.text) for review in reviews]
    rows = [[ids.get(word, UNKNOWN_WORD) for word in text[: length + 1]] for text in texts if len(text) > length]
    found = np.array(rows, np.int32)
    return found[:, :-1], found[:, -1]


def stream(reviews: Sequence[Review], ids: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return all reviews one after the other, cut into rows, and for each word the one that follows."""
    every = [ids.get(word, UNKNOWN_WORD) for review in reviews for word in words(review.text)]
    count = (len(every) - 1) // LENGTH
    cut = lambda start: np.array(every[start : start + count * LENGTH], np.int32).reshape(count, LENGTH)
    return cut(0), cut(1)


def load(reviews: Sequence[Review], ids: dict[str, int], seed: int, epochs: float = 1.0) -> tuple[Callable, Any]:
    """Return a function of variables and ids (N, T) that returns logits (N, words) of the next word, and variables."""
    network, count = CausalLM(len(ids) + FIRST), max(1, round(EPOCHS * epochs))
    make = partial(
        train, network, *stream(reviews, ids), seed=seed, epochs=count, rate=RATE, title="reviews language model"
    )
    return partial(_last, network.apply), keep(f"reviews language model-{count}-{seed}.msgpack", make)


def _last(apply: Callable, variables: Any, ids: jax.Array) -> jax.Array:
    return apply(variables, ids)[:, -1]
