"""The networks that the default was chosen on, family by family."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import cases
import credit_scoring
import efficientnet_lite0
import image_data
import jax
import jax.numpy as jnp
import language_model
import minilm
import numpy as np
import review_lstm
import series
import squeezenet
from cases import Case, Size
from packaged import keep
from PIL import Image
from reviews import load as load_reviews
from reviews import split_by_film
from sequence_networks import GRU

WORDS, PIECES = 20, 24  # of a review that is explained; longer ones are cut
MASK = 103  # MiniLM's [MASK]
IMAGENET = {  # name → network, its module, and the bounds of its inputs
    "SqueezeNet": (squeezenet.SqueezeNet(), squeezenet, (-125.0, 152.0)),
    "EfficientNet": (efficientnet_lite0.EfficientNetLite0(), efficientnet_lite0, (-1.0, 1.0)),
}


def convolutional(size: Size) -> Iterator[Case]:
    """Yield networks of Fashion-MNIST and MNIST, and two of ImageNet with foolbox's samples."""
    for data in ("Fashion", "MNIST"):
        yield from cases.of_images(size, data, ("CNN", "VGG16-like", "VGG19-like", "ResNet50-like"))
    if any(map(size.has, IMAGENET)):
        yield from of_photographs(size, *image_data.imagenet())


def of_photographs(size: Size, pictures: Sequence[Image.Image], labels: np.ndarray | None) -> Iterator[Case]:
    """Yield the networks of ImageNet."""
    for name, (network, module, bounds) in IMAGENET.items():
        if size.has(name):
            crops = [efficientnet_lite0.crop(picture, module.SIZE) for picture in pictures[: size.examples]]
            x = np.concatenate([module.preprocess(crop) for crop in crops])
            own = None if labels is None else labels[: len(x)]
            yield Case(name, 0, network.apply, module.load(), x, own, bounds=bounds, batch=10)


def attentive(size: Size) -> Iterator[Case]:
    """Yield a ViT, an MLP-Mixer and a ConvNet with attention, of Fashion-MNIST."""
    yield from cases.of_images(size, "Fashion", ("ViT", "MLP-Mixer", "ConvNet with attention"))


def recurrent(size: Size) -> Iterator[Case]:
    """Yield an LSTM that reads reviews, and a GRU that hears Japanese vowels."""
    if size.has("reviews LSTM"):
        splits = split_by_film(load_reviews())
        reader = review_lstm.load(splits)
        yield cases.of_reader(size, "reviews LSTM", reader, splits["test"], WORDS, review_lstm.UNKNOWN)
    if size.has("vowels GRU"):
        data = series.load("JapaneseVowels")
        yield from cases.of_series(size, "vowels GRU", GRU(data.classes), data, epochs=300)


def language(size: Size) -> Iterator[Case]:
    """Yield MiniLM, and a small causal language model, which read reviews."""
    splits = split_by_film(load_reviews())
    if size.has("reviews MiniLM"):
        yield cases.of_reader(size, "reviews MiniLM", minilm.load(splits), splits["test"], PIECES, MASK)
    if size.has("reviews language model"):
        ids = review_lstm.vocabulary(splits["train"])
        x, following = language_model.windows(splits["test"], ids, WORDS)
        for seed in size.seeds:
            apply, variables = language_model.load(splits["train"], ids, seed, size.epochs)
            part = slice(size.examples)
            unknown = review_lstm.UNKNOWN
            yield cases.of_ids("reviews language model", seed, apply, variables, x[part], following[part], unknown)


def tables(size: Size) -> Iterator[Case]:
    """Yield an MLP on German credit."""
    if not size.has("credit MLP"):
        return
    data = credit_scoring.load()
    order = np.random.default_rng(0).permutation(len(data.bad))
    test, train = order[: credit_scoring.TEST], order[credit_scoring.TEST :]
    x = credit_scoring.encode(data.values, train)
    network = credit_scoring.CreditMLP()
    variables = keep("credit MLP.msgpack", partial(credit_scoring.train, network, x[train], data.bad[train]))
    chosen, bounds = test[: size.examples], (float(x.min()), float(x.max()))
    apply = partial(_both, network.apply)
    yield Case("credit MLP", 0, apply, variables, x[chosen], data.bad[chosen].astype(int), bounds=bounds, small=True)


def _both(apply: Callable, variables: Any, x: jax.Array) -> jax.Array:
    """Return logits of good and bad from the one of bad."""
    return apply(variables, x)[:, None] * jnp.array([-0.5, 0.5])
