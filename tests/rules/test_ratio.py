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


GATE = rng.normal(size=(6, 6))


def gated(x, small):
    """A gate of small values, whose relevance comes as R and has to go on as a ratio."""
    gate, value = jnp.asarray(GATE, x.dtype), jnp.asarray(W, x.dtype)
    return (jax.nn.sigmoid((x * jnp.asarray(small, x.dtype)) @ gate) * (x @ value)) @ value


@pytest.mark.parametrize("small", [1e-3, 1e-5, 1e-18, 1e-37])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_relevance_over_small_values_is_bounded(dtype, small):
    x = jnp.asarray(X[:, 0], dtype)
    explain = jax.jit(jrlrp.relevance(lambda x: gated(x, small), rules=jrlrp.attn_lrp(), target="all"))
    found = np.asarray(explain(x), np.float64)
    sizes = np.abs(np.asarray(gated(x, small), np.float64)).sum(-1)
    assert np.isfinite(found).all() and (np.abs(found).sum(-1) < 100 * sizes).all()
    if small >= 1e-5:  # and none of it is lost
        np.testing.assert_allclose(found.sum(-1), np.asarray(gated(x, small), np.float64).sum(-1), rtol=0.1, atol=0.1)


def test_an_audit_names_where_ratios_are_at_their_bound():
    audit = jrlrp.audit(lambda x: gated(x, 1e-37), jnp.asarray(X[:, 0], jnp.float32), rules=jrlrp.attn_lrp())
    assert "saturates at dense#0" in str(audit)


def of_nothing(self, layer, inputs, output, relevance):
    return tuple(jnp.zeros_like(x) for x in inputs)


def no_portions(self, layer, x, output):
    return []


@pytest.mark.parametrize(
    ("rule", "written", "kind", "f"),
    [
        (jrlrp.Epsilon, {"portions": no_portions}, "dense", lambda x: x @ W),
        (jrlrp.Zero, {"portions": no_portions}, "dense", lambda x: x @ W),
        (jrlrp.Epsilon, {"__call__": of_nothing}, "dense", lambda x: x @ W),
        (jrlrp.Pass, {"__call__": of_nothing}, "activation", lambda x: jnp.tanh(x) @ W),
        (jrlrp.ShareRatio, {"__call__": of_nothing}, "sum", lambda x: (x @ V + x) @ W),
        (jrlrp.Uniform, {"__call__": of_nothing}, "product", lambda x: (x * x[..., ::-1]) @ W),
        (jrlrp.SoftmaxTaylor, {"__call__": of_nothing}, "softmax", lambda x: jax.nn.softmax(x) @ W),
    ],
)
def test_what_a_subclass_says_of_relevance_holds(rule, written, kind, f):
    own = type("Own", (rule,), written)
    rules = jrlrp.Composite([(jrlrp.match(kind), own())], base=jrlrp.attn_lrp())
    np.testing.assert_array_equal(jrlrp.relevance(f, rules=rules)(X[:, 0]), 0)
