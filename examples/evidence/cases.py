"""What is explained: a network, and the examples that it is tested on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import image_data
import image_networks
import jax
import jax.numpy as jnp
import numpy as np
from packaged import keep
from reviews import Reader, Review
from series import Series
from training import train


@dataclass(frozen=True, eq=False)
class Case:
    """A network and its test examples.

    Attributes:
      name: of data and network.
      seed: that it was trained with.
      apply: a function of variables and examples that returns logits (N, classes).
      variables: its weights.
      x: the examples, (N, ...), numbers or ids.
      labels: their classes, None where there are none.
      within: the axes of x that belong to one feature, colours of a pixel say.
      region: the side of the windows that are kept or removed as a whole.
      replace: what a feature becomes that is taken away.
      bounds: of the inputs, None for ids.
      batch: how many examples are explained at once.
      small: whether methods of many evaluations are tried too.
    """

    name: str
    seed: int
    apply: Callable
    variables: Any
    x: np.ndarray
    labels: np.ndarray | None
    within: tuple[int, ...] = (-1,)
    region: int = 1
    replace: Any = "zero"
    bounds: tuple[float, float] | None = (0.0, 1.0)
    batch: int = 100
    small: bool = False

    @property
    def model(self) -> Callable:
        return jax.tree_util.Partial(self.apply, self.variables)


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
      examples: of each network, if there are as many.
      seeds: each network that is trained here is trained with each of them.
      networks: names of the only ones that are tried; all of them, if there are none.
      images: that the networks of images are trained on.
      epochs: what part of its epochs each network is trained for.
    """

    examples: int
    seeds: Sequence[int] = (0,)
    networks: Sequence[str] = ()
    images: int = image_networks.TRAINED_ON
    epochs: float = 1.0

    def has(self, name: str) -> bool:
        return not self.networks or name in self.networks


Family = Callable[[Size], Iterator[Case]]


def of_images(size: Size, data: str, names: Sequence[str], skipped: int = 0) -> Iterator[Case]:
    """Yield networks of Fashion-MNIST or MNIST, with test images after some that are skipped."""
    names = [name for name in names if size.has(f"{data} {name}")]
    if not names:
        return
    if data == "Fashion":
        images, epochs = image_data.fashion_mnist(size.images, skipped + size.examples), size.epochs
    else:  # it has fewer images
        images, epochs = image_data.mnist(test=1000), 3 * size.epochs
    part = slice(skipped, skipped + size.examples)
    for name in names:
        apply = image_networks.NETWORKS[name].network.apply
        for seed in size.seeds:
            variables = image_networks.trained(name, data, images, seed, epochs)
            x, labels = images.test[part], images.test_labels[part]
            yield Case(f"{data} {name}", seed, apply, variables, x, labels, small=True)


def of_series(size: Size, name: str, network: nn.Module, data: Series, epochs: int) -> Iterator[Case]:
    """Yield a network of series; windows are a twelfth of a series."""
    if size.has(name):
        options = {"bounds": data.bounds, "region": max(1, data.test.shape[1] // 12), "small": True}
        part = slice(size.examples)
        for seed in size.seeds:
            variables = fitted(network, name, data.train, data.train_labels, seed, epochs * size.epochs)
            yield Case(name, seed, network.apply, variables, data.test[part], data.test_labels[part], **options)


def of_table(size: Size, name: str, network: nn.Module, data: Any, epochs: int) -> Iterator[Case]:
    """Yield a network of tables, rows (N, features), standardised, with `train`, `test` and their labels."""
    if size.has(name):
        part, bounds = slice(size.examples), (float(data.train.min()), float(data.train.max()))
        for seed in size.seeds:
            variables = fitted(network, name, data.train, data.train_labels, seed, epochs * size.epochs)
            x, labels = data.test[part], data.test_labels[part]
            yield Case(name, seed, network.apply, variables, x, labels, within=(), bounds=bounds, small=True)


def of_reader(size: Size, name: str, reader: Reader, reviews: Sequence[Review], length: int, unknown: int) -> Case:
    """Return a reader of reviews, with the first that are no shorter than a length, cut to it (a last mark stays)."""
    ids, labels = [], []
    for review in reviews:
        found = reader.tokenize(review.text)
        if len(found.ids) >= length and len(ids) < size.examples:
            last = found.ids[-1] if found.marks[-1] else found.ids[length - 1]
            ids.append([*found.ids[: length - 1], last])
            labels.append(review.label)
    logits = jax.tree_util.Partial(reader.logits)
    return of_ids(name, 0, _whole, logits, np.array(ids, np.int32), np.array(labels), unknown)


def of_ids(
    name: str, seed: int, apply: Callable, variables: Any, x: np.ndarray, labels: np.ndarray, unknown: int
) -> Case:
    """Return a case whose examples are ids; what is taken away becomes an id, too."""
    return Case(name, seed, apply, variables, x, labels, within=(), replace=unknown, bounds=None, batch=50)


def _whole(logits: Callable, ids: jax.Array) -> jax.Array:
    return logits(ids, jnp.full(len(ids), ids.shape[1]))


def fitted(network: nn.Module, name: str, x: np.ndarray, labels: np.ndarray, seed: int, epochs: float) -> Any:
    """Return a network's variables out of the cache, trained now if it lacks them."""
    count = max(1, round(epochs))
    make = partial(train, network, x, labels, seed=seed, epochs=count, rate=1e-3, title=name)
    return keep(f"{name}-{len(x)}-{count}-{seed}.msgpack", make)
