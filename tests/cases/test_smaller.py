"""CASES.md I: measures count from the whole input and channel by channel; ids, one-hot ids and factors in any order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import metrics

RNG = np.random.default_rng(0)
ROW = np.array([[4.0, 2.0, 1.0, -3.0]])  # kept from the first on: [0 4 6 7 4]


def total(x):
    return x.reshape(len(x), -1).sum(1)


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize("levels", [(0, 0.25, 0.5, 0.75, 1), (0, 0.5, 1)])
def test_the_aopc_of_kept_features_counts_from_the_whole_input_or_is_refused(order, levels):
    curve = metrics.perturbation(total, ROW, ROW, levels=levels, keep=True, score="logit", order=order)
    if order == "most" and len(levels) == 5:
        np.testing.assert_allclose(curve.values, [[0, 4, 6, 7, 4]])
    try:
        found = curve.aopc
    except jrlrp.ArgumentError:
        return
    np.testing.assert_allclose(found, (4 - curve.values).mean(1))


def test_the_aopc_of_removed_features_is_as_it_was():
    curve = metrics.perturbation(total, ROW, ROW, levels=(0, 0.25, 0.5, 0.75, 1), score="logit")
    np.testing.assert_allclose(curve.values, [[4, 0, -2, -3, 0]])
    np.testing.assert_allclose(curve.aopc, (0 + 4 + 6 + 7 + 4) / 5)


IMAGES = np.stack([RNG.normal(size=(2, 6, 5)) + 10, np.zeros((2, 6, 5)), RNG.normal(size=(2, 6, 5))], -1)
SERIES = IMAGES[:, 0]


def filled(x, relevance, replace, weights):
    """Return what a linear model sees of examples all of whose features are replaced."""
    model = lambda x: (x * weights).reshape(len(x), -1).sum(1)
    return metrics.perturbation(model, x, relevance, levels=(1.0,), replace=replace, score="logit").values[:, 0]


@pytest.mark.parametrize("replace", ["mean", "blur"])
@pytest.mark.parametrize("x", [IMAGES, SERIES], ids=["images", "series"])
def test_what_replaces_features_stays_within_their_channel(x, replace):
    """Whether relevance ranks whole pixels or each channel's value by itself."""
    for k in range(3):
        weights = RNG.normal(size=x.shape[1:]) * (np.arange(3) == k)
        own, whole = (filled(x, r, replace, weights) for r in (np.abs(x), np.abs(x).sum(-1)))
        np.testing.assert_allclose(own, whole, rtol=1e-5, atol=1e-5)
        if k == 1:
            np.testing.assert_allclose(own, 0, atol=1e-5)
        if replace == "mean":
            mean = np.broadcast_to(x.mean(tuple(range(1, x.ndim - 1)), keepdims=True), x.shape)
            expected = (mean * weights).reshape(2, -1).sum(1)
            np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


E, W = RNG.normal(size=(7, 4)), RNG.normal(size=(4, 3))
IDS = np.array([[2, 5, 5, 0], [6, 1, 2, 3]])
LOOKUPS = {
    "one_hot": lambda i: jax.nn.one_hot(i, 7, dtype=E.dtype) @ E,
    "one_hot, einsum": lambda i: jnp.einsum("...v,vd->...d", jax.nn.one_hot(i, 7, dtype=E.dtype), E),
    "take": lambda i: jnp.take(E, i, axis=0),
    "compared": lambda i: (i[..., None] == jnp.arange(7)).astype(E.dtype) @ E,
    "rows of the identity": lambda i: jnp.eye(7)[i] @ E,
    "wrapped": lambda i: jnp.asarray(E)[jnp.where(i < 0, i + 7, i)],
}
RULES = {"relative": jrlrp.relative(), "relative plus": jrlrp.relative_plus()}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", LOOKUPS)
def test_ids_are_looked_up_in_any_spelling(name, rules):
    head = lambda v: jnp.tanh(v @ W).mean(-2) @ np.array([[1.0, -1.0], [0.5, 2.0], [-2.0, 0.3]])
    explain = lambda f: jax.jit(jrlrp.relevance(f, rules=RULES[rules]))(IDS)
    found, plain = explain(lambda i: head(LOOKUPS[name](i))), explain(lambda i: head(jnp.asarray(E)[i]))
    assert np.abs(plain).max() > 0
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-6)


FACTORS = {
    "(x1 x2) x3": lambda a, b, c: (a * b) * c,
    "x1 (x2 x3)": lambda a, b, c: a * (b * c),
    "(x3 x1) x2": lambda a, b, c: (c * a) * b,
    "math.prod": lambda a, b, c: functools.reduce(jnp.multiply, [a, b, c]),
    "einsum": lambda a, b, c: jnp.einsum("i,i,i->i", a, b, c),
    "under jit": lambda a, b, c: jax.jit(jnp.multiply)(a, b) * c,
}


@pytest.mark.parametrize("rules", ["relative plus", "attn_lrp"])
@pytest.mark.parametrize("name", FACTORS)
def test_three_factors_get_a_third_each_in_any_order(name, rules):
    composite = RULES.get(rules) or jrlrp.attn_lrp()
    a, b, c = RNG.uniform(1.1, 2, size=(3, 5))
    for r in jrlrp.relevance(FACTORS[name], (0, 1, 2), rules=composite, target="all")(a, b, c):
        np.testing.assert_allclose(r, a * b * c / 3, rtol=1e-5)


@pytest.mark.parametrize("name", FACTORS)
def test_a_gate_among_three_factors_gets_nothing_in_any_order(name):
    a, b, c = RNG.uniform(1.1, 2, size=(3, 5))
    f = lambda a, b, c: FACTORS[name](a, jax.nn.sigmoid(b), c)
    parts = jrlrp.relevance(f, (0, 1, 2), rules=jrlrp.epsilon(), target="all")(a, b, c)
    np.testing.assert_allclose(parts[1], 0, atol=1e-9)
    np.testing.assert_allclose(parts[0], f(a, b, c) / 2, rtol=1e-5)
    np.testing.assert_allclose(parts[2], f(a, b, c) / 2, rtol=1e-5)
