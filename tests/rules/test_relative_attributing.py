"""RAP, entry by entry against the formulas of each rule, and by values of the authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import W1, W2, X

import jrlrp

B1, B2 = np.array([0.1, -0.2, 0.3]), np.array([0.5, -0.5, 0.25])


def net(b1, b2):
    def f(x):
        with jax.named_scope("a"):
            h = x @ jnp.asarray(W1.T, x.dtype) + jnp.asarray(b1, x.dtype)
        return jax.nn.relu(h) @ jnp.asarray(W2.T, x.dtype) + jnp.asarray(b2, x.dtype)

    return f


VALUES = {
    "t = 0": (net(0, 0), 0, (1.473684, 1.105263, 0.921053), (1.031579, 2.468421)),
    "t = 2": (net(0, 0), 2, (1.2, 1.8, 3), (1.38, 4.62)),
    "biases": (net(B1, B2), 0, (2.014286, 1.342857, 1.342857), (1.41, 3.29)),
}


@pytest.mark.parametrize("name", VALUES)
def test_the_authors_values(name):
    f, t, hidden, expected = VALUES[name]
    explain = jrlrp.relevance(f, rules=jrlrp.rap(), target=t, capture="a")
    for run in (explain, jax.jit(explain)):
        r, captured = run(jnp.asarray(X))
        np.testing.assert_allclose(captured["a"], hidden, atol=1e-6)
        np.testing.assert_allclose(r, expected, atol=1e-6)
    together = jrlrp.relevance(f, rules=jrlrp.rap(), target=t)(jnp.stack([2 * X, X, -X]))
    np.testing.assert_allclose(together[1], expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(explain)(jnp.stack([-X, X]))[0][1], expected, atol=1e-6)


def contributions(x, w, relevance, conv):
    """Return C by loops, as the formula has it, and what it is after the shift."""
    c = np.zeros_like(x)
    for half, weights in ((np.maximum(x, 0), w), (np.maximum(-x, 0), -w)):
        for j, r in enumerate(relevance):
            plus, minus = np.maximum(weights[j], 0), np.maximum(-weights[j], 0)
            z1, z2 = (half * plus).sum(), (half * minus).sum()
            first = (
                half * minus / z2 if conv and r < 0 and z2 else half * plus / z1 if (not conv or r >= 0) and z1 else 0
            )
            c += r * (first + (half * minus / (z1 + z2) if z1 + z2 else 0))
    return np.where(c != 0, c - (c.sum() - relevance.sum()) / max((c != 0).sum(), 1), 0)


@pytest.mark.parametrize("conv", [False, True], ids=["dense", "conv"])
@pytest.mark.parametrize("sign", ["both", "positive"])
def test_hidden_layers_are_the_formula(conv, sign):
    rng = np.random.default_rng(0)
    w, r = rng.normal(size=(5, 6)), rng.normal(size=(3, 5))
    x = rng.normal(size=(3, 6)) if sign == "both" else np.maximum(rng.normal(size=(3, 6)), 0)
    wanted = np.stack([contributions(a, w, b, conv) for a, b in zip(x, r, strict=True)])
    if conv:
        kernel = jnp.asarray(w)[:, :, None, None]
        f = lambda x: jax.lax.conv_general_dilated(x[:, :, None, None], kernel, (1, 1), "VALID")[..., 0, 0]
    else:
        f = lambda x: x @ w.T
    propagate = jrlrp.pullback(f, jnp.asarray(x), rules=jrlrp.RelativeAttributing(by_sign=conv))[1]
    np.testing.assert_allclose(propagate(jnp.asarray(r))[0], wanted, rtol=1e-9, atol=1e-12)


def test_one_layer_s_values():
    r = jnp.asarray([2, -0.5, 0.25])
    dense = jrlrp.pullback(lambda x: x @ W1.T, jnp.asarray(X), rules=jrlrp.RelativeAttributing())[1](r)
    np.testing.assert_allclose(dense[0], [1, 0.75], rtol=1e-12)


def magnitudes(x, w, b, r):
    c = np.zeros_like(x)
    for j, rj in enumerate(r):
        v = x * w[j]
        pos, neg = np.maximum(v, 0).sum(), np.minimum(v, 0).sum()
        rising, falling = np.maximum(x, 0) * np.maximum(w[j], 0), np.maximum(x, 0) * np.minimum(w[j], 0)
        m = v.copy()
        if pos + neg == 0:
            m = np.abs(v) + np.abs(b[j]) / len(x)
        else:
            m += b[j] * pos / (pos + neg) * (rising / rising.sum() if rising.sum() else 0)
            m += b[j] * neg / (pos + neg) * (falling / falling.sum() if falling.sum() else 0)
        c += rj * np.abs(m) / np.abs(m).sum() if np.abs(m).sum() else 0
    return c


def test_the_last_layer_is_the_formula():
    rng = np.random.default_rng(1)
    w, b, r = rng.normal(size=(5, 6)), rng.normal(size=5), rng.normal(size=(4, 5))
    x = rng.normal(size=(4, 6)) * np.array([[1.0], [1], [1], [0]])
    x[1] = np.abs(x[1])
    wanted = np.stack([magnitudes(a, w, b, c) for a, c in zip(x, r, strict=True)])
    propagate = jrlrp.pullback(lambda x: x @ w.T + b, jnp.asarray(x), rules=jrlrp.MagnitudeShare())[1]
    found = propagate(jnp.asarray(r))[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.sum(1), r.sum(1), rtol=1e-9)
    np.testing.assert_allclose(found[3], np.full(6, r[3].sum() / 6), rtol=1e-9)


def cnn(x, dtype=None):
    rng = np.random.default_rng(2)
    for shape in ((3, 3, 2, 4), (3, 3, 4, 4)):
        kernel = jnp.asarray(rng.normal(size=shape), x.dtype)
        x = jax.nn.relu(
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )
    return x.mean((1, 2)) @ jnp.asarray(rng.normal(size=(4, 3)), x.dtype)


def test_a_first_convolution_has_the_box_of_each_image():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 6, 6, 2))) * jnp.asarray([1.0, 5.0]).reshape(2, 1, 1, 1)
    found = jrlrp.relevance(cnn, rules=jrlrp.rap())(x)
    for k in range(2):
        low, high = float(x[k].min()), float(x[k].max())
        boxed = jrlrp.Composite([(jrlrp.match("conv", first=True), jrlrp.ZBox(low, high))], base=jrlrp.rap())
        np.testing.assert_allclose(found[k], jrlrp.relevance(cnn, rules=boxed)(x[k : k + 1])[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_relevance_is_kept_and_finite(dtype):
    x = jnp.asarray(np.random.default_rng(4).normal(size=(3, 6, 6, 2)), dtype)
    r = jrlrp.relevance(cnn, rules=jrlrp.rap(), target=1)(x)
    assert np.isfinite(np.asarray(r, np.float64)).all()
    if dtype == "float32":
        np.testing.assert_allclose(r.sum((1, 2, 3)), cnn(x)[:, 1], rtol=1e-3)
    for scale in (1e-20, 1e20) if dtype != "float16" else ():
        assert np.isfinite(np.asarray(jrlrp.relevance(cnn, rules=jrlrp.rap())(x * scale), np.float64)).all()
