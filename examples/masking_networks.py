"""The networks that the masking experiment trains: a CNN and likenesses of VGG16, VGG19 and ResNet-50, for 32 × 32."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from masking_data import Images
from packaged import keep
from tqdm import tqdm

CLASSES = 10
TRAINED_ON, BATCH, RATE = 20_000, 128, 2e-3
EPOCHS = {"fashion": 4, "mnist": 12}
NORMAL = nn.initializers.he_normal()


class CNN(nn.Module):
    """Two convolutions and two dense layers."""

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        for features in (16, 32):
            x = nn.relu(nn.Conv(features, (3, 3), kernel_init=NORMAL)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(64, kernel_init=NORMAL)(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES)(x)


class VGG(nn.Module):
    """Five stages of 3 × 3 convolutions, each ended by a max-pool, and three dense layers, an eighth as wide."""

    stages: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        for count, features in zip(self.stages, (8, 16, 32, 64, 64), strict=True):
            for _ in range(count):
                x = nn.relu(nn.Conv(features, (3, 3), kernel_init=NORMAL)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(64, kernel_init=NORMAL)(x))
        return nn.Dense(CLASSES)(x)


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolutions with batch norm, added to their input."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:
        norm = lambda y, **options: nn.BatchNorm(use_running_average=not training, momentum=0.9, **options)(y)
        conv = lambda y, features, window, stride=1: nn.Conv(
            features, (window, window), (stride, stride), use_bias=False, kernel_init=NORMAL
        )(y)
        y = nn.relu(norm(conv(x, self.features, 1)))
        y = nn.relu(norm(conv(y, self.features, 3, self.stride)))
        y = norm(conv(y, 4 * self.features, 1), scale_init=nn.initializers.zeros)  # a block begins as its skip
        if x.shape != y.shape:
            x = norm(conv(x, 4 * self.features, 1, self.stride))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """Sixteen bottleneck blocks, an eighth as wide, behind a 3 × 3 convolution and a max-pool."""

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        x = nn.Conv(8, (3, 3), use_bias=False, kernel_init=NORMAL)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not training, momentum=0.9)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for stage, (count, features) in enumerate(zip((3, 4, 6, 3), (8, 16, 32, 64), strict=True)):
            for k in range(count):
                x = Bottleneck(features, stride=2 if k == 0 and stage else 1)(x, training)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


NETWORKS = {
    "CNN": CNN(),
    "VGG16-like": VGG((2, 2, 3, 3, 3)),
    "VGG19-like": VGG((2, 2, 4, 4, 4)),
    "ResNet50-like": ResNet50(),
}


def trained(name: str, data: str, images: Images, seed: int) -> Any:
    """Return a network's variables out of the cache, trained now if it lacks them; `data` is a key of EPOCHS."""
    file = f"masking-{data}-{name}-{len(images.train)}-{EPOCHS[data]}-{seed}.msgpack"
    return keep(file, partial(train, name, images, seed, EPOCHS[data]))


def train(name: str, images: Images, seed: int, epochs: int) -> Any:
    """Return a network's trained variables."""
    network = NETWORKS[name]
    variables = jax.jit(network.init)(jax.random.key(seed), images.train[:1])
    count = len(images.train) // BATCH
    optimiser = optax.adamw(optax.cosine_onecycle_schedule(epochs * count, RATE), weight_decay=1e-4)
    state = optimiser.init(variables["params"])

    @jax.jit
    def step(variables, state, x, labels):
        def loss(params):
            logits, updated = network.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        (value, updated), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, state = optimiser.update(gradient, state, variables["params"])
        return {**updated, "params": optax.apply_updates(variables["params"], updates)}, state, value

    random = np.random.default_rng(seed)
    with tqdm(total=epochs * count, desc=f"{name}, seed {seed}", unit="step") as bar:
        for _ in range(epochs):
            order = random.permutation(len(images.train))
            for k in range(count):
                rows = order[k * BATCH : (k + 1) * BATCH]
                variables, state, value = step(variables, state, images.train[rows], images.train_labels[rows])
                bar.update()
        bar.set_postfix(loss=f"{float(value):.3f}")
    return jax.device_get(variables)
