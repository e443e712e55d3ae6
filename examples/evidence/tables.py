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
HALVES = {"choose": "{}", "confirm": "*{}*", "photographs": "{}"}  # how their networks are printed
BOLD = {True: "**{}**", False: "{}"}
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
    """Return a table of one family: a line for each method, a column for each network, and the mean of each half."""
    own = [row for row in found if row.measure == measure]
    halves = {half: list(dict.fromkeys(row.network for row in own if row.half == half)) for half in HALVES}
    halves = {half: networks for half, networks in halves.items() if networks}
    cells = {(row.method, row.network): row for row in own}
    titles = [HALVES[half].format(name) for half, networks in halves.items() for name in (*networks, "mean")]
    lines = [f"| {measure} | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for method in METHODS:
        shown = []
        for networks in halves.values():
            chosen = [cells.get((method, network)) for network in networks]
            shown += ["" if row is None else BOLD[row.best].format(f"{row.mean:.2f}") for row in chosen]
            shown += ["" if None in chosen else f"{np.mean([row.mean for row in chosen]):.3f}"]
        lines += ["| " + " | ".join([method, *shown]) + " |"] * any(shown)
    ranks = []
    for networks in halves.values():
        counts = [sum(row.network == network for row in own) for network in networks]
        ranks += [f"{cells[OWN, name].rank} of {count}" for name, count in zip(networks, counts, strict=True)] + [""]
    return "\n".join([*lines, "| " + " | ".join(["*rank of the default*", *ranks]) + " |"])


def read(file: Path) -> list[Row]:
    """Return the rows of a CSV file that `write` wrote."""
    with file.open(encoding="utf-8") as opened:
        found = list(csv.DictReader(opened))
    numbers = {"mean": float, "low": float, "high": float, "rank": int, "best": "True".__eq__}
    return [Row(**{name: numbers.get(name, str)(value) for name, value in row.items()}) for row in found]


def report(folder: Path) -> str:
    """Return a table of ABPC for each family, with what was measured in both halves, as far as it lies in a folder."""
    files = [folder / f"{half}.csv" for half in HALVES]
    found = [row for file in files if file.exists() for row in read(file)]
    families = list(dict.fromkeys(row.family for row in found))
    parts = [(f"## {name.capitalize()}", markdown([r for r in found if r.family == name], "ABPC")) for name in families]
    return "\n\n".join(text for part in parts for text in part) + "\n"


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
