"""No NaN and no infinity from finite input, and sensible maps at any scale."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import match

RNG = np.random.default_rng(0)
K, W, B = RNG.normal(size=(3, 3, 2, 4)), RNG.normal(size=(36, 3)), RNG.normal(size=4)
X = RNG.normal(size=(4, 6, 6, 2))
RULES = {
    "relative": jrlrp.relative(),
    "relative, ratio": jrlrp.relative("ratio"),
    "relative, symmetric": jrlrp.relative("symmetric"),
    "relative plus, symmetric": jrlrp.relative_plus("symmetric"),
    "zero": jrlrp.Zero(),
    "epsilon": jrlrp.epsilon(),
    "epsilon 0": jrlrp.epsilon(0.0),
    "epsilon plus": jrlrp.epsilon_plus(),
    "alpha beta": jrlrp.AlphaBeta(epsilon=0.0),
    "distribute": jrlrp.AlphaBeta(bias="distribute"),
    "gamma": jrlrp.Gamma(epsilon=0.0),
    "classic gamma": jrlrp.Gamma(1e10, 0.0, variant="classic"),
    "deep taylor": jrlrp.deep_taylor(),
    "wsquare": jrlrp.WSquare(0.0),
    "gamma box": jrlrp.epsilon_gamma_box(-1.0, 1.0),
    "relative epsilon": jrlrp.Epsilon(0.1, relative=True),
}


def net(x, bias=True):
    k, w = K.astype(x.dtype), W.astype(x.dtype)
    y = jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = jax.nn.relu(y + B.astype(x.dtype)) if bias else jax.nn.relu(y)
    y = y + jnp.roll(y, 1, axis=2)
    y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return y.reshape(y.shape[0], -1) @ w


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_any_scale_is_finite(rules, dtype):
    with jax.enable_x64(False):
        explain = jax.jit(jrlrp.value_and_relevance(net, rules=RULES[rules]))
        for scale in (0.0, 1e-30, 1e-10, 1e10, 1e30):
            value, r = explain((jnp.asarray(X, jnp.float32) * scale).astype(dtype))
            assert np.isfinite(np.asarray(value, np.float32)).all()
            assert np.isfinite(np.asarray(r, np.float32)).all()


@pytest.mark.parametrize("rules", ["relative", "zero", "relative, ratio"])
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_maps_of_bias_free_networks_do_not_know_the_scale(rules, scale):
    with jax.enable_x64(False):
        f = jax.jit(jrlrp.relevance(lambda x: net(x, bias=False), rules=RULES[rules]))
        x = jnp.asarray(X, jnp.float32)
        np.testing.assert_allclose(f(x * scale) / scale, f(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rules", [name for name in RULES if name != "relative epsilon"])
def test_an_example_that_is_not_a_number_spoils_no_other(rules):
    x = jnp.asarray(X).at[0].set(jnp.nan)
    r = jrlrp.relevance(net, rules=RULES[rules], target=1)(x)
    np.testing.assert_allclose(r[1:], jrlrp.relevance(net, rules=RULES[rules], target=1)(jnp.asarray(X))[1:], rtol=1e-9)


@pytest.mark.parametrize("rules", RULES)
def test_a_small_example_beside_a_large_one(rules):
    with jax.enable_x64(False):
        x = jnp.asarray(X, jnp.float32) * jnp.asarray([1e20, 1e-20, 1.0, 0.0]).reshape(4, 1, 1, 1)
        explain = jax.jit(jrlrp.relevance(net, rules=RULES[rules]))
        batch = explain(x)
        for k in range(4):
            alone = explain(x[k : k + 1])[0]
            np.testing.assert_allclose(batch[k], alone, rtol=1e-3, atol=1e-4 * np.abs(alone).max())


@pytest.mark.parametrize("rules", RULES)
def test_dead_layers_and_exact_cancellation(rules):
    dead = lambda x: jax.nn.relu(x @ W[:2] - 1e6) @ W[:3]
    r = jrlrp.relevance(dead, rules=RULES[rules])(X[0, 0])
    np.testing.assert_array_equal(r, 0.0)
    cancelling = lambda x: (x @ jnp.asarray([[1.0], [1.0]])) @ jnp.ones((1, 3)) + x[:, :1]
    for x in ([[1.0, -1.0]], [[1e30, -1e30]], [[1e30, -1e30 + 1e23]]):
        with jax.enable_x64(False):
            assert np.isfinite(jrlrp.relevance(cancelling, rules=RULES[rules])(jnp.asarray(x))).all()


@pytest.mark.parametrize(
    ("rules", "looped"), [*((rules, True) for rules in RULES), ("epsilon", False), ("relative", False)]
)
def test_long_chains_of_cancelling_layers(rules, looped):
    """ε multiplies relevance wherever a layer nearly cancels; it saturates, and says nothing that is not a number."""
    w = RNG.normal(size=(8, 8)) - RNG.normal(size=(8, 1))

    def deep(x):
        layer = lambda _, x: jnp.tanh(x @ w.astype(x.dtype))
        return (
            jax.lax.fori_loop(0, 40, layer, x) if looped else functools.reduce(lambda x, k: layer(k, x), range(40), x)
        )

    for dtype in (jnp.float32, jnp.float16):
        with jax.enable_x64(False):
            r = jax.jit(jrlrp.relevance(deep, rules=RULES[rules]))(jnp.asarray(X[0, 0, :, :1] * np.ones((6, 8)), dtype))
        assert np.isfinite(np.asarray(r, np.float32)).all()


@pytest.mark.parametrize("rules", RULES)
def test_derivatives_of_relevance_are_finite_where_units_are_dead(rules):
    f = lambda x: (jax.nn.relu(x @ W[:2]) + jax.nn.relu(x @ W[:2] * 2)) @ W[:3]
    slope = jax.jit(jax.grad(lambda x: jrlrp.relevance(f, rules=RULES[rules])(x).sum()))
    with jax.enable_x64(False):
        for x in (jnp.asarray(X[0, 0], jnp.float32), jnp.zeros((2, 2), jnp.float32), -jnp.ones((2, 2), jnp.float32)):
            assert np.isfinite(slope(x)).all()


def attention(x, mask):
    """An attention in which a row that is masked out whole is 0 / 0, as `sdpa` has it in some libraries."""
    z = jnp.where(mask[:, None, :], x @ jnp.swapaxes(x, 1, 2), -jnp.inf)
    return (jax.nn.softmax(z, -1) @ x)[:, -1]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rules", [None, jrlrp.attn_lrp(), jrlrp.epsilon(), jrlrp.gradient_times_input()])
def test_the_map_of_a_score_that_is_nan_is_nan_and_an_audit_says_so(rules, compiled):
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    mask = np.arange(3)[:, None] != 1 + 0 * np.arange(4)
    maybe_jit = jax.jit if compiled else lambda f: f
    scores, r = maybe_jit(jrlrp.value_and_relevance(attention, rules=rules))(x, mask)
    np.testing.assert_array_equal(np.isnan(scores).any(-1), [False, True, False])
    np.testing.assert_array_equal(np.isnan(r), np.broadcast_to(~mask[:, :, None], r.shape))
    audit = maybe_jit(lambda *args: jrlrp.audit(attention, *args, rules=rules))(x, mask)
    assert audit.unknown == 1 and abs(audit.gap) < 1e-12 and np.isfinite(audit.received).all()
    np.testing.assert_allclose(audit.inputs, r[::2].sum(), rtol=1e-12)
    assert "NaN: 1 of the scores, and so the maps of their examples" in str(audit)
    alone = maybe_jit(lambda *args: jrlrp.audit(attention, *args, rules=rules))(x[::2], mask[::2])
    assert alone.unknown == 0 and "NaN" not in str(alone)


def steps(x):
    """Layers in a scan over time, and one after it: example 1's score is 0 / 0."""
    step = lambda h, x: (jnp.tanh(h + x @ jnp.ones((2, 3))), None)
    h, _ = jax.lax.scan(step, jnp.zeros((len(x), 3)), x.swapaxes(0, 1))
    with jax.named_scope("head"):
        z = h @ jnp.ones((3, 2))
    return z * (z / z)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_captured_relevance_of_a_score_that_is_nan_is_nan_in_loops_too(transform):
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    x[1] = 0
    both = jrlrp.value_and_relevance(steps, rules=jrlrp.epsilon(), capture=match("dense"), values=True)
    scores, (_, found) = transform(both)(x if transform is not jax.vmap else x[:, None])
    np.testing.assert_array_equal(np.isnan(np.asarray(scores)).reshape(3, -1).any(-1), [False, True, False])
    assert sorted(v.ndim - (transform is jax.vmap) for v, _ in found.values()) == [2, 3]
    for value, captured in found.values():
        axis = 0 if transform is jax.vmap else captured.ndim - 2
        rest = tuple(d for d in range(captured.ndim) if d != axis)
        np.testing.assert_array_equal(np.isnan(captured).all(rest), [False, True, False])
        np.testing.assert_array_equal(np.isnan(captured).any(rest), [False, True, False])
        assert np.isfinite(value).all()


def test_captured_relevance_is_nan_where_it_is_not_known_which_score_is():
    x = np.ones((2, 3)) * [[1.0], [np.nan]]
    _, found = jrlrp.relevance(lambda x: jnp.cumsum(x @ jnp.ones((3, 3)), 0), capture=match("dense"))(x)
    assert np.isnan(next(iter(found.values()))).all()


def test_an_audit_of_examples_of_which_it_is_not_known_which_is_nan():
    x = np.ones((2, 3)) * [[1.0], [np.nan]]
    mixed = lambda x: jnp.cumsum(x, 0) @ jnp.ones((3, 1))
    assert np.isnan(jrlrp.relevance(mixed)(x)).all()
    audit = jrlrp.audit(mixed, x)
    assert (audit.unknown, audit.output, audit.inputs, audit.gap) == (1, 3, 3, 0)
    scores = jax.vmap(lambda x: jrlrp.audit(lambda x: x @ jnp.ones((3, 2)), x))(x)
    np.testing.assert_array_equal(scores.unknown, [0, 1])
    assert "NaN: 1 of the scores" in str(scores)
