"""Measures of maps against cases computed by hand and against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

import jrlrp
from jrlrp import metrics

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 4, 9, 11))


def test_gini():
    one, alike = np.zeros((1, 5)), -np.ones((1, 5))
    one[0, 2] = 3.0
    np.testing.assert_allclose(metrics.gini(one), [1 - 1 / 5])
    np.testing.assert_allclose(metrics.gini(alike), [0.0], atol=1e-7)
    np.testing.assert_allclose(metrics.gini(np.array([[1.0, -3.0]])), [0.25])
    np.testing.assert_array_equal(metrics.gini(np.zeros((2, 5))), 0)


def test_entropy():
    np.testing.assert_allclose(metrics.entropy(-np.ones((1, 2, 4))), [np.log(8)])
    np.testing.assert_allclose(metrics.entropy(np.array([[0.0, 2.0, 0.0]])), [0.0])
    np.testing.assert_array_equal(metrics.entropy(np.zeros((2, 3))), 0)


def test_conservation_gap():
    r = np.array([[1.0, -4.0, 5.0], [2.0, 0.0, 1.0], [0.0] * 3, [0.0] * 3, [3.0, -1.0, -1.0], [4.0, 0.0, 4.0]])
    score = np.array([2.0, -6.0, 0.0, -5.0, 0.0, 2.0])
    eps = np.finfo(float).eps
    gaps = metrics.conservation_gap(r, score)
    np.testing.assert_allclose(gaps, [0, 9 / 6, 0, 1, 1 / (5 * eps), 3], rtol=1e-12)
    np.testing.assert_allclose(metrics.conservation_gap(r, score, relative=False), [0, 9, 0, 5, 1, 6])
    np.testing.assert_allclose(metrics.conservation_gap(1e30 * r, 1e30 * score), gaps, rtol=1e-12, atol=1e-12)
    with pytest.raises(jrlrp.ArgumentError, match=r"scores of shape \(6, 1\) for 6 maps: expected one for each"):
        metrics.conservation_gap(r, score[:, None])


def test_relevance_of_a_network_without_biases_is_conserved():
    w1, w2, w3 = RNG.normal(size=(12, 9)), RNG.normal(size=(9, 8)), RNG.normal(size=(8, 3))
    x = RNG.normal(size=(20, 12))

    def gap(bias):
        model = lambda x: jax.nn.relu(jax.nn.relu(x @ w1) @ w2 + bias) @ w3
        value, r = jrlrp.value_and_relevance(model, rules=jrlrp.gradient_times_input())(x)
        return metrics.conservation_gap(r, value.max(-1))

    assert gap(0.0).max() < 1e-12
    assert gap(1.0).min() > 1e-3


def test_localisation():
    r = np.array([[[3.0, 1.0], [-9.0, 1.0]], [[0.0, -1.0], [-2.0, -3.0]]])
    mask = np.array([[[1, 0], [1, 0]], [[0, 1], [0, 0]]])
    np.testing.assert_array_equal(metrics.pointing_game(r, mask), [True, False])
    np.testing.assert_allclose(metrics.mass_within(r, mask), [3 / 5, 0])
    np.testing.assert_allclose(metrics.rank_within(r, mask), [1 / 2, 0])
    np.testing.assert_array_equal(metrics.rank_within(r, 0 * mask), 0)
    flat = np.ones((1, 4))
    np.testing.assert_array_equal(metrics.pointing_game(flat, [[1, 0, 0, 0]]), [True])
    np.testing.assert_array_equal(metrics.pointing_game(flat, [[0, 1, 1, 1]]), [False])
    np.testing.assert_array_equal(metrics.rank_within(flat, [[1, 0, 0, 1]]), [0.5])


def test_rank_correlation_is_spearmans():
    a, b = np.round(A), np.round(2 * B)  # with ties
    expected = [scipy.stats.spearmanr(x.ravel(), y.ravel())[0] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(metrics.rank_correlation(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(metrics.rank_correlation(a, a**3), 1.0, rtol=1e-6)
    np.testing.assert_allclose(metrics.rank_correlation(a, np.ones_like(a)), 0, atol=1e-9)


@pytest.mark.parametrize("window", [3, 7])
def test_ssim_is_the_formula(window):
    expected = []
    for a, b in zip(A, B, strict=True):
        span = max(a.max(), b.max()) - min(a.min(), b.min())
        c1, c2, rows = (0.01 * span) ** 2, (0.03 * span) ** 2, []
        for i in range(a.shape[0] - window + 1):
            for j in range(a.shape[1] - window + 1):
                x, y = (m[i : i + window, j : j + window].ravel() for m in (a, b))
                (xx, xy), (_, yy) = np.cov(x, y)
                top = (2 * x.mean() * y.mean() + c1) * (2 * xy + c2)
                rows.append(top / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (xx + yy + c2)))
        expected.append(np.mean(rows))
    np.testing.assert_allclose(metrics.ssim(A, B, window), expected, rtol=1e-6)
    np.testing.assert_allclose(metrics.ssim(A, A, window), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(metrics.ssim(0 * A, 0 * A, window), 1)


@pytest.mark.parametrize("offset", [-30.0, 0.0, 1e3])
def test_ssim_of_maps_that_vary_little_beside_their_means(offset):
    """In float32, as in float64: what float32 rounds of the maps is far below their variation."""
    a, b = ((m + offset).astype(np.float32) for m in (A, B))
    expected = metrics.ssim(np.float64(a), np.float64(b))
    with jax.enable_x64(False):
        found = metrics.ssim(a, b)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=2e-5)
        np.testing.assert_allclose(metrics.ssim(a, a), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    "measure",
    [metrics.gini, metrics.entropy, lambda r: metrics.rank_correlation(r, r[::-1]), lambda r: metrics.ssim(r, r[::-1])],
)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_maps_of_any_scale(measure, scale):
    with jax.enable_x64(False):
        r = jnp.asarray(A, jnp.float32)
        np.testing.assert_allclose(jax.jit(measure)(r * scale), measure(r), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "measure",
    [
        metrics.gini,
        metrics.entropy,
        lambda r: metrics.mass_within(r, A > 0.5),
        lambda r: metrics.rank_within(r, A > 0.5),
        lambda r: metrics.rank_correlation(r, B),
        lambda r: metrics.rank_correlation(B, r),
        lambda r: metrics.ssim(r, B),
        lambda r: jnp.where(metrics.pointing_game(r, A < 9), 0.0, jnp.nan),
    ],
)
def test_a_map_with_a_nan_has_no_measure(measure):
    r = A.copy()
    r[1, 2, 3] = np.nan
    np.testing.assert_array_equal(np.isnan(measure(r)), [False, True, False, False])


@pytest.mark.parametrize(
    "measure",
    [
        metrics.gini,
        metrics.entropy,
        lambda r: metrics.conservation_gap(r, r[:, 0, 0]),
        lambda r: metrics.pointing_game(r, r[::-1] > 0),
        lambda r: metrics.mass_within(r, r > 1),
        lambda r: metrics.rank_within(r, r[::-1] > 1),
        lambda r: metrics.rank_correlation(r, r[::-1]),
        lambda r: metrics.ssim(r, r[::-1]),
    ],
)
def test_measures_are_compiled_and_mapped(measure):
    both = np.stack([A, B])
    expected = np.stack([measure(A), measure(B)])
    np.testing.assert_allclose(jax.jit(jax.vmap(measure))(both), expected, rtol=1e-12)
    assert len(set(expected.ravel())) > 1
    np.testing.assert_allclose(measure(A[:1]), measure(np.stack([A[0], A[0]]))[:1], rtol=1e-12)


SCALED = (
    metrics.gini,
    metrics.entropy,
    lambda r: metrics.mass_within(r, A > 0.5),
    lambda r: metrics.ssim(r, r[::-1]),
)


@pytest.mark.parametrize("measure", SCALED)
def test_maps_at_the_ends_of_a_dtypes_range(measure):
    """Sums and squares of such entries would not fit; entries of half precision are counted in float32."""
    with jax.enable_x64(False):
        r = jnp.asarray(A / np.abs(A).max(), jnp.float32)
        for scale in (8e37, 1e-32):
            np.testing.assert_allclose(measure(r * scale), measure(r), rtol=1e-5)
        for dtype, scale in ((jnp.float16, 6e4), (jnp.bfloat16, 8e37)):
            half = (r * scale).astype(dtype)
            found = measure(half)
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, measure(half.astype(jnp.float32)), rtol=1e-6)


def test_shapes_that_do_not_fit_are_errors():
    with pytest.raises(jrlrp.ArgumentError, match=r"maps of shapes \(4, 9, 11\) and \(4, 9\)"):
        metrics.rank_correlation(A, A[..., 0])
    for shape in ((4,), (4, 0)):
        with pytest.raises(jrlrp.ArgumentError, match=r"expected \(N, ...\); x\[None\] makes one map a batch"):
            metrics.gini(np.ones(shape))
    assert metrics.gini(np.ones((0, 4))).shape == (0,)
    with pytest.raises(jrlrp.ArgumentError, match=r"expected \(N, height, width\) and an odd window"):
        metrics.ssim(A, A, 10)
    for window in (1, -3, 4, 7.0):
        with pytest.raises(jrlrp.ArgumentError, match="an odd window from 3 on that fits"):
            metrics.ssim(A, A, window)
