"""Normalisations are found in any spelling, and with their statistics held they are affine layers like any other."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import oracles
import pytest
from flax import nnx

import jrlrp

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 8)) + 0.3
GAIN, BIAS = RNG.normal(size=8) + 1, RNG.normal(size=8)
EPS = 1e-5


def mean(x):
    return jnp.mean(x, -1, keepdims=True)


def var(x):
    return jnp.var(x, -1, keepdims=True)


def randomised(tree):
    """Return parameters of a model with gains and biases that are not all one or zero."""
    return jax.tree.map(lambda v: v + 0.2 * RNG.normal(size=v.shape) if eqx.is_inexact_array(v) else v, tree)


def linen(module):
    parameters = randomised(module.init(jax.random.key(0), X))
    return lambda x: module.apply(parameters, x)


def of_nnx(module):
    graph, state = nnx.split(module)
    state = randomised(state)
    return lambda x: nnx.merge(graph, state)(x)


def equinox(module):
    module = randomised(module)
    return lambda x: jax.vmap(jax.vmap(module))(x)


def haiku(make):
    transformed = hk.without_apply_rng(hk.transform(lambda x: make()(x)))
    parameters = randomised(transformed.init(jax.random.key(0), X))
    return lambda x: transformed.apply(parameters, x)


def of_keras(layer):
    layer.build(X.shape)
    layer.set_weights([w + 0.2 * RNG.normal(size=w.shape) for w in layer.get_weights()])
    return layer


def masked(x):
    kept = jnp.arange(8) < 6
    return (x - jnp.mean(x, -1, keepdims=True, where=kept)) / jnp.std(x, -1, keepdims=True, where=kept) * GAIN


# What each is, as layer norm ("centred"), RMS norm ("scaled"), or a normalisation that is neither.
SPELLINGS = {
    "by var": ("centred", lambda x: (x - mean(x)) / jnp.sqrt(var(x) + EPS) * GAIN + BIAS),
    "by rsqrt": ("centred", lambda x: (x - mean(x)) * jax.lax.rsqrt(var(x) + EPS) * GAIN + BIAS),
    "gain first": ("centred", lambda x: (x - mean(x)) * (jax.lax.rsqrt(var(x) + EPS) * GAIN) + BIAS),
    "by power": ("centred", lambda x: (x - mean(x)) * (var(x) + EPS) ** -0.5 * GAIN + BIAS),
    "by squares": (
        "centred",
        lambda x: (x - mean(x)) / jnp.sqrt(jnp.maximum(mean(x**2) - mean(x) ** 2, 0) + EPS) * GAIN + BIAS,
    ),
    "distributed": (
        "centred",
        lambda x: (s := jax.lax.rsqrt(var(x) + EPS) * GAIN, x * s + (BIAS - mean(x) * s))[1],
    ),
    "negated": ("centred", lambda x: -(mean(x) - x) / jnp.sqrt(var(x) + EPS) * GAIN + BIAS),
    "by exp and log": ("centred", lambda x: (x - mean(x)) / jnp.exp(0.5 * jnp.log(var(x) + EPS)) * GAIN + BIAS),
    "rms": ("scaled", lambda x: x * jax.lax.rsqrt(mean(x**2) + EPS) * GAIN + BIAS),
    "rms by norm": (
        "scaled",
        lambda x: x / jnp.sqrt(jnp.linalg.norm(x, axis=-1, keepdims=True) ** 2 / 8 + EPS) * GAIN + BIAS,
    ),
    "rms by einsum": (
        "scaled",
        lambda x: x / jnp.sqrt(jnp.einsum("...d,...d->...", x, x)[..., None] / 8 + EPS) * GAIN + BIAS,
    ),
    "standardize": ("any", lambda x: jax.nn.standardize(x) * GAIN),
    "by std": ("any", lambda x: (x - mean(x)) / (jnp.std(x, -1, keepdims=True) + EPS) * GAIN + BIAS),
    "length": ("any", lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), EPS)),
    "largest": ("any", lambda x: x / jnp.max(jnp.abs(x), -1, keepdims=True)),
    "batch statistics": ("any", lambda x: (x - x.mean((0, 1))) / jnp.sqrt(x.var((0, 1)) + EPS) * GAIN + BIAS),
    "half precision around": ("any", lambda x: x.astype(jnp.float32) / jnp.sqrt(mean(x.astype(jnp.float32) ** 2))),
    "masked": ("any", masked),
    "under vmap": ("any", lambda x: jax.vmap(jax.vmap(lambda v: (v - v.mean()) / jnp.sqrt(v.var() + EPS) * GAIN))(x)),
}
MODULES = {
    "linen LayerNorm": linen(nn.LayerNorm()),
    "linen LayerNorm, slow": linen(nn.LayerNorm(use_fast_variance=False)),
    "linen RMSNorm": linen(nn.RMSNorm()),
    "linen GroupNorm": linen(nn.GroupNorm(2)),
    "linen InstanceNorm": linen(nn.InstanceNorm()),
    "nnx LayerNorm": of_nnx(nnx.LayerNorm(8, rngs=nnx.Rngs(0))),
    "nnx RMSNorm": of_nnx(nnx.RMSNorm(8, rngs=nnx.Rngs(0))),
    "nnx GroupNorm": of_nnx(nnx.GroupNorm(8, 2, rngs=nnx.Rngs(0))),
    "equinox LayerNorm": equinox(eqx.nn.LayerNorm(8)),
    "equinox RMSNorm": equinox(eqx.nn.RMSNorm(8)),
    "equinox GroupNorm": equinox(eqx.nn.GroupNorm(2, 8)),
    "haiku LayerNorm": haiku(lambda: hk.LayerNorm(-1, True, True)),
    "haiku RMSNorm": haiku(lambda: hk.RMSNorm(-1)),
    "haiku GroupNorm": haiku(lambda: hk.GroupNorm(2)),
    "haiku InstanceNorm": haiku(lambda: hk.InstanceNorm(True, True)),
    "keras LayerNormalization": of_keras(keras.layers.LayerNormalization()),
    "keras RMSNormalization": of_keras(keras.layers.RMSNormalization()),
    "keras GroupNormalization": of_keras(keras.layers.GroupNormalization(2)),
    "keras UnitNormalization": of_keras(keras.layers.UnitNormalization()),
}
ALL = {**{name: f for name, (_, f) in SPELLINGS.items()}, **MODULES}
NOT = {
    "a gate": lambda x: x * jax.nn.sigmoid(mean(x)),
    "a mean": lambda x: x - mean(x),
    "a product": lambda x: x * mean(x),
    "multiplied by its deviation": lambda x: (x - mean(x)) * var(x) ** 0.5,
    "divided by the inverse": lambda x: x / jax.lax.rsqrt(mean(x**2) + EPS),
    "softmax": lambda x: jax.nn.softmax(x) @ np.ones((8, 8)),
    "an activation": lambda x: x * jax.lax.rsqrt(x**2 + 1),
    "another's statistic": lambda x: x[:1] / jnp.sqrt(var(x[1:]) + EPS),
    "a layer between": lambda x: x / jnp.sqrt(mean((x @ np.eye(8)) ** 2)),
}


def kinds(f):
    return [node.kind for node in jrlrp.plan(f, X, argnums=0).nodes]


@pytest.mark.parametrize("name", ALL)
def test_a_normalisation_is_one_node(name):
    found = kinds(ALL[name])
    assert found.count("normalisation") == 1, jrlrp.plan(ALL[name], X)
    assert set(found) <= {"normalisation", "movement"}, jrlrp.plan(ALL[name], X)


@pytest.mark.parametrize("name", NOT)
def test_what_is_no_normalisation(name):
    assert "normalisation" not in kinds(NOT[name])


AROUND = {
    "a skip": (1, lambda f, x: x + f(x)),
    "a layer": (1, lambda f, x: f(x) @ np.diag(GAIN)),
    "a product": (2, lambda f, x: f(jnp.tanh(x)) * f(x)),
    "one another": (2, lambda f, x: f(jnp.tanh(f(x)))),
    "a half": (1, lambda f, x: 0.5 * f(x)),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", ["by var", "distributed", "linen LayerNorm", "keras LayerNormalization", "rms"])
def test_a_normalisation_is_found_among_others(name, around):
    count, f = AROUND[around]
    assert kinds(lambda x: f(ALL[name], x)).count("normalisation") == count


def held(kind, x):
    """Return the matrix and bias of a row's normalisation with its statistics held."""
    scale = 1 / np.sqrt((x.var() if kind == "centred" else np.mean(x**2)) + EPS)
    centre = np.eye(8) - 1 / 8 if kind == "centred" else np.eye(8)
    return centre * scale * GAIN, BIAS


PASSED = lambda w, b, x, r: r
ORACLES = {
    "epsilon": (jrlrp.epsilon(), oracles.epsilon_rule),
    "zero": (jrlrp.Zero(), oracles.zero),
    "cp_lrp": (jrlrp.cp_lrp(1e-6), oracles.epsilon_rule),
    "attn_lrp": (jrlrp.attn_lrp(1e-6), oracles.epsilon_rule),
    "passed on": (jrlrp.Composite([(jrlrp.match("normalisation"), jrlrp.Pass())], jrlrp.epsilon()), PASSED),
}


@pytest.mark.parametrize("rules", ORACLES)
@pytest.mark.parametrize("name", [name for name, (kind, _) in SPELLINGS.items() if kind != "any"])
def test_a_normalisation_shares_as_the_affine_layer_that_it_is(name, rules):
    kind, f = SPELLINGS[name]
    composite, oracle = ORACLES[rules]
    r = RNG.normal(size=X.shape)
    actual = jrlrp.relevance(f, rules=composite, target=lambda out: jnp.asarray(r))(X)
    expected = [
        [oracle(*held(kind, row), row, received) for row, received in zip(rows, more, strict=True)]
        for rows, more in zip(X, r, strict=True)
    ]
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_r_lrp_keeps_the_size_of_relevance_and_everything_is_finite(name):
    f = ALL[name]
    r = jax.jit(jrlrp.relevance(f, rules=jrlrp.relative(), target="all"))(X)
    np.testing.assert_allclose(np.abs(r).sum(), np.abs(f(X)).sum(), rtol=1e-5)
    explain = [
        jax.jit(jrlrp.relevance(f, rules=rules, target="all")) for rules in (None, jrlrp.relative(), jrlrp.epsilon())
    ]
    for x in (np.zeros_like(X), np.full_like(X, 1e30), X * 1e-30):
        if np.isfinite(np.asarray(f(x))).all():
            assert all(np.isfinite(run(x)).all() for run in explain)


@pytest.mark.parametrize("name", ["by var", "rms", "linen LayerNorm"])
def test_in_half_precision(name):
    x = jnp.asarray(X, jnp.bfloat16)
    f = lambda x: ALL[name](x.astype(jnp.float32)).astype(jnp.bfloat16)
    for rules in (None, jrlrp.epsilon(), jrlrp.attn_lrp()):
        r = jrlrp.relevance(f, rules=rules, target="all")(x)
        exact = jrlrp.relevance(ALL[name], rules=rules, target="all")(np.asarray(x, np.float64))
        assert r.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(r, np.float32), exact, rtol=0.1, atol=0.05 * np.abs(exact).max())


def test_an_audit_accounts_for_a_normalisation():
    for rules in (jrlrp.epsilon(), jrlrp.cp_lrp(), jrlrp.attn_lrp(), jrlrp.relative()):
        audit = jrlrp.audit(lambda x: ALL["by var"](x) @ GAIN, X, rules=rules, target="all")
        assert abs(audit.gap) < 1e-9
        if rules != jrlrp.relative():
            np.testing.assert_allclose(audit.other[list(audit.kinds).index("normalisation")], 0, atol=1e-9)


def test_rules_that_look_at_weights_are_refused():
    rules = jrlrp.Composite([(jrlrp.match("normalisation"), jrlrp.AlphaBeta())], base=jrlrp.epsilon())
    with pytest.raises(jrlrp.RuleError, match=r"normalisation .*has none"):
        jrlrp.relevance(ALL["by var"], rules=rules)(X)


@pytest.mark.parametrize("divide", [lambda y, d: y / d, lambda y, d: y * jax.lax.reciprocal(d)])
def test_a_statistic_that_divides_last_is_no_weight_where_there_is_one_example(divide):
    w = RNG.normal(size=(8, 8))

    def f(x):
        h = jnp.broadcast_to(x.mean(1, keepdims=True), x.shape)  # one number for all positions of an example
        return divide(h @ w, jnp.sqrt(mean(h * h) + EPS))[:, 0] @ w

    one = lambda x: f(x[None])[0]
    explain = lambda f: jrlrp.relevance(f, rules=jrlrp.Epsilon(0.1))
    assert "factor" in [node.kind for node in jrlrp.plan(one, X[0]).nodes]
    loop = np.stack([explain(one)(x) for x in X])
    for found in (explain(f)(jnp.asarray(X)), explain(jax.vmap(one))(X), jax.vmap(explain(one))(X)):
        np.testing.assert_allclose(found, loop, rtol=1e-9, atol=1e-12)
