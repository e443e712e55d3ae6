"""The usual attributions against their formulas written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import baselines

RNG = np.random.default_rng(0)
W1, W2 = RNG.normal(size=(6, 8)), RNG.normal(size=(8, 3))
X = RNG.normal(size=(4, 6))
METHODS = {
    "gradient": baselines.gradient,
    "gradient × input": baselines.gradient_times_input,
    "integrated gradients": baselines.integrated_gradients,
    "SmoothGrad": baselines.smooth_grad,
    "occlusion": lambda f, **options: baselines.occlusion(f, window=2, **options),
}


def net(x):
    return jnp.tanh(x @ W1) @ W2


def score(x, target=None):
    out = net(x)
    best = net(X).argmax(-1) if target is None else jnp.full(len(x), target)
    return out[jnp.arange(len(x)), best]


@pytest.mark.parametrize("target", [None, 1])
def test_gradients(target):
    expected = jax.grad(lambda x: score(x, target).sum())(X)
    options = {} if target is None else {"target": target}
    np.testing.assert_allclose(baselines.gradient(net, **options)(X), expected)
    np.testing.assert_allclose(baselines.gradient_times_input(net, **options)(X), X * expected)


@pytest.mark.parametrize("baseline", [0.0, 0.5, RNG.normal(size=6)])
def test_integrated_gradients_sum_to_the_difference(baseline):
    r = baselines.integrated_gradients(net, baseline=baseline, steps=200)(X)
    start = np.broadcast_to(baseline, X.shape)
    np.testing.assert_allclose(r.sum(1), score(X) - score(start), rtol=1e-4, atol=1e-4)
    two = baselines.integrated_gradients(net, baseline=baseline, steps=2)(X)
    slopes = [jax.grad(lambda x: score(x).sum())(start + t * (X - start)) for t in (0.25, 0.75)]
    np.testing.assert_allclose(two, (X - start) * sum(slopes) / 2)


def test_smooth_gradients():
    linear = lambda x: x @ W1
    np.testing.assert_allclose(baselines.smooth_grad(linear, target=2)(X), np.tile(W1[:, 2], (4, 1)))
    np.testing.assert_allclose(baselines.smooth_grad(linear, target=2, times_input=True)(X), X * W1[:, 2])
    square = lambda x: (x**3).sum(1)  # the mean of 3 (x + δ)² is 3 (x² + σ²)
    sigma = 0.3 * np.ptp(X)
    many = baselines.smooth_grad(square, noise=0.3, samples=20000, target="all")(X)
    np.testing.assert_allclose(many, 3 * (X**2 + sigma**2), rtol=0.1)
    np.testing.assert_allclose(baselines.smooth_grad(net, noise=0.0)(X), baselines.gradient(net)(X))


def test_occlusion_is_the_fall_of_the_score():
    r = baselines.occlusion(net, window=2)(X)
    for k in (0, 2, 4):
        left = X.copy()
        left[:, k : k + 2] = 0
        np.testing.assert_allclose(r[:, k], score(X) - score(left))
        np.testing.assert_allclose(r[:, k + 1], r[:, k])
    overlapping = baselines.occlusion(net, window=4, stride=2)(X)
    falls = []
    for k in (0, 2):
        left = X.copy()
        left[:, k : k + 4] = 0
        falls.append(score(X) - score(left))
    np.testing.assert_allclose(overlapping, np.stack([falls[0]] * 2 + [sum(falls) / 2] * 2 + [falls[1]] * 2, 1))


def test_windows_of_images_and_ids():
    images, w = RNG.normal(size=(2, 5, 7, 3)), RNG.normal(size=(5, 7, 3))
    r = baselines.occlusion(lambda x: (x * w).sum((1, 2, 3)), target="all", window=3, replace=1.0)(images)
    np.testing.assert_allclose(r[:, 0, 0, 0], ((images - 1) * w)[:, :3, :3].sum((1, 2, 3)))
    assert r.shape == images.shape and np.ptp(r, axis=-1).max() == 0
    np.testing.assert_allclose(r[:, -1, -1, 0], ((images - 1) * w)[:, 2:, 4:].sum((1, 2, 3)))
    table = RNG.normal(size=(9, 3))
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    f = lambda ids: jnp.asarray(table)[ids].sum(1)
    r = baselines.occlusion(f, window=1, target=0, replace=8)(ids)
    np.testing.assert_allclose(r, table[ids, 0] - table[8, 0])
    np.testing.assert_allclose(baselines.gradient_times_input(f, target=0)(ids), table[ids, 0], rtol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_they_compose(name):
    explain = METHODS[name](net)
    expected = explain(X)
    np.testing.assert_allclose(jax.jit(explain)(X), expected, rtol=1e-9, atol=1e-12)
    if name != "SmoothGrad":  # whose noise is scaled by the batch's range
        alone = jax.vmap(lambda x: explain(x[None])[0])(X)
        np.testing.assert_allclose(alone, expected, rtol=1e-9, atol=1e-12)
    with jax.enable_x64(False):
        low = explain(jnp.asarray(X, jnp.bfloat16))
    assert low.dtype == jnp.bfloat16 and np.isfinite(np.asarray(low, np.float32)).all()


@pytest.mark.parametrize("method", [baselines.integrated_gradients, baselines.smooth_grad])
def test_many_slopes_add_up_in_half_precision(method):
    x, w = jnp.ones((1, 3), jnp.bfloat16), jnp.asarray([[1.0], [-3.0], [0.5]], jnp.bfloat16)
    options = {"steps" if method is baselines.integrated_gradients else "samples": 1000}
    r = method(lambda x: x @ w, target=0, **options)(x)
    np.testing.assert_array_equal(r.astype(np.float32), [[1.0, -3.0, 0.5]])


@pytest.mark.parametrize("name", METHODS)
def test_a_final_softmax_is_explained_at_its_logits(name):
    explain = METHODS[name]
    np.testing.assert_allclose(explain(lambda x: jax.nn.softmax(net(x)))(X), explain(net)(X), rtol=1e-6, atol=1e-9)


def test_pytrees_and_several_arguments():
    f = lambda p, y: p["a"] @ W1 + y @ W1
    p, y = {"a": X}, RNG.normal(size=(4, 6))
    for method in (baselines.gradient, baselines.integrated_gradients, baselines.smooth_grad):
        r, s = method(f, argnums=(0, 1), target=0)(p, y)
        assert r["a"].shape == X.shape and s.shape == y.shape
    r, s = baselines.integrated_gradients(f, argnums=(0, 1), target=0, baseline=({"a": 1.0}, 0.0))(p, y)
    np.testing.assert_allclose(r["a"], (X - 1) * W1[:, 0])
    np.testing.assert_allclose(s, y * W1[:, 0])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: baselines.integrated_gradients(net, steps=0), "integrated_gradients(steps=0): expected an int ≥ 1"),
        (lambda: baselines.smooth_grad(net, samples=0.5), "smooth_grad(samples=0.5): expected an int ≥ 1"),
        (lambda: baselines.smooth_grad(net, noise=-1), "smooth_grad(noise=-1): expected a number ≥ 0"),
        (
            lambda: baselines.gradient(lambda ids: jnp.asarray(W1)[ids])(jnp.arange(3)),
            "has no gradient; explain its embeddings",
        ),
        (lambda: baselines.gradient(net, argnums=1)(X), "the function got 1 argument(s)"),
        (lambda: baselines.occlusion(net, window=(2, 2))(X), "expected an int ≥ 1, or one for each of the axes (6,)"),
        (lambda: baselines.gradient(net, target=7)(X), "target=7 is out of range"),
        (lambda: baselines.occlusion(net, window=None)(X), "occlusion(window=None): expected an int ≥ 1"),
        (lambda: baselines.occlusion(net, window=2, stride=0)(X), "occlusion(stride=0): expected an int ≥ 1"),
        (lambda: baselines.occlusion(net, argnums=1)(X), "the function got 1 argument(s)"),
        (lambda: baselines.occlusion(net, argnums=(0, 1)), "occlusion(argnums=(0, 1)): expected an int"),
        (lambda: baselines.occlusion(lambda x: x**2, target="all")(X[:, 0]), "an argument of shape (4,); expected"),
        (lambda: baselines.occlusion(lambda x: net(x).sum(), target="all")(X), "an output of shape (); expected a row"),
    ],
)
def test_what_does_not_fit_is_an_error(call, said):
    with pytest.raises((jrlrp.ArgumentError, jrlrp.TargetError)) as caught:
        call()
    assert said in str(caught.value)


def test_argnums_may_be_a_numpy_integer():
    explain = baselines.occlusion(net, np.int64(0), window=2)
    np.testing.assert_array_equal(explain(X), baselines.occlusion(net, window=2)(X))
