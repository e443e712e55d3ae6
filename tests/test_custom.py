"""Rules of the user's own: for a function, for a primitive, for one call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp.primitives import register

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 4))
X = RNG.normal(size=(3, 4))
REVERSED = lambda inputs, output, relevance: (relevance[..., ::-1],)
PRESETS = [jrlrp.epsilon(), jrlrp.Gamma(), jrlrp.attn_lrp()]


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(register, "_REGISTERED", {})


def whiten(x):
    """A function that no rule explains."""
    return jnp.linalg.solve(jnp.eye(4) + x.T @ x / 10, x.T).T


def custom():
    return jrlrp.custom_relevance(whiten).defrule(REVERSED)


@pytest.mark.parametrize("rules", PRESETS)
def test_a_function_with_a_rule(rules):
    f = custom()
    np.testing.assert_allclose(f(X), whiten(X))
    z = f(X @ W)
    r = jrlrp.relevance(lambda x: f(x @ W) @ W, rules=rules)(X)
    at_z = jrlrp.relevance(lambda z: z @ W, rules=rules)(z)
    expected = jrlrp.relevance(lambda x: x @ W, rules=rules, target=lambda out: at_z[..., ::-1])(X)
    np.testing.assert_allclose(r, expected, rtol=1e-9)


def test_a_function_with_a_rule_is_itself_to_jax():
    f = custom()
    np.testing.assert_allclose(jax.jit(f)(X), whiten(X))
    np.testing.assert_allclose(jax.vmap(f)(X[None]), whiten(X)[None])
    np.testing.assert_allclose(jax.grad(lambda x: f(x).sum())(X), jax.grad(lambda x: whiten(x).sum())(X))
    x = jnp.asarray(X)
    np.testing.assert_allclose(jax.jvp(f, (x,), (x,))[1], jax.jvp(whiten, (x,), (x,))[1])
    gradient = jrlrp.relevance(f, rules=jrlrp.gradient_times_input(), target="all")(X)
    np.testing.assert_allclose(gradient, X * jax.grad(lambda x: whiten(x).sum())(X), rtol=1e-9)


def test_a_function_with_a_rule_under_transforms():
    f = custom()
    net = lambda x: f(x @ W) @ W
    expected = jrlrp.relevance(net)(X)
    batch = jnp.stack([X, 2 * X])
    np.testing.assert_allclose(jax.jit(jrlrp.relevance(net))(X), expected, rtol=1e-9)
    np.testing.assert_allclose(jrlrp.relevance(jax.jit(net))(X), expected, rtol=1e-9)
    np.testing.assert_allclose(jax.vmap(jrlrp.relevance(net))(batch)[0], expected, rtol=1e-9)
    np.testing.assert_allclose(
        jrlrp.relevance(jax.vmap(net), rules=jrlrp.epsilon())(batch)[0],
        jrlrp.relevance(net, rules=jrlrp.epsilon())(X),
        rtol=1e-9,
    )


def test_what_is_mapped_is_mapped_in_the_rule_too():
    scaled = jrlrp.custom_relevance(lambda x, s: x * s)
    scaled.defrule(lambda inputs, output, r: (r * inputs[1], jnp.sum(r)))
    x, s = jnp.asarray(RNG.normal(size=(3, 4))), jnp.asarray([1.0, 2.0, 3.0])
    for axes, args in (((0, 0), (x, s)), ((1, 0), (x.T, s)), ((0, None), (x, s[1]))):
        batched = jax.vmap(scaled, in_axes=axes)
        rx, rs = jrlrp.relevance(batched, (0, 1), target="all")(*args)
        each = [jrlrp.relevance(scaled, (0, 1), target="all")(x[k], s[k] if axes[1] == 0 else s[1]) for k in range(3)]
        np.testing.assert_allclose(jnp.moveaxis(rx, axes[0], 0), jnp.stack([e[0] for e in each]))
        stacked = jnp.stack([e[1] for e in each])
        np.testing.assert_allclose(rs, stacked if axes[1] == 0 else stacked.sum())


def test_pytrees_constants_and_closures():
    @jrlrp.custom_relevance
    def pick(pair, scale, *, flip=False):
        return {"out": (pair[0] - pair[1] if flip else pair[0] + pair[1]) * scale @ W}

    @pick.defrule
    def _(inputs, output, relevance):
        pair, scale = inputs
        assert pair[0].shape == output["out"].shape and jnp.ndim(scale) == 0
        return (relevance["out"], 0 * relevance["out"]), None

    r = jax.jit(lambda w: jrlrp.relevance(lambda x: pick((x, x @ w), 2.0, flip=True)["out"], target="all")(X))(W)
    np.testing.assert_allclose(r, (X - X @ W) * 2.0 @ W, rtol=1e-9)
    closed = lambda w: jrlrp.custom_relevance(lambda x: x @ w).defrule(REVERSED)
    g = jax.jit(lambda w: jrlrp.relevance(lambda x: closed(w)(x), target="all")(X))
    np.testing.assert_allclose(g(W), (X @ W)[:, ::-1])


def test_rules_that_give_something_else_are_errors():
    for rule, message in (
        (lambda i, o, r: r, "expected .*1"),
        (lambda i, o, r: (r, r), "expected .*1"),
        (lambda i, o, r: (r[0],), r"relevance of shape \(4,\); expected \(3, 4\)"),
    ):
        with pytest.raises(jrlrp.RuleError, match=message):
            jrlrp.relevance(jrlrp.custom_relevance(whiten).defrule(rule))(X)
    with pytest.raises(jrlrp.RuleError, match="has no rule"):
        jrlrp.custom_relevance(whiten)(X)
    with pytest.raises(jrlrp.ArgumentError, match="expected a function"):
        jrlrp.custom_relevance(3)
    with pytest.raises(jrlrp.ArgumentError, match="expected rule"):
        jrlrp.custom_relevance(whiten).defrule(None)
    with pytest.raises(jrlrp.RuleError, match=r"shapes \[\(4,\)\]; expected a tuple with an entry for each operand"):
        jrlrp.relevance(jnp.linalg.cholesky, primitives={"cholesky": lambda i, o, r: (r[0],)}, target="all")(jnp.eye(4))


ROOT = lambda x: jnp.linalg.cholesky(x @ x.T + jnp.eye(3)) @ X
HALVED = lambda inputs, output, relevance: (relevance / 2,)


def test_a_primitive_gets_a_rule_for_one_call():
    with pytest.raises(jrlrp.UnsupportedError, match="cholesky"):
        jrlrp.relevance(ROOT)(X)
    r = jax.jit(jrlrp.relevance(ROOT, primitives={"cholesky": HALVED}))(X)
    assert np.isfinite(r).all() and np.any(r)
    (node,) = [n for n in jrlrp.plan(ROOT, X, primitives={"cholesky": HALVED}).nodes if n.kind == "custom"]
    assert node.equations == ("cholesky",)
    with pytest.raises(jrlrp.UnsupportedError, match="cholesky"):  # the next call knows nothing of it
        jrlrp.relevance(ROOT)(X)
    out, propagate = jrlrp.pullback(ROOT, X, primitives={"cholesky": HALVED})
    np.testing.assert_allclose(propagate(jnp.ones_like(out))[0].shape, X.shape)
    passed = jrlrp.audit(ROOT, X, primitives={"cholesky": HALVED})
    k = passed.kinds.index("custom")
    np.testing.assert_allclose(passed.passed[k], passed.received[k] / 2)


def test_a_primitive_gets_a_rule_for_good():
    jrlrp.register_rule("cholesky", HALVED)
    expected = jrlrp.relevance(ROOT, primitives={"cholesky": HALVED})(X)
    np.testing.assert_allclose(jrlrp.relevance(ROOT)(X), expected)
    jrlrp.register_rule(jax.lax.tanh_p, jrlrp.Block())
    assert [node.kind for node in jrlrp.plan(lambda x: jnp.tanh(x) * 2.0, X).nodes] == ["custom", "factor"]
    with pytest.raises(jrlrp.UnreachedError, match="custom tanh"):
        jrlrp.relevance(jnp.tanh, target="all")(X)


@pytest.mark.parametrize("rule", [jrlrp.Pass(), jrlrp.Gradient(), jrlrp.Block()])
def test_rules_that_ask_nothing_of_a_node_serve_primitives(rule):
    beside = lambda x: ROOT(x) + x.sum()  # which Block leaves
    r = jrlrp.relevance(beside, primitives={"cholesky": rule}, rules=jrlrp.epsilon())(X)
    assert np.isfinite(r).all() and np.any(r)


def test_a_primitive_gets_a_kind_for_one_call():
    plan = jrlrp.plan(lambda x: jnp.linalg.cholesky(x @ x.T) @ X, X, primitives={"cholesky": "movement"})
    assert not plan.unsupported


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jrlrp.register_rule("cholesky", "movement"), "expected rule"),
        (lambda: jrlrp.register_rule("cholesky", 3), "expected a kind, a function rule"),
        (lambda: jrlrp.register_rule("cholesky", jrlrp.Epsilon()), "a rule that serves any node"),
        (lambda: jrlrp.register_kind("cholesky", HALVED), "Rules go to register_rule"),
        (lambda: jrlrp.relevance(ROOT, primitives=["cholesky"]), "expected a mapping"),
        (lambda: jrlrp.relevance(ROOT, primitives={"cholesky": "magic"}), "expected one of activation"),
        (lambda: jrlrp.relevance(ROOT, primitives={3: HALVED}), "a JAX primitive or its name"),
    ],
)
def test_wrong_declarations_are_errors(call, message):
    with pytest.raises(jrlrp.ArgumentError, match=message):
        call()
