"""Explain a time series: which moments make a small network see a gun drawn, and which a finger that points.

python examples/explain_series.py --rules default,epsilon --output out/series.png

Data: GunPoint, the position of an actor's right hand over time, in PyPI package aeon (BSD-3).
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import presets
from packaged import Wheel
from pictures import save
from rich.console import Console
from training import fit

import jrlrp
from jrlrp import plot

DATA = Wheel(
    "aeon==1.6.0",
    "aeon-1.6.0-py3-none-any.whl",
    "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
)
CLASSES = ("gun", "point")  # the data call them 1 and 2
STEPS, RATE, SHIFT, NOISE = 300, 3e-3, 10, 0.02
PRESETS = {
    "default": jrlrp.default,
    "relative_plus": jrlrp.relative_plus,
    "relative": jrlrp.relative,
    "epsilon": jrlrp.epsilon,
    "epsilon_plus": jrlrp.epsilon_plus,
    "epsilon_alpha2_beta1": jrlrp.epsilon_alpha2_beta1,
    "gradient_times_input": jrlrp.gradient_times_input,
}


class SeriesCNN(nn.Module):
    """Series (N, T, 1) to logits (N, 2): convolutions, their maxima over time, a dense layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features, window in ((16, 9), (32, 7), (32, 5)):
            x = nn.relu(nn.Conv(features, (window,), padding="VALID")(x))
        return nn.Dense(len(CLASSES))(x.max(1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rules", default="default,epsilon", help=f"presets, of {', '.join(PRESETS)}")
    parser.add_argument("--number", type=int, default=3, help="which test series of each class is drawn")
    parser.add_argument("--output", type=Path, default=Path("out/series.png"), help="where the pictures go")
    parsed = parser.parse_args()
    parsed.rules = presets.chosen(parser, parsed.rules, PRESETS)
    if not 0 <= parsed.number < 70:
        parser.error(f"--number {parsed.number}: expected 0 to 69")
    return parsed


def load(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the TRAIN or TEST series, of shape (N, 150, 1), and their classes."""
    text = DATA.read(f"aeon/datasets/data/GunPoint/GunPoint_{part}.ts").decode()
    rows = [line.split(":") for line in text.split("@data")[1].split()]
    series = np.array([[float(value) for value in values.split(",")] for values, _ in rows], np.float32)
    return series[..., None], np.array([int(label) - 1 for _, label in rows])


def train(model: SeriesCNN, x: np.ndarray, labels: np.ndarray) -> Any:
    """Return parameters; the training series are moved in time and disturbed a little, anew in each step."""

    def loss(parameters, key):
        for_shift, for_noise = jax.random.split(key)
        shifts = jax.random.randint(for_shift, (len(x),), -SHIFT, SHIFT + 1)
        padded = jnp.pad(x, ((0, 0), (SHIFT, SHIFT), (0, 0)), mode="edge")
        moved = jax.vmap(lambda one, by: jax.lax.dynamic_slice_in_dim(one, SHIFT + by, x.shape[1]))(padded, shifts)
        seen = moved + NOISE * jax.random.normal(for_noise, x.shape)
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(parameters, seen), labels).mean()

    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    return fit(loss, model.init(jax.random.key(0), x), optimiser, STEPS)


def score(model: SeriesCNN, parameters: Any) -> Callable[[jax.Array], jax.Array]:
    """Return the function that is explained: the logit of gun minus that of point."""
    return lambda x: model.apply(parameters, x) @ jnp.array([1.0, -1.0])


def main() -> None:
    options, console = arguments(), Console(highlight=False)
    x, labels = load("TRAIN")
    test, expected = load("TEST")
    model = SeriesCNN()
    parameters = train(model, x, labels)
    logits = jax.jit(model.apply)(parameters, test)
    right = float((logits.argmax(-1) == expected).mean())
    console.print(f"Trained on {len(x)} series; right in {right:.1%} of {len(test)} others.")

    chosen = [np.flatnonzero(expected == k)[options.number] for k in range(len(CLASSES))]
    probabilities = jax.nn.softmax(logits[np.array(chosen)])
    titles = [
        f"“{CLASSES[k]}”, seen as {CLASSES[int(p.argmax())]} ({p.max():.1%})" for k, p in enumerate(probabilities)
    ]
    fn, maps = score(model, parameters), {}
    for name in options.rules:
        relevance = jax.jit(jrlrp.relevance(fn, rules=PRESETS[name](), target="all"))(test[chosen])
        maps[name] = np.asarray(relevance[..., 0])
        for title, values in zip(titles, maps[name], strict=True):
            gun, point = values.clip(0).sum(), values.clip(max=0).sum()
            console.print(f"{presets.TITLES[name]}, {title}: {gun:.3g} for gun and {-point:.3g} for point")
    for k, (kind, title) in enumerate(zip(CLASSES, titles, strict=True)):
        shown = {presets.TITLES[name]: relevance[k] for name, relevance in maps.items()}
        figure = plot.series(
            test[chosen[k], :, 0], shown, title=f"{title}: red for {CLASSES[0]}, blue for {CLASSES[1]}"
        )
        save(figure, options.output.with_stem(f"{options.output.stem}-{kind}"), console)


if __name__ == "__main__":
    main()
