"""Explain a visual inspection: where a small network sees scratches, pits and dents in brushed metal.

python examples/defect_inspection.py --rules relative,epsilon_plus --output out/defects.png

The pictures are made here, with masks of their defects, so that what an explanation finds can be told from what is
there.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import presets
import surfaces
from packaged import keep
from pictures import save
from rich import box
from rich.console import Console
from rich.table import Table
from surfaces import KINDS, RANGE, Surfaces
from tqdm import tqdm
from training import fit

import jrlrp
from jrlrp import metrics, plot

TRAIN, TEST, BATCH, STEPS, RATE = 4000, 1000, 32, 800, 3e-3
EXPLAINED = 300  # pictures of defects, and as many of good surfaces
PRESETS = {  # without ε, which is gradient × input in a network of ReLUs
    "default": jrlrp.default,
    "relative_plus": jrlrp.relative_plus,
    "relative": jrlrp.relative,
    "epsilon_plus": jrlrp.epsilon_plus,
    "epsilon_gamma_box": functools.partial(jrlrp.epsilon_gamma_box, -RANGE, RANGE),
    "epsilon_alpha2_beta1": jrlrp.epsilon_alpha2_beta1,
    "deep_taylor": functools.partial(jrlrp.deep_taylor, -RANGE, RANGE),
    "gradient_times_input": jrlrp.gradient_times_input,
}


class DefectCNN(nn.Module):
    """Pictures (N, 64, 64, 1) to logits (N, 2) of good and defective."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features, side in ((12, 5), (24, 3), (32, 3)):
            x = nn.max_pool(nn.relu(nn.Conv(features, (side, side))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Conv(48, (3, 3))(x)).max((1, 2))
        return nn.Dense(2)(x)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rules", default=",".join(PRESETS), help=f"presets, of {', '.join(PRESETS)}")
    parser.add_argument("--number", type=int, default=0, help="which test picture of each kind is drawn")
    parser.add_argument("--output", type=Path, default=Path("out/defects.png"), help="where the picture goes")
    parser.add_argument("--retrain", action="store_true", help="train the network again")
    parsed = parser.parse_args()
    parsed.rules = presets.chosen(parser, parsed.rules, PRESETS)
    if not 0 <= parsed.number < 20:
        parser.error(f"--number {parsed.number}: expected 0 to 19")
    return parsed


def train(model: DefectCNN, data: Surfaces) -> Any:
    """Return parameters; the pictures are turned over at random."""
    pictures, labels = jnp.asarray(data.pictures), jnp.asarray(data.kinds > 0, jnp.int32)

    def loss(parameters, key):
        for_rows, for_turns = jax.random.split(key)
        rows = jax.random.randint(for_rows, (BATCH,), 0, len(pictures))
        turns = jax.random.bernoulli(for_turns, 0.5, (2, BATCH, 1, 1, 1))
        seen = jnp.where(turns[0], pictures[rows], pictures[rows, ::-1])
        seen = jnp.where(turns[1], seen, seen[:, :, ::-1])
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(parameters, seen), labels[rows]).mean()

    optimiser = optax.adam(optax.cosine_onecycle_schedule(STEPS, RATE))
    return fit(loss, jax.jit(model.init)(jax.random.key(0), pictures[:1]), optimiser, STEPS)


def score(model: DefectCNN, parameters: Any) -> Callable[[jax.Array], jax.Array]:
    """Return the function that is explained, the logit of defective minus that of good: blue is for good."""
    return lambda x: model.apply(parameters, x) @ jnp.array([-1.0, 1.0])


def explained(fn: Callable, rules: Sequence[str], pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Return maps (N, side, side) of pictures by each preset."""
    found = {}
    for name in tqdm(rules, desc=f"explaining {len(pictures)} pictures"):
        relevance = jax.jit(jrlrp.relevance(fn, rules=PRESETS[name](), target="all"))(pictures)
        found[presets.TITLES[name]] = np.asarray(relevance[..., 0])
    return found


def mean(values: np.ndarray, form: str = ".2f") -> str:
    """Return the mean with its standard error."""
    values = np.asarray(values, float)
    return f"{values.mean():{form}} ± {values.std() / np.sqrt(max(len(values), 1)):{form}}" if len(values) else "–"


def localisation(maps: dict[str, np.ndarray], masks: np.ndarray) -> Table:
    """Return a table of how well the maps of defective surfaces find the defect."""
    title = f"{len(masks)} defective surfaces that were recognised: {masks.mean():.1%} is defect"
    table = Table("rule", "pointing game", "mass within", "rank within", title=title, box=box.MARKDOWN)
    for name, found in maps.items():
        measures = (metrics.pointing_game, metrics.mass_within, metrics.rank_within)
        table.add_row(name, *(mean(measure(found, masks)) for measure in measures))
    return table


def against(maps: dict[str, np.ndarray], scores: np.ndarray, data: Surfaces) -> Table:
    """Return a table of what speaks against a defect: sums where there is none, negative relevance where there is."""
    bad, good = data.kinds > 0, data.kinds == 0
    title = f"What speaks against a defect, in {good.sum()} recognised good surfaces and in the others"
    head = ("rule", "good: Σ R", "Σ R < 0", "defective: Σ R", "R < 0 outside the defect")
    table = Table(*head, title=title, box=box.MARKDOWN)
    for name, found in maps.items():
        sums, negative = found.sum((1, 2)), np.maximum(-found[bad], 0)
        outside = 1 - metrics.mass_within(negative, data.masks[bad])[negative.any((1, 2))]
        table.add_row(name, mean(sums[good]), f"{(sums[good] < 0).mean():.0%}", mean(sums[bad]), mean(outside))
    table.add_row("the score itself", mean(scores[good]), f"{(scores[good] < 0).mean():.0%}", mean(scores[bad]), "–")
    return table


def main() -> None:
    options, console = arguments(), Console(highlight=False)
    model, test = DefectCNN(), surfaces.make(TEST, seed=1)
    parameters = keep("defect-cnn.msgpack", lambda: train(model, surfaces.make(TRAIN, seed=0)), options.retrain)
    fn = score(model, parameters)
    scores = np.asarray(jax.jit(fn)(test.pictures))
    right = (scores > 0) == (test.kinds > 0)
    parts = ", ".join(f"{name} {right[test.kinds == k].mean():.1%}" for k, name in enumerate(KINDS))
    console.print(f"Right on {right.mean():.1%} of {TEST} test surfaces: {parts}.\n")

    rows = [np.flatnonzero(right & of)[:EXPLAINED] for of in (test.kinds > 0, test.kinds == 0)]
    data, scores = test[np.concatenate(rows)], scores[np.concatenate(rows)]
    maps = explained(fn, options.rules, data.pictures)
    measured = {**maps, "random": np.random.default_rng(0).normal(size=data.masks.shape)}
    bad = data.kinds > 0
    console.print(localisation({name: found[bad] for name, found in measured.items()}, data.masks[bad]))
    console.print(against(measured, scores, data))

    chosen = np.array([np.flatnonzero(data.kinds == k)[options.number] for k in (1, 2, 3, 0)])
    titles = [f"{KINDS[data.kinds[k]]}\n{nn.sigmoid(scores[k]):.1%} defective" for k in chosen]
    shown, drawn = data[chosen], {name: found[chosen] for name, found in maps.items()}
    figure = plot.heatmaps(drawn, shown.pictures, masks=shown.masks, titles=titles, size=1.8, power=0.7)
    save(figure, options.output, console)


if __name__ == "__main__":
    main()
