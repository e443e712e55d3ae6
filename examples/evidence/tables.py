"""What was measured, as tables, as rows of a CSV file, and as figures."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
from measures import LEVELS, MEASURES, TESTS, interval, not_told_apart, rank_correlation, summary
from methods import METHODS, PRESETS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Found = dict[str, np.ndarray]  # what was measured of a case
OWN = "default"
TIE = 5e-4  # what means of one rank may differ by
WHOLE, MAPS = "of whole examples", "maps of {}"  # entries of what was measured beside curves: see evidence.py


@dataclass(frozen=True)
class Row:
    """A number with its 95 % interval, its rank among the methods, and whether it is not told from the best."""

    half: str
    family: str
    network: str
    method: str
    measure: str
    mean: float
    low: float
    high: float
    rank: int
    best: bool


def together(seeds: Sequence[Found]) -> Found:
    """Return curves, of methods that were tried with every seed, with the examples of all seeds side by side."""
    names = [name for name in METHODS if all(name in found for found in seeds)]
    return {name: np.concatenate([found[name] for found in seeds], 1) for name in names}


def rows(half: str, family: str, networks: Mapping[str, Sequence[Found]]) -> Iterator[Row]:
    for network, seeds in networks.items():
        curves = together(seeds)
        values = np.stack([summary(curve) for curve in curves.values()])  # (methods, N, measures)
        for measure, own in zip(MEASURES, np.moveaxis(values, -1, 0), strict=True):
            means, (low, high), best = own.mean(1), interval(own), not_told_apart(own)
            ranks = 1 + (means[:, None] < means - TIE).sum(1)
            for k, method in enumerate(curves):
                numbers = (round(float(value), 4) for value in (means[k], low[k], high[k]))
                yield Row(half, family, network, method, measure, *numbers, int(ranks[k]), bool(best[k]))


def markdown(found: Sequence[Row], measure: str) -> str:
    """Return a table of one family: a line for each method, a column for each network, and their mean."""
    own = [row for row in found if row.measure == measure]
    networks = list(dict.fromkeys(row.network for row in own))
    cells = {(row.method, row.network): row for row in own}
    lines = [f"| {measure} | " + " | ".join([*networks, "mean"]) + " |", "|---" * (len(networks) + 2) + "|"]
    for method in METHODS:
        chosen = [cells.get((method, network)) for network in networks]
        if any(chosen):
            shown = ["" if row is None else f"**{row.mean:.2f}**" if row.best else f"{row.mean:.2f}" for row in chosen]
            mean = "" if None in chosen else f"{np.mean([row.mean for row in chosen]):.3f}"
            lines.append(f"| {method} | " + " | ".join([*shown, mean]) + " |")
    ranks = [cells[OWN, network] for network in networks]
    of = [sum(row.network == network for row in own) for network in networks]
    shown = [f"{row.rank} of {count}" for row, count in zip(ranks, of, strict=True)]
    lines.append("| *rank of the default* | " + " | ".join([*shown, ""]) + " |")
    return "\n".join(lines)


def signs(networks: Mapping[str, Sequence[Found]]) -> str:
    """Return how much maps of presets differ, and what it does to take away what has the most negative relevance."""
    correlations, changes = [], {name: [] for name in (*PRESETS, "random")}
    level = LEVELS.index(0.1)
    for seeds in networks.values():
        for found in seeds:
            maps = [found[MAPS.format(name)] for name in PRESETS if name in found]
            correlations.append(rank_correlation(maps))
            for name in changes.keys() & found.keys():
                without = found[name][list(TESTS).index("remove the lowest"), :, level]
                changes[name].append(float((without - found[WHOLE][0]).mean()))
    means = ", ".join(f"{name} {np.mean(values):+.3f}" for name, values in changes.items() if values)
    return (
        f"Mean rank correlation between the maps of presets: {np.mean(correlations):.2f}. "
        f"Change of the predicted class's probability without the tenth of the features that ranks lowest: {means}."
    )


def write(found: Sequence[Row], file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, asdict(found[0]))
        writer.writeheader()
        writer.writerows(map(asdict, found))


def draw(networks: Mapping[str, Sequence[Found]], output: Path) -> None:
    """Write the curves of a family: a row of panels for each test, a column for each network."""
    figure, grid = plt.subplots(
        *(len(TESTS), len(networks)),
        layout="constrained",
        squeeze=False,
        sharey=True,
        figsize=(max(7.0, 2.0 * len(networks) + 0.5), 1.9 * len(TESTS) + 1.4),
    )
    others = [name for name in METHODS if name != OWN]
    colours = {OWN: "black"} | dict(zip(others, plt.colormaps["tab20"].colors, strict=False))
    for column, (network, seeds) in enumerate(networks.items()):
        curves = together(seeds)
        for line, test in enumerate(TESTS):
            axis = grid[line, column]
            for name, values in curves.items():
                wide, style = (2.2, "-") if name == OWN else (1.0, "-" if name in PRESETS else ":")
                axis.plot(LEVELS, values[line].mean(0), style, color=colours[name], label=name, linewidth=wide)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_ylim(0, 1)
            if column == 0:
                axis.set_ylabel(f"{test}:\nprobability", fontsize="small")
            if line == 0:
                axis.set_title(network, fontsize="small")
    handles = {
        label: handle for axis in grid[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=4 if len(networks) < 4 else 6, fontsize="small"
    )
    figure.savefig(output, dpi=100)
    plt.close(figure)


def overview(found: Sequence[Row], output: Path) -> None:
    """Write a panel for each family: the mean ABPC over its networks of each method that serves them all."""
    families = list(dict.fromkeys(row.family for row in found))
    figure, grid = plt.subplots(
        *(1, len(families)), layout="constrained", squeeze=False, figsize=(2.3 * len(families) + 0.4, 3.9)
    )
    for axis, family in zip(grid[0], families, strict=True):
        own = [row for row in found if row.family == family and row.measure == "ABPC"]
        networks = len({row.network for row in own})
        values = {name: [row.mean for row in own if row.method == name] for name in METHODS}
        means = {name: np.mean(many) for name, many in values.items() if len(many) == networks}
        names = sorted(means, key=means.__getitem__)
        colours = ["black" if name == OWN else "steelblue" if name in PRESETS else "silver" for name in names]
        axis.barh(range(len(names)), [means[name] for name in names], color=colours, height=0.7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.get_yticklabels()[names.index(OWN)].set_fontweight("bold")
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(f"{family} ({networks})", fontsize="small")
    figure.supxlabel("area between the perturbation curves, mean over networks", fontsize="small")
    figure.savefig(output, dpi=110)
    plt.close(figure)
