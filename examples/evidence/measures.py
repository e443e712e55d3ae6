"""How faithful maps are: what a network makes of the features that they rank highest, or lowest."""

from collections.abc import Sequence

import jax
import numpy as np
from cases import Case
from methods import Explain

import jrlrp
from jrlrp import metrics

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5)
TESTS = {  # name → options of metrics.perturbation
    "keep the highest": {"keep": True},  # insertion
    "remove the lowest": {"order": "least"},
    "remove the highest": {},  # deletion
}
MEASURES = ("keep the highest", "remove the lowest", "ABPC")
MAPS = 20  # kept of each method, to be compared


def explained(case: Case, explain: Explain) -> np.ndarray:
    """Return one relevance for each feature of each example."""
    found = jrlrp.in_batches(explain, case.x, batch_size=case.batch)
    return found.sum(case.within) if case.within else found


def probabilities(case: Case) -> np.ndarray:
    """Return the probabilities of all classes, (N, classes)."""
    return jrlrp.in_batches(lambda x: jax.nn.softmax(case.model(x)), case.x, batch_size=case.batch)


def curves(case: Case, relevance: np.ndarray) -> np.ndarray:
    """Return the probability of the predicted class, (tests, N, levels), for one relevance a feature."""
    options = {"levels": LEVELS, "replace": case.replace, "region": case.region, "batch_size": 5 * case.batch}
    found = [metrics.perturbation(case.model, case.x, relevance, **options, **test).values for test in TESTS.values()]
    return np.stack(found)


def summary(values: np.ndarray) -> np.ndarray:
    """Return what each example adds to MEASURES, (..., N, 3), of curves (..., tests, N, levels).

    They are the means over levels of what is kept, and of what is left without the lowest, and between the latter and
    what is left without the highest: the area between the perturbation curves (ABPC).
    """
    kept, without_lowest, without_highest = np.moveaxis(values.mean(-1), -2, 0)
    return np.stack([kept, without_lowest, without_lowest - without_highest], -1)


def interval(values: np.ndarray, seed: int = 0, draws: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95 % intervals that bootstrap gives the means of (..., N)."""
    rows = np.random.default_rng(seed).integers(0, values.shape[-1], (draws, values.shape[-1]))
    counts = np.stack([np.bincount(row, minlength=values.shape[-1]) for row in rows], -1)
    low, high = np.quantile(values @ counts / values.shape[-1], (0.025, 0.975), axis=-1)
    return low, high


def not_told_apart(values: np.ndarray) -> np.ndarray:
    """Return which methods paired bootstrap does not tell from the best; values are (methods, N)."""
    low, _ = interval(values[values.mean(1).argmax()] - values)
    return low <= 0


def rank_correlation(maps: Sequence[np.ndarray]) -> float:
    """Return the mean correlation of the ranks that one method gives the features with those of another."""
    ranked = np.stack([one.reshape(len(one), -1).argsort(1, kind="stable").argsort(1) for one in maps]).astype(float)
    ranked -= ranked.mean(-1, keepdims=True)
    ranked /= np.maximum(np.linalg.norm(ranked, axis=-1, keepdims=True), 1e-12)
    between = np.einsum("mnf,knf->mk", ranked, ranked) / ranked.shape[1]
    return float(between[np.triu_indices(len(maps), 1)].mean())
