"""Relevance that travels as its ratio to the value: against formulas of R, on every edge, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrlrp
from jrlrp.rules.ratio import damped, of_ratio, over, times

rng = np.random.default_rng(0)
W, V, U = rng.normal(size=(3, 6, 6)) / 2
X = rng.normal(size=(3, 4, 6))


def norm(h):
    return (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)


def transformer(x):
    h = norm(x)
    x = x + jax.nn.softmax((h @ W) @ (h @ V).swapaxes(1, 2) / 6**0.5) @ (h @ U)
    return (x + jax.nn.gelu(norm(x) @ W) @ V).mean(1) @ U


def recurrent(x):
    def turn(state, x):
        h, c = state
        c = jax.nn.sigmoid(x @ V) * c + jax.nn.sigmoid(h @ U) * jnp.tanh(x @ W + h @ V)
        return (jnp.tanh(c), c), h

    (h, _), states = lax.scan(turn, (jnp.zeros((3, 6)), jnp.zeros((3, 6))), x.swapaxes(0, 1))
    return (h + states.mean(0)) @ W


def branches(x):
    """Branches that need R or the ratio of one operand, one of them nothing but it, in a scan, rematerialised."""
    layer = jax.checkpoint(lambda h: jnp.tanh(h @ W))

    def turn(h, k):
        h = lax.switch(k % 3, [lambda h: h, lambda h: jax.nn.softplus(h @ V), layer], h)
        return h + 0.1 * lax.scan(lambda c, _: (jax.nn.relu(c @ U), c), h, length=2)[1].sum(0), h.mean(1)

    h, means = lax.scan(turn, x, jnp.arange(4))
    return h.mean(1) @ V + means.sum(0)


NETWORKS = {"transformer": transformer, "recurrent": recurrent, "branches": branches}
RULES = {
    "attn_lrp": jrlrp.attn_lrp(),
    "attn_lrp, ε": jrlrp.attn_lrp(1e-3),
    "cp_lrp": jrlrp.cp_lrp(),
    "epsilon": jrlrp.epsilon(),
    "epsilon plus": jrlrp.epsilon_plus(),
    "Zero": jrlrp.Zero(),
    "Gamma": jrlrp.Gamma(),
    "relative": jrlrp.relative(),
}


@pytest.fixture
def as_relevance(monkeypatch):
    """Let every rule take and give R, as its `__call__` has it."""

    def use():
        for rule in (jrlrp.Epsilon, jrlrp.Zero, jrlrp.Pass, jrlrp.ShareRatio, jrlrp.SoftmaxTaylor, jrlrp.Uniform):
            monkeypatch.setattr(rule, "hands", lambda self, node, received: jrlrp.rules.base.Form.RELEVANCE)

    return use


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_map_is_that_of_the_formulas_of_relevance(network, rules, as_relevance):
    f, x = NETWORKS[network], jnp.asarray(X)
    found = jrlrp.relevance(f, rules=RULES[rules], target=1)(x)
    compiled = jax.jit(jrlrp.relevance(f, rules=RULES[rules], target=1))(x)
    as_relevance()
    expected = jrlrp.relevance(f, rules=RULES[rules], target=1)(x)
    scale = np.max(np.abs(expected))
    assert np.max(np.abs(found - expected)) <= 1e-9 * scale and np.max(np.abs(compiled - found)) <= 1e-9 * scale


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("network", NETWORKS)
def test_books_close_and_what_is_captured_changes_nothing(network, rules):
    f, x = NETWORKS[network], jnp.asarray(X)
    audit = jrlrp.audit(f, x, rules=RULES[rules], target=1)
    assert abs(audit.gap) <= 1e-10 * (np.sum(audit.size_received) + abs(audit.output))
    r, captured = jrlrp.relevance(f, rules=RULES[rules], target=1, capture="*")(x)
    alone = jrlrp.relevance(f, rules=RULES[rules], target=1)(x)
    assert np.max(np.abs(r - alone)) <= 1e-10 * np.max(np.abs(alone))
    assert all(np.isfinite(part).all() for part in jax.tree.leaves(captured))


@pytest.mark.parametrize("rules", ["attn_lrp", "attn_lrp, ε", "cp_lrp", "epsilon", "Zero"])
@pytest.mark.parametrize("network", NETWORKS)
def test_derivatives_of_relevance(network, rules):
    f, x = NETWORKS[network], jnp.asarray(X)
    weights, direction = np.random.default_rng(1).normal(size=(2, *X.shape))
    total = lambda x: jnp.vdot(jrlrp.relevance(f, rules=RULES[rules], target=1)(x), weights)
    step = 1e-6
    expected = (total(x + step * direction) - total(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.grad(total)(x), direction), expected, 1e-3)


def test_zero_is_gradient_times_input_where_units_are_zero_too():
    x = jnp.asarray(np.round(X))  # whole numbers, that cancel to 0
    f = lambda x: jax.nn.relu(jax.nn.relu(x @ np.round(2 * W)) @ np.round(2 * V)).max(1) @ np.round(2 * U)
    hidden = x @ np.round(2 * W)
    assert np.sum(hidden == 0) > 3
    r = jrlrp.relevance(f, rules=jrlrp.Zero(), target=0)(x)
    np.testing.assert_array_equal(r, jrlrp.relevance(f, rules=jrlrp.gradient_times_input(), target=0)(x))


def test_relevance_that_is_given_to_a_unit_that_is_zero_has_no_ratio():
    _, back = jrlrp.pullback(lambda x: x @ jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.ones((1, 2)), rules=jrlrp.Zero())
    np.testing.assert_array_equal(back(jnp.array([[0.0, 3.0]]))[0], np.zeros((1, 2)))
    np.testing.assert_array_equal(back(jnp.array([[2.0, 3.0]]))[0], np.ones((1, 2)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu", "tanh", "elu", "selu", "sin", "square", "cbrt"])
def test_activations_that_vanish_at_zero_pass_relevance_on(name, dtype):
    act = getattr(jax.nn, name, None) or getattr(jnp, name)
    x = jnp.asarray([[-3.0, -1.0, -1e-3, 0.0, 1e-3, 0.5, 2.0]], dtype)
    r = jrlrp.relevance(act, rules=jrlrp.Zero(), target="all")(x)
    assert np.isfinite(np.asarray(r, np.float32)).all()
    fine = 8 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(r, np.float32), np.asarray(act(x), np.float32), fine, fine)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_a_traced_epsilon_is_as_good_as_a_number(epsilon):
    f, x = transformer, jnp.asarray(X)
    explain = lambda e: jrlrp.relevance(f, rules=jrlrp.epsilon(e), target=0)(x)
    several = jax.vmap(explain)(jnp.asarray([0.3, epsilon]))
    np.testing.assert_allclose(several[1], explain(epsilon), 1e-9, 1e-12)
    slope = jax.jvp(lambda e: explain(e).sum(), (0.1,), (1.0,))[1]
    expected = (explain(0.1 + 1e-6).sum() - explain(0.1 - 1e-6).sum()) / 2e-6
    np.testing.assert_allclose(slope, expected, 1e-4)


def test_conversions_are_identities_whose_pullbacks_multiply_and_divide():
    v = jnp.asarray([2.0, -0.5, 0.0, jnp.inf])
    c = jnp.asarray([3.0, 4.0, 5.0, 6.0])
    for function in (times, lambda v: over(v, 0.0), lambda v: damped(v, 0.5)):
        np.testing.assert_array_equal(function(v), v)
    np.testing.assert_array_equal(jax.vjp(times, v)[1](c)[0], [6.0, -2.0, 0.0, 0.0])
    np.testing.assert_array_equal(of_ratio(c, v), [6.0, -2.0, 0.0, 0.0])
    np.testing.assert_allclose(jax.vjp(lambda v: over(v, 0.5), v)[1](c)[0], [1.2, -4.0, 10.0, 0.0])
    np.testing.assert_array_equal(jax.vjp(lambda v: over(v, 0.0), v)[1](c)[0], [1.5, -8.0, 0.0, 0.0])
    np.testing.assert_allclose(jax.vjp(lambda v: damped(v, 0.5), v)[1](c)[0][:3], [2.4, 2.0, 0.0])
    np.testing.assert_array_equal(jax.vjp(lambda v: damped(v, 0.0), v)[1](c)[0], c)
