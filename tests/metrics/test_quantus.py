"""jrlrp's metrics beside quantus's: the same network, examples and maps, entry by entry.

`tests/parity/quantus.npz` holds quantus's numbers; `tests/parity/make_quantus.py` makes them again, and says where the
two have different conventions. `python tests/metrics/test_quantus.py` prints how far apart the numbers are.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrlrp import metrics
from jrlrp.metrics import randomised, robustness

GOLDEN = dict(np.load(Path(__file__).parents[1] / "parity" / "quantus.npz"))
X, TARGET, R, MAPS, MASKS = (GOLDEN[k] for k in ("small/input", "target", "relevance", "maps", "masks"))
PIXELS = R.sum(1, keepdims=True)
LEAST = X.min((1, 2, 3), keepdims=True)  # what quantus calls black
FULL = MASKS.any((1, 2, 3))


def weights_of(prefix):
    """Return the arrays below a prefix as {layer: {name: array}}."""
    found = {}
    for key, value in GOLDEN.items():
        if key.startswith(prefix):
            layer, name = key.removeprefix(prefix).split(".")
            found.setdefault(layer, {})[name] = value
    return found


WEIGHTS = weights_of("small/weights/")


def net(weights, x):
    x = x.reshape(len(x), -1)
    for layer in ("fc1", "fc2", "fc3"):
        w, b = (weights[layer][name].astype(x.dtype) for name in ("weight", "bias"))
        x = (x if layer == "fc1" else jax.nn.relu(x)) @ w.T + b
    return x


@jax.jit
def model(x):
    return net(WEIGHTS, x)


def gradient_times_input(weights, x, target):
    score = lambda x: jnp.take_along_axis(net(weights, x), target[:, None], 1).sum()
    return x * jax.grad(score)(x)


def curve(relevance, steps, *, model=model, first=1, x=X, **options):
    options = {"target": TARGET, "replace": LEAST, **options}
    return metrics.perturbation(model, x, relevance, levels=np.arange(first, steps + 1) / steps, **options)


def padded(a):
    """Return images with quantus's padding, for 12 pixels in squares of 5."""
    return np.pad(a, ((0, 0), (0, 0), (1, 2), (1, 2)))


def drop(relevance, order):
    """Return f(x) − f(x perturbed) of all squares, one after the other."""
    values = curve(relevance, 9, first=0, replace=0.0, region=4, order=order).values
    return values[:, :1] - values[:, 1:]


@jax.jit
def model_of_padded(x):
    return model(x[:, :, 1:-2, 1:-2])


def drop_padded(order):
    found = curve(
        padded(PIXELS),
        9,
        model=model_of_padded,
        first=0,
        x=padded(X),
        replace=0.0,
        region=5,
        order=order,
    )
    return found.values[:, :1] - found.values[:, 1:]


def right():
    """Return the accuracy where the first entries are zero, as many as int(size · percentage) are."""
    counts = [int(432 * p / 100) for p in (0.25, 1, 90)]
    found = metrics.perturbation(model, X, R, levels=np.array(counts) / 432, target=TARGET, score="correct")
    return found.mean


def game(measure):
    """Return a measure of maps and masks, and quantus's NaN where the mask is empty."""
    return np.where(FULL, measure(MAPS, MASKS), np.nan)


@functools.cache
def disturbed():
    noise = jnp.asarray(GOLDEN["noise"])
    samples = noise.shape[1]

    def given(index, x, seed, radius, *, samples):
        return x[index // samples] + (noise[index // samples, index % samples] if radius else 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "_disturbed", given)
        explain = functools.partial(gradient_times_input, WEIGHTS)
        return metrics.sensitivity(explain, X, target=TARGET, samples=samples, batch_size=12)


def correlations(order):
    """Return the rank correlations with the weights that quantus had drawn for each layer."""
    drawn = weights_of("MPRT/weights/")
    mode = {"top_down": "cascade"}.get(order, order)
    explain = lambda weights: gradient_times_input(weights, X, TARGET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(randomised, "drawn_anew", lambda weights, layer, _: weights | {layer: drawn[layer]})
        layers = GOLDEN[f"MPRT/{order}/layers"].tolist()
        return metrics.randomisation(explain, WEIGHTS, layers, mode=mode).rank_correlation


def in_parts_of_the_largest(dtype):
    size = np.abs(MAPS.astype(dtype))
    return size / size.max()


CASES = {
    "relevance": lambda: jax.jit(gradient_times_input)(WEIGHTS, X, TARGET),
    "PixelFlipping/entries": lambda: curve(R, 12).values,
    "PixelFlipping/absolute": lambda: curve(R, 12, absolute=True).values,
    "PixelFlipping/pixels": lambda: curve(PIXELS, 36).values,
    "PixelFlipping/number": lambda: curve(R, 12, replace=0.3).values,
    "PixelFlipping/area": lambda: 11 * curve(R, 12).area,  # of 12 steps, each counted as 1
    "RegionPerturbation/morf4": lambda: drop(PIXELS, "most"),
    "RegionPerturbation/lerf4": lambda: drop(PIXELS, "least"),
    "RegionPerturbation/morf5": lambda: drop_padded("most"),
    "RegionPerturbation/lerf5": lambda: drop_padded("least"),
    "Selectivity": lambda: curve(PIXELS, 9, region=4, score="logit").values,
    "Monotonicity/scores": lambda: curve(R, 12, order="least", keep=True, score="logit").values,
    "ROAD": right,
    # quantus adds 1e-7 to each entry.
    "Sparseness/float64": lambda: metrics.gini(in_parts_of_the_largest(np.float64) + 1e-7),
    "Sparseness/float32": lambda: metrics.gini(in_parts_of_the_largest(np.float32) + np.float32(1e-7)),
    "Complexity/float64": lambda: metrics.entropy(MAPS),
    "Complexity/float32": lambda: metrics.entropy(MAPS.astype(np.float32)),
    "spearman/float64": lambda: metrics.rank_correlation(MAPS, MAPS[::-1]),
    "spearman/float32": lambda: metrics.rank_correlation(*(m.astype(np.float32) for m in (MAPS, MAPS[::-1]))),
    "ssim/float64": lambda: metrics.ssim(MAPS[:, 0], MAPS[::-1, 0]),
    "ssim/float32": lambda: metrics.ssim(*(m[:, 0].astype(np.float32) for m in (MAPS, MAPS[::-1]))),
    "RelevanceRankAccuracy": lambda: game(metrics.rank_within),
    "RelevanceMassAccuracy": lambda: game(metrics.mass_within),
    "AttributionLocalisation": lambda: game(metrics.mass_within),
    "MaxSensitivity": lambda: disturbed().maximum,
    "AvgSensitivity": lambda: disturbed().average,
    "LocalLipschitzEstimate": lambda: disturbed().lipschitz,
    "MPRT/top_down": lambda: correlations("top_down"),
    "MPRT/independent": lambda: correlations("independent"),
    "Completeness/integers": lambda: (
        metrics.conservation_gap(GOLDEN["Completeness/integers/relevance"], GOLDEN["Completeness/integers/score"]) == 0
    ),
}
# quantus's own constants: 1e-12 in each of 144 logarithms, and 1e-9 beside what a map adds up to.
TOLERANCES = {"Complexity/float64": 1e-9, "AttributionLocalisation": 1e-10}


def test_the_networks_are_the_same():
    np.testing.assert_allclose(model(X), GOLDEN["small/logits"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_metric_is_quantus_s(name):
    tolerance = 1e-5 if name.endswith("float32") else TOLERANCES.get(name, 1e-11)
    np.testing.assert_allclose(CASES[name](), GOLDEN[name], rtol=tolerance, atol=tolerance)


def test_curves_of_float32_are_quantus_s():
    with jax.enable_x64(False):
        found = curve(np.float32(R), 12, x=np.float32(X), replace=np.float32(LEAST)).values
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GOLDEN["PixelFlipping/float32"], rtol=1e-4)


def test_aopc_is_quantus_s():
    """The mean of f(x) − f(x perturbed), of which quantus leaves out the first, 0."""
    found = curve(PIXELS, 9, first=0, replace=0.0, region=4)
    np.testing.assert_allclose(found.aopc, GOLDEN["RegionPerturbation/morf4"].sum(1) / 10, rtol=1e-11)


def test_the_mean_of_quantus_drifts():
    """It is that of the first step; then quantus takes the mean of what earlier steps have left."""
    found = curve(R, 12, replace=X.mean((1, 2, 3), keepdims=True)).values - GOLDEN["PixelFlipping/mean"]
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-11)
    assert 1e-3 < np.abs(found).max() < 1e-2


def test_the_pointing_game_is_quantus_s():
    """But for the empty mask: in quantus, its NaN is an entry of booleans, and so a hit."""
    found = metrics.pointing_game(MAPS, MASKS)
    np.testing.assert_array_equal(found[FULL], GOLDEN["PointingGame"][FULL])
    assert not found[~FULL].any() and GOLDEN["PointingGame"][~FULL].all()


def test_completeness_of_quantus_is_equality_to_the_last_bit():
    bare = {layer: parts | {"bias": 0 * parts["bias"]} for layer, parts in WEIGHTS.items()}
    r = gradient_times_input(bare, X, TARGET)
    np.testing.assert_allclose(r, GOLDEN["Completeness/relevance"], atol=1e-12)
    score = jnp.take_along_axis(net(bare, X), TARGET[:, None], 1)[:, 0]
    assert metrics.conservation_gap(r, score).max() < 1e-13
    assert not GOLDEN["Completeness"].all()


def main():
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "worst deviation", box=box.MARKDOWN)
    with jax.enable_x64(True):
        for name, case in CASES.items():
            found, expected = np.asarray(case(), float), np.asarray(GOLDEN[name], float)
            table.add_row(name, f"{np.nanmax(np.abs(found - expected)) / np.nanmax(np.abs(expected)):.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
