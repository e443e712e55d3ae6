"""Networks for the 32 × 32 images of Fashion-MNIST and MNIST, likenesses of those of the papers, a few MB each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from image_data import Images
from packaged import keep
from training import train

CLASSES = 10
TRAINED_ON = 20_000
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


def patches(x: jax.Array, side: int) -> jax.Array:
    """Return images (N, height, width, channels) as tokens (N, patches, pixels of a patch)."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // side, side, width // side, side, channels).swapaxes(2, 3)
    return x.reshape(n, (height // side) * (width // side), side * side * channels)


class Attention(nn.Module):
    """Self-attention and two dense layers, each with a layer norm before it and added to its input."""

    heads: int
    inner: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
        y = nn.gelu(nn.Dense(self.inner)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(y)


class ViT(nn.Module):
    """Patches of 4 × 4 pixels, position embeddings, blocks of attention, the mean of the tokens."""

    features: int = 64
    blocks: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        x = nn.Dense(self.features)(patches(x, 4))
        x = x + self.param("positions", nn.initializers.normal(0.02), x.shape[1:])
        for _ in range(self.blocks):
            x = Attention(heads=4, inner=2 * self.features)(x)
        return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


class Mixer(nn.Module):
    """MLP-Mixer: dense layers over the patches, then over the features, each added to its input."""

    features: int = 64
    over_patches: int = 64
    blocks: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        x = nn.Dense(self.features)(patches(x, 4))
        for _ in range(self.blocks):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            y = nn.Dense(y.shape[-1])(nn.gelu(nn.Dense(self.over_patches)(y)))
            x = x + y.swapaxes(1, 2)
            x = x + nn.Dense(self.features)(nn.gelu(nn.Dense(2 * self.features)(nn.LayerNorm()(x))))
        return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


class ConvAttention(nn.Module):
    """Convolutions and max-pools, then two blocks of attention over what is left of the image."""

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        for features in (16, 32, 64):
            x = nn.relu(nn.Conv(features, (3, 3), kernel_init=nn.initializers.he_normal())(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1, x.shape[-1])
        x = x + self.param("positions", nn.initializers.normal(0.02), x.shape[1:])
        for _ in range(2):
            x = Attention(heads=4, inner=128)(x)
        return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


class DepthwiseCNN(nn.Module):
    """Depthwise and 1 × 1 convolutions with batch norm, four times, and the mean over the image."""

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        norm = lambda y: nn.BatchNorm(use_running_average=not training, momentum=0.9)(y)
        x = nn.relu(norm(nn.Conv(24, (3, 3), use_bias=False)(x)))
        for features, stride in ((32, 2), (48, 1), (64, 2), (96, 1)):
            groups = x.shape[-1]
            x = nn.relu(norm(nn.Conv(groups, (3, 3), (stride, stride), feature_group_count=groups, use_bias=False)(x)))
            x = nn.relu(norm(nn.Conv(features, (1, 1), use_bias=False)(x)))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class GroupNormResNet(nn.Module):
    """Like ResNet-18: two 3 × 3 convolutions in each of eight blocks, group norms, skips."""

    widths: Sequence[int] = (16, 24, 32, 48)

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        conv = lambda y, features, stride=1: nn.Conv(features, (3, 3), (stride, stride), use_bias=False)(y)
        norm = lambda y: nn.GroupNorm(num_groups=4)(y)
        x = nn.relu(norm(conv(x, self.widths[0])))
        for stage, features in enumerate(self.widths):
            for k in range(2):
                stride = 2 if stage and k == 0 else 1
                y = norm(conv(nn.relu(norm(conv(x, features, stride))), features))
                if x.shape != y.shape:
                    x = norm(nn.Conv(features, (1, 1), (stride, stride), use_bias=False)(x))
                x = nn.relu(x + y)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


@dataclass(frozen=True)
class Recipe:
    """A network, and how it is trained on 20,000 images: for how many epochs, up to which rate."""

    network: nn.Module
    epochs: int = 4
    rate: float = 2e-3


NETWORKS = {
    "CNN": Recipe(CNN()),
    "VGG16-like": Recipe(VGG((2, 2, 3, 3, 3))),
    "VGG19-like": Recipe(VGG((2, 2, 4, 4, 4))),
    "ResNet50-like": Recipe(ResNet50()),
    "depthwise CNN": Recipe(DepthwiseCNN()),
    "ResNet18-like, group norms": Recipe(GroupNormResNet()),
    "ViT": Recipe(ViT(), epochs=8, rate=1e-3),
    "MLP-Mixer": Recipe(Mixer(), epochs=8, rate=1e-3),
    "MLP-Mixer, other widths": Recipe(Mixer(features=96, over_patches=32, blocks=3), epochs=8, rate=1e-3),
    "ConvNet with attention": Recipe(ConvAttention(), epochs=8, rate=1e-3),
}


def trained(name: str, data: str, images: Images, seed: int, epochs: float = 1.0) -> Any:
    """Return a network's variables out of the cache, trained now if it lacks them; `epochs` multiplies the recipe's."""
    recipe = NETWORKS[name]
    count = max(1, round(recipe.epochs * epochs))
    file = f"{data}-{name}-{len(images.train)}-{count}-{seed}.msgpack"
    make = partial(
        train, recipe.network, images.train, images.train_labels, seed=seed, epochs=count, rate=recipe.rate, title=name
    )
    return keep(file, make)
