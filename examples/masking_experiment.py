"""Which maps are faithful? Networks see only the pixels that a map calls relevant, or lose those it calls adverse.

python examples/masking_experiment.py --data fashion,mnist,imagenet --seeds 3 --output out/masking

Small networks are trained on Fashion-MNIST and MNIST (checkpoints are cached); SqueezeNet 1.1 and EfficientNet-Lite0
have ImageNet's weights. Of each test image the 5 to 50 % of pixels of highest relevance for the predicted class are
kept and all others set to zero (black; grey for the networks of ImageNet), and the 5 to 50 % of lowest relevance are
set to zero. Accuracy, and the probability of the class that was predicted, become a table and curves. What is measured
on a network stays in the output's folder, so that a run which was stopped goes on from there.
"""

import argparse
import csv
import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import efficientnet_lite0
import jax
import jax.numpy as jnp
import masking_data
import matplotlib
import numpy as np
import squeezenet
from masking_networks import NETWORKS, TRAINED_ON, trained
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import jrlrp
from jrlrp import baselines, metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5)
TESTS = {  # name → options of metrics.perturbation
    "keep the highest": {"keep": True},
    "remove the lowest": {"order": "least"},
}
SCORES = ("accuracy", "probability")
DATA = ("fashion", "mnist", "imagenet")


def by_rules(rules: jrlrp.Composite) -> Callable[[Callable], Callable]:
    return lambda model: jrlrp.relevance(model, rules=rules)


METHODS: dict[str, Callable[[Callable], Callable]] = {
    "R-LRP, absolute": by_rules(jrlrp.relative()),
    "R-LRP, ratio": by_rules(jrlrp.relative("ratio")),
    "R-LRP, symmetric": by_rules(jrlrp.relative("symmetric")),
    "R-LRP-plus": by_rules(jrlrp.relative_plus()),
    "ε": by_rules(jrlrp.epsilon()),
    "ε-plus": by_rules(jrlrp.epsilon_plus()),
    "ε-plus, flat": by_rules(jrlrp.epsilon_plus_flat()),
    "ε-α2β1": by_rules(jrlrp.epsilon_alpha2_beta1()),
    "γ = 0.25": by_rules(jrlrp.Gamma()),
    "gradient × input": baselines.gradient_times_input,
    "integrated gradients": functools.partial(baselines.integrated_gradients, steps=16),
    "random": lambda model: lambda x: jax.random.normal(jax.random.key(0), x.shape),
}

# (data, network) → test → values of shape (seeds, images, methods, levels, scores)
Found = dict[tuple[str, str], dict[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Case:
    """A network that is tested: names of data and network, a seed, images and their classes, function and variables."""

    data: str
    network: str
    seed: int
    images: np.ndarray
    labels: np.ndarray
    apply: Callable
    variables: Any


@dataclass(frozen=True)
class Row:
    """A line of the results: means over images and seeds, with halves of their 95 % confidence intervals."""

    data: str
    network: str
    test: str
    method: str
    level: float
    accuracy: float
    accuracy_half: float
    probability: float
    probability_half: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=",".join(DATA), help=f"of {', '.join(DATA)}")
    parser.add_argument("--networks", default=",".join(NETWORKS), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--seeds", type=int, default=3, help="how many networks of each kind are trained")
    parser.add_argument("--images", type=int, default=1000, help="how many test images")
    parser.add_argument("--output", type=Path, default=Path("out/masking"), help="a folder for the results")
    parsed = parser.parse_args()
    for name, known in (("data", DATA), ("networks", NETWORKS)):
        chosen = [part.strip() for part in getattr(parsed, name).split(",")]
        setattr(parsed, name, chosen)
        for part in chosen:
            if part not in known:
                parser.error(f"--{name} {part!r}: expected some of {', '.join(known)}")
    if parsed.seeds < 1 or not 1 <= parsed.images <= 2500:
        parser.error("expected at least one seed, and 1 to 2500 images")
    return parsed


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield the networks to test, training those that the cache lacks."""
    load = {"fashion": functools.partial(masking_data.fashion_mnist, TRAINED_ON), "mnist": masking_data.mnist}
    for data in options.data:
        if data == "imagenet":
            yield from imagenet_cases()
            continue
        images = load[data](options.images)
        for name in options.networks:
            for seed in range(options.seeds):
                variables = trained(name, data, images, seed)
                yield Case(data, name, seed, images.test, images.test_labels, NETWORKS[name].apply, variables)
            jax.clear_caches()


def imagenet_cases() -> Iterator[Case]:
    pictures, labels = masking_data.imagenet()
    for name, network, module in (
        ("SqueezeNet", squeezenet.SqueezeNet(), squeezenet),
        ("EfficientNet", efficientnet_lite0.EfficientNetLite0(), efficientnet_lite0),
    ):
        crops = [efficientnet_lite0.crop(picture, module.SIZE) for picture in pictures]
        images = np.concatenate([module.preprocess(crop) for crop in crops])
        yield Case("imagenet", name, 0, images, labels, network.apply, module.load())
        jax.clear_caches()


@functools.cache
def explainer(apply: Callable, method: str) -> Callable[[Any, jax.Array], jax.Array]:
    """Return the function of variables and images that returns maps, compiled once for all seeds."""
    return jax.jit(lambda variables, x: METHODS[method](functools.partial(apply, variables))(x).sum(-1))


def score(out: jax.Array, classes: jax.Array) -> jax.Array:
    """Return whether the true class is highest, and the probability of the one that the whole image had."""
    true, seen = jnp.divmod(classes, out.shape[-1])  # one number says both
    probability = jnp.take_along_axis(jax.nn.softmax(out), seen[:, None], -1)[:, 0]
    return jnp.stack([out.argmax(-1) == true, probability], axis=-1)


def evaluate(case: Case) -> dict[str, np.ndarray]:
    """Return for each test values of shape (methods, images, levels, 2), as `score` has them.

    Beside them are the methods' names, and as "whole", which images are right as they are.
    """
    batch = 100 if case.images[0].size < 10_000 else 10
    parts = np.array_split(case.images, max(len(case.images) // batch, 1))
    logits = np.concatenate([jax.jit(case.apply)(case.variables, part) for part in parts])
    seen = logits.argmax(-1)
    model = jax.tree_util.Partial(case.apply, case.variables)
    same = {"levels": LEVELS, "score": score, "target": case.labels * logits.shape[1] + seen, "batch_size": 5 * batch}
    found: dict[str, list[np.ndarray]] = {test: [] for test in TESTS}
    for method in tqdm(METHODS, desc=f"{case.data}, {case.network}, seed {case.seed}", leave=False):
        explain = explainer(case.apply, method)
        relevance = np.concatenate([explain(case.variables, part) for part in parts])
        for test, options in TESTS.items():
            found[test].append(metrics.perturbation(model, case.images, relevance, **same, **options).values)
    tests = {test: np.stack(values) for test, values in found.items()}
    return {"methods": np.array(list(METHODS)), "whole": seen == case.labels, **tests}


def measured(case: Case, folder: Path) -> dict[str, np.ndarray]:
    """Return what `evaluate` says of a case, out of the folder if it lies there with the same methods."""
    file = folder / f"{case.data}-{case.network}-{case.seed}-{len(case.images)}.npz"
    if file.exists():
        found = dict(np.load(file))
        if list(found["methods"]) == list(METHODS):
            return found
    found, part = evaluate(case), file.with_suffix(".part.npz")
    np.savez_compressed(part, **found)
    part.replace(file)
    return found


def together(measured: dict[tuple[str, str], list[dict[str, np.ndarray]]]) -> Found:
    """Return what `evaluate` says of each seed as one array for each network and test."""
    return {
        network: {test: np.stack([np.moveaxis(values[test], 0, 1) for values in seeds]) for test in TESTS}
        for network, seeds in measured.items()
    }


def mean_and_half(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means of (seeds, images, ...) and halves of their 95 % confidence intervals.

    The variance of a mean is that between images over their number, and that between seeds over theirs.
    """
    variance = values.mean(0).var(0) / values.shape[1]
    if len(values) > 1:
        variance = variance + values.mean(1).var(0, ddof=1) / len(values)
    return values.mean((0, 1)), 1.96 * np.sqrt(variance)


def summarise(found: Found) -> list[Row]:
    """Return the rows of what was measured with each seed on each network of each data."""
    rows = []
    for (data, network), tests in found.items():
        for test, values in tests.items():
            means, halves = mean_and_half(values)
            for method, at_levels in zip(METHODS, np.stack([means, halves], -1).tolist(), strict=True):
                for level, (right, probable) in zip(LEVELS, at_levels, strict=True):
                    rows.append(Row(data, network, test, method, level, *right, *probable))
    return rows


def show(console: Console, found: Found, test: str, score: str) -> None:
    """Print the means over levels: a line for each method, a column for each network.

    Bold are the highest of a column and those that paired differences do not tell from it.
    """
    title = f"{test}: {score}, mean over {', '.join(f'{level:.0%}' for level in LEVELS)} of the pixels"
    table = Table("method", *map(" ".join, found), "mean", title=title, box=box.MARKDOWN)
    columns = [tests[test][..., SCORES.index(score)].mean(-1) for tests in found.values()]  # (seeds, images, methods)
    means = np.array([values.mean((0, 1)) for values in columns])
    cells = [[f"{mean:.2f}" for mean in column] for column in (*means, means.mean(0))]
    for column, values, mean in zip(cells, columns, means, strict=False):
        behind, half = mean_and_half(values[..., [mean.argmax()]] - values)
        for k in np.flatnonzero(behind <= half):
            column[k] = f"**{column[k]}**"
    for method, *row in zip(METHODS, *cells, strict=True):
        table.add_row(method, *row)
    console.print(table)


def draw(rows: list[Row], output: Path) -> None:
    """Write the curves of accuracy: a panel for each network and test, at most five networks beside each other."""
    networks = list(dict.fromkeys((row.data, row.network) for row in rows))
    wide, high = min(len(networks), 5), -(-len(networks) // 5) * len(TESTS)
    figure, grid = plt.subplots(
        high, wide, layout="constrained", squeeze=False, sharey=True, figsize=(2.1 * wide + 0.5, 1.9 * high + 0.9)
    )
    colours = dict(zip(METHODS, (*plt.colormaps["tab10"].colors, "gold", "black"), strict=False))
    for axis in grid.flat[len(networks) * len(TESTS) :]:
        axis.set_visible(False)
    for k, (data, network) in enumerate(networks):
        for line, test in enumerate(TESTS):
            axis = grid[k // wide * len(TESTS) + line, k % wide]
            for method, colour in colours.items():
                own = [
                    row
                    for row in rows
                    if (row.data, row.network, row.test, row.method) == (data, network, test, method)
                ]
                mean, half = (np.array([getattr(row, name) for row in own]) for name in ("accuracy", "accuracy_half"))
                style = "-" if "LRP" in method else "--" if method[0] in "εγ" else ":"
                axis.plot(LEVELS, mean, style, color=colour, label=method, linewidth=1.3)
                axis.fill_between(LEVELS, mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_ylim(0, 1)
            if k % wide == 0:
                axis.set_ylabel(f"{test}:\naccuracy", fontsize="small")
            if line == 0:
                axis.set_title(f"{data} {network}", fontsize="small")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize="small")
    figure.savefig(output, dpi=100)
    plt.close(figure)


def main() -> None:
    options, console = arguments(), Console(highlight=False, width=250)
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    seeds: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    for case in cases(options):
        values = measured(case, folder)
        seeds.setdefault((case.data, case.network), []).append(values)
        console.print(f"{case.data}, {case.network}, seed {case.seed}: {values['whole'].mean():.1%} are right")
    found = together(seeds)
    rows = summarise(found)
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, asdict(rows[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in asdict(row).items()} for row in rows)
    for test in TESTS:
        for score in SCORES:
            show(console, found, test, score)
    draw(rows, folder / "curves.png")
    console.print(f"The table and the curves are in {folder}")


if __name__ == "__main__":
    main()
