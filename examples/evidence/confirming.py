"""The networks that the default is confirmed on, family by family: other architectures, seeds and data."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cases
import image_data
import numpy as np
import prompts
import review_lstm
import series
import thin_resnet
from cases import Case, Size
from PIL import Image
from reviews import load as load_reviews
from reviews import split_by_film
from sequence_networks import GRU, MLP, Encoder, Mamba
from sklearn import datasets

SEEN = 2500  # test images of Fashion-MNIST that choosing may have seen
WORDS, PIECES = 20, 32  # of a review, of a prompt
PHOTOGRAPHS = {
    "skimage/data": (
        "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png grass.png "
        "gravel.png hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png motorcycle_right.png page.png "
        "retina.jpg rocket.jpg"
    ),
    "sklearn/datasets/images": "china.jpg flower.jpg",
}


def convolutional(size: Size) -> Iterator[Case]:
    """Yield a depthwise CNN and a ResNet with group norms of Fashion-MNIST, and ResNet-50-thin with photographs."""
    names = ("depthwise CNN", "ResNet18-like, group norms")
    yield from cases.of_images(size, "Fashion", names, skipped=SEEN)
    if size.has("ResNet-50-thin"):
        apply, weights = thin_resnet.load()
        x = np.concatenate([thin_resnet.preprocess(picture) for picture in photographs()[: size.examples]])
        yield Case("ResNet-50-thin", 0, apply, weights, x, None, bounds=(-123.0, 151.0), batch=10)


def attentive(size: Size) -> Iterator[Case]:
    """Yield a Mixer of other widths of Fashion-MNIST, and encoders of series, normed before and after."""
    yield from cases.of_images(size, "Fashion", ("MLP-Mixer, other widths",), skipped=SEEN)
    power, gun = series.load("ItalyPowerDemand"), series.load("GunPoint")
    yield from cases.of_series(size, "power encoder, pre-norm", Encoder(power.classes), power, epochs=300)
    yield from cases.of_series(size, "gun encoder, post-norm", Encoder(gun.classes, norm_first=False), gun, epochs=300)


def recurrent(size: Size) -> Iterator[Case]:
    """Yield GRUs that read both ways, and small Mambas, of series."""
    power, motions = series.load("ItalyPowerDemand"), series.load("BasicMotions")
    both = lambda data: GRU(data.classes, both_ways=True)
    yield from cases.of_series(size, "power GRU, both ways", both(power), power, epochs=300)
    yield from cases.of_series(size, "motions GRU, both ways", both(motions), motions, epochs=300)
    yield from cases.of_series(size, "power Mamba", Mamba(power.classes), power, epochs=300)
    yield from cases.of_series(size, "motions Mamba", Mamba(motions.classes), motions, epochs=300)


def language(size: Size) -> Iterator[Case]:
    """Yield a classifier of prompts, and encoders of reviews, normed before and after, on reviews of other films."""
    splits = split_by_film(load_reviews(), seed=1)
    if size.has("prompts"):
        encoding, weights = prompts.tokenizer(), prompts.weights()
        x, labels = prompts.rows(splits["test"], encoding, PIECES, size.examples)
        padding = encoding.encode_single_token(prompts.PADDING)
        yield cases.of_ids("prompts", 0, prompts.apply, weights, x, labels, padding)
    ids = review_lstm.vocabulary(splits["train"])
    for name, first in (("reviews encoder, pre-norm", True), ("reviews encoder, post-norm", False)):
        if size.has(name):
            network = Encoder(classes=2, words=len(ids) + review_lstm.FIRST, norm_first=first)
            (x, labels), (test, own) = (words(splits[part], ids) for part in ("train", "test"))
            for seed in size.seeds:
                variables = cases.fitted(network, name, x, labels, seed, 6 * size.epochs)
                part = slice(size.examples)
                yield cases.of_ids(name, seed, network.apply, variables, test[part], own[part], review_lstm.UNKNOWN)


def words(reviews, ids: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first words (N, WORDS) of each review that is no shorter, and the reviews' classes."""
    texts = [(review_lstm.tokenize(review.text, ids).ids, review.label) for review in reviews]
    chosen = [(text[:WORDS], label) for text, label in texts if len(text) >= WORDS]
    return np.array([text for text, _ in chosen], np.int32), np.array([label for _, label in chosen])


@dataclass(frozen=True, eq=False)
class Rows:
    """A table, standardised, in two halves."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def tables(size: Size) -> Iterator[Case]:
    """Yield MLPs of scikit-learn's breast cancer and wine."""
    for name, load in (("breast cancer", datasets.load_breast_cancer), ("wine", datasets.load_wine)):
        x, labels = load(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        train, test = np.array_split(order, 2)
        x = ((x - x[train].mean(0)) / x[train].std(0)).astype(np.float32)
        rows = Rows(x[train], labels[train], x[test], labels[test])
        yield from cases.of_table(size, f"{name} MLP", MLP(int(labels.max()) + 1), rows, epochs=300)


def photographs() -> list[Image.Image]:
    """Return the photographs that foolbox (samples of ImageNet), scikit-image and scikit-learn bring."""
    found, _ = image_data.imagenet()
    for folder, names in PHOTOGRAPHS.items():
        package, _, inside = folder.partition("/")
        found += [Image.open(Path(str(files(package))) / inside / name) for name in names.split()]
    return [picture.convert("RGB") for picture in found]
