"""A bidirectional LSTM that reads film reviews word by word, trained here in half a minute."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from packaged import keep
from reviews import CLASSES, Reader, Review, Tokens, accuracy, batch, in_batches, word_spans
from tqdm import tqdm

UNKNOWN, FIRST = 1, 2  # ids: 0 is the padding, 1 a word that training did not show twice
EPOCHS, BATCH, RATE = 4, 64, 2e-3


class ReviewLSTM(nn.Module):
    """Word ids (N, T), padded at the end, and their numbers (N,), to logits (N, 2)."""

    words: int
    features: int = 64

    @nn.compact
    def __call__(self, ids: jax.Array, lengths: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Embed(self.words, self.features, embedding_init=nn.initializers.normal(0.1))(ids)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        ends = []
        for name in ("forward", "backward"):
            cell = nn.LSTMCell(self.features)
            (_, h), _ = nn.RNN(cell, return_carry=True, reverse=name == "backward", name=name)(x, seq_lengths=lengths)
            ends.append(h)
        h = nn.Dropout(0.3, deterministic=not train)(jnp.concatenate(ends, -1))
        return nn.Dense(len(CLASSES))(h)


def words(text: str) -> list[str]:
    """Return the words of a text as the vocabulary has them."""
    return [text[begin:end].lower().replace("’", "'") for begin, end in word_spans(text)]


def vocabulary(reviews: Sequence[Review]) -> dict[str, int]:
    """Return the ids of all words that occur twice or more."""
    count = Counter(word for review in reviews for word in words(review.text))
    return {word: k for k, word in enumerate(sorted(w for w in count if count[w] > 1), FIRST)}


def tokenize(text: str, ids: dict[str, int]) -> Tokens:
    """Return the tokens of a text, one for each word."""
    spans = word_spans(text)
    return Tokens([ids.get(word, UNKNOWN) for word in words(text)], spans, [""] * len(spans))


def load(splits: dict[str, list[Review]], retrain: bool = False) -> Reader:
    """Return the model as it was trained, now or before."""

    def make() -> dict[str, Any]:
        ids = vocabulary(splits["train"])
        parameters = train(ReviewLSTM(len(ids) + FIRST), splits, ids)
        tokens = [tokenize(review.text, ids) for review in splits["test"]]
        right = accuracy(in_batches(_logits(parameters, ids), tokens), splits["test"])
        return {"parameters": parameters, "ids": ids, "accuracy": right}

    found = keep("review-lstm.msgpack", make, anew=retrain)
    ids = found["ids"]
    return Reader(_logits(found["parameters"], ids), lambda text: tokenize(text, ids), found["accuracy"])


def _logits(parameters: Any, ids: dict[str, int]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return partial(ReviewLSTM(len(ids) + FIRST).apply, parameters)


def train(model: ReviewLSTM, splits: dict[str, list[Review]], ids: dict[str, int]) -> Any:
    """Return parameters after the epoch that was best on the validation films."""
    data, held = (_arrays(splits[name], ids) for name in ("train", "validation"))
    steps = len(data[0]) // BATCH
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, steps * EPOCHS))
    parameters = model.init(jax.random.key(0), data[0][:1], data[1][:1])
    state, best = optimiser.init(parameters), (0.0, parameters)

    @jax.jit
    def step(parameters, state, key, ids, lengths, labels):
        for_words, for_dropout = jax.random.split(key)
        hidden = jax.random.bernoulli(for_words, 0.1, ids.shape) & (ids > 0)

        def loss(parameters):
            seen = jnp.where(hidden, UNKNOWN, ids)
            logits = model.apply(parameters, seen, lengths, train=True, rngs={"dropout": for_dropout})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(parameters)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, value

    def right(parameters):
        return float(jnp.mean(jax.jit(model.apply)(parameters, *held[:2]).argmax(-1) == held[2]))

    with tqdm(total=EPOCHS * steps, desc="training the LSTM", unit="batch", mininterval=0.5) as bar:
        for epoch in range(EPOCHS):
            for k, rows in enumerate(_shuffled(len(data[0]), epoch)):
                key = jax.random.fold_in(jax.random.key(1), epoch * steps + k)
                parameters, state, value = step(parameters, state, key, *(part[rows] for part in data))
                bar.update()
            best = max(best, (right(parameters), parameters), key=lambda found: found[0])
            bar.set_postfix(loss=f"{float(value):.2f}", validation=f"{best[0]:.3f}")
    return best[1]


def _arrays(reviews: Sequence[Review], ids: dict[str, int]) -> tuple[jax.Array, jax.Array, jax.Array]:
    padded, lengths = batch([tokenize(review.text, ids) for review in reviews])
    return jnp.asarray(padded), jnp.asarray(lengths), jnp.array([review.label for review in reviews])


def _shuffled(rows: int, epoch: int) -> Iterator[np.ndarray]:
    order = np.random.default_rng(epoch).permutation(rows)
    return (order[begin : begin + BATCH] for begin in range(0, rows - BATCH + 1, BATCH))
