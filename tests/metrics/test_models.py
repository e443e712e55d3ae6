"""Randomisation and robustness, on models whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import metrics
from jrlrp.metrics.randomised import drawn_anew

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 10, 10))
W = RNG.normal(size=(10, 10))
PARAMETERS = {
    "first": {"w": RNG.normal(size=(10, 8)), "b": np.zeros(8)},
    "second": {"w": RNG.normal(size=(8, 6)), "b": RNG.normal(size=6)},
    "head": {"w": RNG.normal(size=(6, 2))},
}


def explain(parameters):
    def model(x):
        for name in ("first", "second"):
            x = jax.nn.relu(x @ parameters[name]["w"] + parameters[name]["b"])
        return x.sum(1) @ parameters["head"]["w"]

    return jrlrp.relevance(model, target=0)(X)


def test_sensitivity_of_a_linear_map():
    """The map of a linear score is W·x: it moves by W·δ."""
    found = metrics.sensitivity(lambda x: x * W, X, radius=0.2, samples=40, batch_size=7)
    assert found.change.shape == found.slope.shape == (3, 40)
    assert (np.abs(W).min() <= found.slope).all() and (found.slope <= np.abs(W).max()).all()
    np.testing.assert_allclose(found.slope, np.sqrt((W**2).mean()), rtol=0.25)
    size = np.sqrt(((X * W) ** 2).sum((1, 2)))
    np.testing.assert_allclose(found.change.mean(1), np.sqrt((W**2).sum() * 0.2**2 / 3) / size, rtol=0.1)
    assert (found.maximum >= found.average).all() and (found.lipschitz == found.slope.max(1)).all()


def test_a_map_that_stands_still_has_no_sensitivity():
    for constant in (1.0, 0.0):
        found = metrics.sensitivity(lambda x, c=constant: jnp.full_like(x, c), X)
        np.testing.assert_array_equal(found.change, 0)


def test_each_example_is_explained_for_its_target():
    """The gradient of Σ x³ · w_target is 3x² w_target: of the change, w drops out; of the slope it does not."""
    w = jnp.array([1.0, 5.0])
    explain = lambda x, target: jax.grad(lambda x: (w[target] * (x**3).sum((1, 2))).sum())(x)
    one, other = (metrics.sensitivity(explain, X, target=target, batch_size=8) for target in ([0, 0, 0], [0, 1, 0]))
    np.testing.assert_allclose(one.change, other.change, rtol=1e-6)
    np.testing.assert_allclose(other.slope, one.slope * [[1], [5], [1]], rtol=1e-6)


def test_maps_and_disturbances_of_any_scale():
    with jax.enable_x64(False):
        x = X.astype(np.float32)
        expected = metrics.sensitivity(lambda x: x**2, x).change
        assert expected.min() > 0
        for scale in (1e-30, 1e30):
            found = metrics.sensitivity(lambda x, scale=scale: scale * x**2, x)
            np.testing.assert_allclose(found.change, expected, rtol=1e-4)
        half = jnp.asarray(30 * X, jnp.bfloat16)  # of which some entries are too large to be disturbed so little
        found = metrics.sensitivity(lambda x: 3 * x.astype(jnp.float32), half)
        np.testing.assert_allclose(found.slope, 3, rtol=1e-5)
    assert metrics.sensitivity(lambda x: x, X).change.dtype == np.float64


def test_an_example_is_explained_once_beside_its_disturbances():
    seen = []

    def explain(x):
        jax.debug.callback(lambda x: seen.append(len(x)), x)
        return x**2

    metrics.sensitivity(explain, X, samples=4, batch_size=6)
    jax.effects_barrier()
    assert seen == [6, 6, 6]  # 3 examples and 3 to fill the batch, then 12 disturbances


def test_the_same_seed_disturbs_alike_whatever_the_batches():
    one, other = (metrics.sensitivity(lambda x: x**2, X, batch_size=size) for size in (4, 30))
    np.testing.assert_allclose(one.change, other.change, rtol=1e-5)
    assert not np.allclose(one.change, metrics.sensitivity(lambda x: x**2, X, seed=1).change)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.sensitivity(lambda x: x, np.arange(3)[None]), "dtype int"),
        (lambda: metrics.sensitivity(lambda x: x, X, radius=0.0), "a radius > 0"),
        (lambda: metrics.sensitivity(lambda x: x, X, radius=np.inf), "a radius > 0"),
        (lambda: metrics.sensitivity(lambda x: x, 1 + X**2, radius=1e-17), "some did not change"),
        (lambda: metrics.sensitivity(lambda x: x, X, samples=0), "at least one sample"),
        (lambda: metrics.sensitivity(lambda x: x, X, samples=2.5), "at least one sample"),
        (lambda: metrics.sensitivity(lambda x, t: x, X, target=[1, 2]), "one for each of 3 examples"),
        (lambda: metrics.sensitivity(lambda x: x.sum(), X), "to maps of shape (): expected (N, ...)"),
        (lambda: metrics.sensitivity(lambda x: x, X[:0]), "pass at least one"),
        (lambda: metrics.randomisation(explain, PARAMETERS, mode="all"), "'cascade', 'independent'"),
        (lambda: metrics.sensitivity(lambda x: x, X, samples=True), "at least one sample"),
        (lambda: metrics.sensitivity(lambda x: x, X, radius="wide"), "a radius > 0"),
        (lambda: metrics.sensitivity(lambda x: x, X, seed="a"), "seed='a': expected an int"),
        (lambda: metrics.sensitivity(lambda x: x, None), "examples of type NoneType"),
        (lambda: metrics.sensitivity("explain", X), "expected a function, got a str"),
        (lambda: metrics.randomisation(explain, PARAMETERS, "head"), "layers='head': expected a list of prefixes"),
        (lambda: metrics.randomisation(explain, {}), "no parameters to draw anew"),
        (lambda: metrics.randomisation(explain, PARAMETERS, ["heads"]), "the paths are first/b, first/w, head/w"),
    ],
)
def test_what_does_not_fit_is_an_error(call, said):
    with pytest.raises(jrlrp.ArgumentError) as caught:
        call()
    assert said in str(caught.value)


@pytest.mark.parametrize("mode", ["cascade", "independent"])
def test_randomisation(mode):
    layers = ("head", "second", "first/w")
    found = metrics.randomisation(explain, PARAMETERS, layers, mode=mode, seed=3)
    assert found.layers == layers and found.rank_correlation.shape == found.ssim.shape == (3, 3)
    changed, before = PARAMETERS, jnp.abs(explain(PARAMETERS))
    for k, layer in enumerate(layers):
        changed = drawn_anew(changed if mode == "cascade" else PARAMETERS, layer, 3)
        after = jnp.abs(explain(changed))
        np.testing.assert_allclose(found.rank_correlation[k], metrics.rank_correlation(before, after), rtol=1e-5)
        one, other = (m / m.max((1, 2), keepdims=True) for m in (before, after))
        np.testing.assert_allclose(found.ssim[k], metrics.ssim(one, other), rtol=1e-5)
    assert np.abs(found.rank_correlation).max() < 0.95


def test_layers_are_found_and_only_they_are_drawn():
    found = metrics.randomisation(explain, PARAMETERS, mode="independent")
    assert found.layers == ("second", "head", "first")
    anew = drawn_anew(PARAMETERS, "second")
    assert anew["first"]["w"] is PARAMETERS["first"]["w"] and anew["head"]["w"] is PARAMETERS["head"]["w"]
    assert not np.allclose(anew["second"]["w"], PARAMETERS["second"]["w"])
    big = {"w": RNG.normal(2.0, 0.5, size=(200, 200)), "steps": np.arange(3)}
    drawn = drawn_anew(drawn_anew(big, "w"), "steps")
    np.testing.assert_allclose((drawn["w"].mean(), drawn["w"].std()), (2.0, 0.5), rtol=0.02)
    np.testing.assert_array_equal(drawn["steps"], big["steps"])


def test_what_is_not_negative_stays_so():
    """A norm's variances, of which some would be drawn negative, and the maps NaN."""
    layer = {"var": RNG.uniform(0.01, 1, 500), "scale": np.ones(5), "w": RNG.normal(size=500), "none": np.zeros((0,))}
    for dtype in (jnp.float32, jnp.bfloat16):
        parameters = {"norm": jax.tree.map(lambda v, dtype=dtype: jnp.asarray(v, dtype), layer)}
        drawn = drawn_anew(parameters, "norm")["norm"]
        assert (drawn["var"] >= 0).all() and (drawn["w"] < 0).any() and drawn["var"].dtype == dtype
        assert not (drawn["var"] == parameters["norm"]["var"]).all()
        np.testing.assert_array_equal(drawn["scale"], 1)


def test_a_scale_alone_is_no_change_and_a_batch_of_its_own_is_seen():
    batch = [X]
    scaling = lambda p: jnp.asarray(batch[0]) * jnp.exp(p["w"].sum())
    same = metrics.randomisation(scaling, {"w": RNG.normal(size=5)})
    np.testing.assert_allclose((same.rank_correlation, same.ssim), 1.0, rtol=1e-6)
    batch[0] = X[:1]
    assert metrics.randomisation(scaling, {"w": RNG.normal(size=5)}).ssim.shape == (1, 1)


def test_a_map_that_ignores_the_parameters_is_found_out():
    found = metrics.randomisation(lambda p: jnp.asarray(X) + 0 * p["head"]["w"].sum(), PARAMETERS)
    np.testing.assert_allclose(found.rank_correlation, 1.0, rtol=1e-6)
    np.testing.assert_allclose(found.ssim, 1.0, rtol=1e-6)
