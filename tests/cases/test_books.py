"""CASES.md E: an audit accounts for every program, and what used to end in a strange exception runs or is said."""

import functools
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp

X = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 1.5], [-0.5, 0.25]])
RULES = {
    "epsilon": jrlrp.epsilon(),
    "zero": jrlrp.Zero(),
    "z plus": jrlrp.ZPlus(),
    "alpha beta": jrlrp.AlphaBeta(),
    "relative": jrlrp.relative(),
    "relative plus": jrlrp.relative_plus(),
    "attn_lrp": jrlrp.attn_lrp(),
    "cp_lrp": jrlrp.cp_lrp(),
    "flat": jrlrp.epsilon_plus_flat(),
    "gradient": jrlrp.gradient_times_input(),
}


def decayed(start):
    return lambda x: jax.lax.scan(lambda c, t: (0.5 * c + t, None), start(x), x)[0]


def counted(x):
    def step(c, t):
        total, count = c
        return (total + t, count + 1), total / (count + 1)

    (total, count), means = jax.lax.scan(step, (jnp.ones(2), 0.0), x)
    return total / count + means.sum(0)


def recurrent(x):
    w = jnp.array([[0.5, -0.3], [0.2, 0.7]])
    return jax.lax.scan(lambda h, t: (jnp.tanh(h @ w + t + 0.1), h), jnp.full(2, 0.3), x)[0]


def nested(x):
    inner = lambda c: lambda d, t: (0.5 * d + t * 1.5, None)
    return jax.lax.scan(lambda c, t: (jax.lax.scan(inner(c), c, x)[0] * 0.3 + t, None), jnp.ones(2), x)[0]


def highest(x):
    return jax.lax.scan(lambda c, t: (jnp.maximum(c, t), None), jnp.full(2, 1.0), x)[0]


LOOPS = {
    "ones": decayed(lambda x: jnp.ones(2)),
    "zeros": decayed(lambda x: jnp.zeros(2)),
    "numpy": decayed(lambda x: np.array([3.0, -1.0])),
    "active": decayed(lambda x: x[0]),
    "polyval": lambda x: jnp.polyval(x[:, 0], 1.5),
    "polyval of active": lambda x: jnp.polyval(np.array([2.0, -1, 0.5]), x[:, 1]),
    "counted": counted,
    "recurrent": recurrent,
    "nested": nested,
    "highest": highest,
    "product": lambda x: jax.lax.scan(lambda c, t: (c * jnp.tanh(t), None), jnp.full(2, 2.0), x)[0],
    "fori_loop": lambda x: jax.lax.fori_loop(0, 4, lambda k, c: 0.5 * c + jnp.asarray(x)[k], jnp.ones(2)),
    "reverse": lambda x: jax.lax.scan(lambda c, t: (0.5 * c + t, c), jnp.ones(2), x, reverse=True)[1].sum(0),
    "unroll": lambda x: jax.lax.scan(lambda c, t: (0.5 * c + t, None), jnp.ones(2), x, unroll=2)[0],
    "in a remat": jax.checkpoint(decayed(lambda x: jnp.ones(2))),
    "in a cond": lambda x: jax.lax.cond(x[0, 0] > 0, decayed(lambda x: jnp.ones(2)), lambda x: x[0], x),
    "length 0": lambda x: jax.lax.scan(lambda c, t: (0.5 * c + t, None), x[0], x[:0])[0],
    "bias in a branch": lambda x: jnp.where(x[0] > 0, x[0] + 1.0, 2.0) * 3.0 + jnp.array([1.0, 2.0]),
    "concatenated constant": lambda x: jnp.concatenate([x, jnp.ones((2, 2))]).sum(0),
    "sum with a constant": lambda x: jnp.stack([x[0], jnp.ones(2)]).mean(0) + x[1] * 2.0,
    "scattered": lambda x: jnp.ones(2).at[0].add(x[0, 0]).at[1].set(x[1, 1]),
}


@pytest.mark.parametrize(
    ("name", "rules"),
    [*((name, "epsilon") for name in LOOPS), ("recurrent", "relative plus"), ("polyval of active", "relative plus")],
)
def test_an_audit_has_no_gap(name, rules):
    f = LOOPS[name]
    target = "all" if name == "polyval of active" else "max"  # one score for each example
    audit = jax.jit(lambda x: jrlrp.audit(f, x, rules=RULES[rules], target=target))(X)
    assert abs(audit.gap) < 1e-9 * max(1, np.abs(f(X)).max())


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", ["ones"])
def test_an_audit_has_no_gap_under_any_rule(name, rules):
    audit = jrlrp.audit(LOOPS[name], X, rules=RULES[rules], target="all")
    assert abs(audit.gap) < 1e-9


@pytest.mark.parametrize("name", ["ones", "recurrent"])
def test_an_audit_has_no_gap_in_a_batch_or_in_float32(name):
    batch = np.stack([X, -X, 2 * X])
    audits = jax.vmap(lambda x: jrlrp.audit(LOOPS[name], x, rules=jrlrp.epsilon()))(batch)
    np.testing.assert_allclose(audits.gap, 0, atol=1e-9)
    audit = jrlrp.audit(LOOPS["ones"], jnp.asarray(X, jnp.float32), rules=jrlrp.epsilon())
    assert abs(audit.gap) < 1e-5


def test_what_a_constant_first_state_gets():
    """c = ones/16 + x0/8 + x1/4 + x2/2 + x3: the state's own share is kept, as a bias's."""
    r = jrlrp.relevance(LOOPS["ones"], rules=jrlrp.epsilon(), target=0)(X)
    np.testing.assert_allclose(r[:, 0], X[:, 0] / [8, 4, 2, 1], rtol=1e-5)


COMPLEX = {
    "fft": lambda x: jnp.abs(jnp.fft.fft(x[:, 0])).sum(),
    "round trip": lambda x: jnp.fft.irfft(jnp.fft.rfft(x[:, 0]) * np.array([1.0, 0.5, 0.2])) @ X[:, 1],
    "made of two": lambda x: jnp.real((x[:, 0] + 1j * x[:, 1]) ** 2).sum(),
    "rotated": lambda x: jnp.real(x @ np.array([1.0, 1j]) * jnp.exp(1j * np.arange(4))).sum(),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_gradient_times_input_with_complex_numbers_inside(name):
    f = COMPLEX[name]
    expected = X * jax.grad(f)(X)
    rules = jrlrp.gradient_times_input()
    np.testing.assert_allclose(jrlrp.relevance(f, rules=rules)(X), expected, rtol=1e-7, atol=1e-9)
    audit = jrlrp.audit(f, X, rules=rules)
    assert np.isfinite(audit.gap)
    assert str(audit)
    r, captured = jrlrp.relevance(f, rules=rules, capture="*")(X)
    np.testing.assert_allclose(r, expected, rtol=1e-7, atol=1e-9)
    assert captured


APPLIED = {
    "tanh of the first": (lambda x: x.at[0].apply(jnp.tanh), jnp.tanh),
    "relu of the first": (lambda x: x.at[0].apply(jax.nn.relu), jax.nn.relu),
    "by set": (lambda x: x.at[0].set(jnp.tanh(x[0])), jnp.tanh),
    "a sine of the first": (lambda x: x.at[0].apply(lambda v: jnp.sin(v) * v), lambda v: jnp.sin(v) * v),
}


@pytest.mark.parametrize("name", APPLIED)
def test_a_function_applied_at_an_index(name):
    f, of_first = APPLIED[name]
    x, w = X[:, 0], np.array([1.0, -2.0, 0.5, 1.0])
    if jrlrp.plan(lambda x: f(x) @ w, x).unsupported:  # and then so says the call
        with pytest.raises(jrlrp.UnsupportedError):
            jrlrp.relevance(lambda x: f(x) @ w)(x)
        return
    r = jrlrp.relevance(lambda x: f(x) @ w, rules=jrlrp.epsilon())(x)
    expected = w * x
    expected[0] = w[0] * float(of_first(x[0]))
    np.testing.assert_allclose(r, expected, rtol=1e-5)


def test_deep_sums_and_products(count=1000):
    x = np.linspace(0.5, 1.5, count)
    total = lambda x: sum(x[k] for k in range(count))
    r = jax.jit(jrlrp.relevance(total, rules=jrlrp.epsilon()))(x)
    np.testing.assert_allclose(r, x, rtol=1e-4)
    product = lambda x: functools.reduce(jnp.multiply, [x[k] for k in range(count)])
    r = jax.jit(jrlrp.relevance(product, rules=jrlrp.epsilon()))(np.ones(count) * 1.001)
    np.testing.assert_allclose(r, 1.001**count / count, rtol=1e-4)


def test_under_strict_promotions():
    def net(x):
        kernel = jnp.asarray(np.linspace(-1, 1, 27).reshape(3, 3, 1, 3), x.dtype)
        z = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3
        )
        return jax.nn.relu(z).mean((1, 2))

    images = np.random.default_rng(0).normal(size=(2, 5, 5, 3))
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(images, dtype)
        for rules in (jrlrp.relative_plus(), jrlrp.epsilon_plus_flat()):
            expected = jrlrp.relevance(net, rules=rules)(x)
            with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
                found = jrlrp.relevance(net, rules=rules)(x)
                assert np.isfinite(jrlrp.audit(net, x, rules=rules).gap)
            np.testing.assert_array_equal(found, expected)


def seconds(f, x):
    def once():
        start = time.process_time()
        jrlrp.plan(f, x)
        return time.process_time() - start

    return min(once(), once())  # the first one traces what JAX keeps


def chain(count):
    def f(x):
        for _ in range(count):
            x = jnp.tanh(x)
        return x

    return f


def nest(depth):
    """Return `depth` scans in each other, of two states that begin with constants and one that feeds the next."""

    def f(x):
        def step(c, t):
            return (c[0] + c[1], nest(depth - 1)(c[1] + t)), None

        return sum(jax.lax.scan(step, (jnp.ones(2), jnp.ones(2)), jnp.stack([x, x]))[0]) if depth else jnp.tanh(x)

    return f


def test_a_plan_is_linear_in_a_chain():
    short, long = seconds(chain(500), X), seconds(chain(4000), X)
    assert long < 14 * short, (short, long)  # eight times as long


def test_a_plan_is_linear_in_the_depth_of_loops():
    short, deep = seconds(nest(4), X[0]), seconds(nest(7), X[0])
    assert deep < 6 * short, (short, deep)  # not twice as deep


E, W = np.random.default_rng(1).normal(size=(7, 4)), np.random.default_rng(2).normal(size=4)
IDS = np.array([2, 5, 5, 0, 6])

jvp_embedding = jax.custom_jvp(lambda e, i: e[i])
jvp_embedding.defjvps(lambda t, out, e, i: t[i], None)
vjp_embedding = jax.custom_vjp(lambda e, i: e[i])
vjp_embedding.defvjp(
    lambda e, i: (e[i], (i, e)),
    lambda kept, g: (jnp.zeros_like(kept[1]).at[kept[0]].add(g), np.zeros(kept[0].shape, jax.dtypes.float0)),
)


@jax.custom_jvp
def padded(e, i):
    return jnp.where((i == 0)[:, None], 0.0, e[i])


@padded.defjvp
def _(primals, tangents):
    e, i = primals
    return padded(e, i), jnp.where((i == 0)[:, None], 0.0, tangents[0][i])


EMBEDDINGS = {
    "plain": lambda e, i: e[i],
    "custom_jvp": jvp_embedding,
    "custom_vjp": vjp_embedding,
    "under jit": jax.jit(jvp_embedding),
    "in a remat": lambda e, i: jax.checkpoint(jvp_embedding)(e, i),
    "one-hot in a custom_jvp": jax.custom_jvp(lambda e, i: jax.nn.one_hot(i, 7) @ e),
    "in a custom_jvp twice": jax.custom_jvp(lambda e, i: jvp_embedding(e, i)),
}
EMBEDDINGS["one-hot in a custom_jvp"].defjvps(lambda t, out, e, i: jax.nn.one_hot(i, 7) @ t, None)
EMBEDDINGS["in a custom_jvp twice"].defjvps(lambda t, out, e, i: t[i], None)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_ids_under_gradient_times_input(name):
    f = lambda i: jnp.tanh(EMBEDDINGS[name](jnp.asarray(E), i)).mean(0) @ W
    expected = (E[IDS] * (1 - np.tanh(E[IDS]) ** 2) * W / 5).sum(1)
    for wrap in (lambda g: g, jax.jit):
        r = wrap(jrlrp.relevance(f, rules=jrlrp.gradient_times_input()))(IDS)
        np.testing.assert_allclose(r, expected, rtol=1e-5)
    assert abs(jrlrp.audit(f, IDS, rules=jrlrp.gradient_times_input()).gap) < 1e-5


def test_ids_with_a_padding_index():
    f = lambda i: jnp.tanh(padded(jnp.asarray(E), i)).mean(0) @ W
    expected = (E[IDS] * (1 - np.tanh(E[IDS]) ** 2) * W / 5).sum(1) * (IDS != 0)
    np.testing.assert_allclose(jrlrp.relevance(f, rules=jrlrp.gradient_times_input())(IDS), expected, rtol=1e-5)


@pytest.mark.parametrize("rules", [None, jrlrp.epsilon()], ids=["default", "epsilon"])
def test_a_score_that_is_nan_is_not_explained_by_finite_numbers_in_silence(rules):
    f = lambda x: jnp.log(x @ np.array([1.0, -2.0])).sum()
    x = np.array([[1.0, 2.0]])
    assert np.isnan(f(x))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            r = jrlrp.relevance(f, rules=rules)(x)
        except jrlrp.JrlrpError:
            return
    assert np.isnan(r).any() or any(issubclass(w.category, jrlrp.JrlrpWarning) for w in caught)


def test_derivatives_of_relevance_see_what_was_held():
    """A statistic that divides elsewhere than it was made hands nothing back, but the map depends on it."""
    w, v = np.random.default_rng(3).normal(size=(2, 3)), np.random.default_rng(4).normal(size=(4, 2))
    f = lambda x: (x @ w) / jnp.sqrt((x * x).mean(-1, keepdims=True))
    for wrap in (lambda g: g, jax.jit, jax.checkpoint):
        r = wrap(jrlrp.relevance(f, rules=jrlrp.epsilon(), target=1))
        score = lambda x, r=r: (r(x) * v).sum()
        steps = 1e-6 * np.eye(8).reshape(8, 4, 2)
        differences = [(score(X + h) - score(X - h)) / 2e-6 for h in steps]
        np.testing.assert_allclose(jax.grad(score)(X).ravel(), differences, rtol=1e-5, atol=1e-8)


def test_an_example_whose_score_is_nan_spoils_no_other():
    f = lambda x: jnp.sqrt(x @ np.array([1.0, -2.0]))[:, None] * np.ones(2)
    x = np.array([[1.0, 2.0], [5.0, 1.0], [6.0, 1.0]])
    for order in (slice(None), slice(None, None, -1)):
        for wrap in (lambda g: g, jax.jit):
            r = wrap(jrlrp.relevance(lambda x, order=order: f(x)[order], rules=jrlrp.epsilon()))(x)
            np.testing.assert_array_equal(np.isnan(r), [[True] * 2, [False] * 2, [False] * 2])


@pytest.mark.parametrize("of", ["branch", "turn"])
def test_what_depends_on_no_input_inside_control_flow_is_accounted_for(of):
    if of == "branch":
        f = lambda x: jax.lax.cond(x[0, 0] > 5, lambda x: x.sum(0), lambda x: jnp.full(2, 3.0), x) * 2
    else:
        f = lambda x: jax.lax.scan(lambda c, t: (jnp.full(2, 2.0), c + t), x[0], x)[1].sum(0)
    for rules in (jrlrp.epsilon(), jrlrp.gradient_times_input()):
        audit = jrlrp.audit(lambda x: f(x) + x[1], X, rules=rules)
        assert abs(audit.gap) < 1e-9
        assert str(audit)


def test_a_plan_is_linear_in_products_and_polynomials():
    def product(count):
        return lambda x: functools.reduce(lambda y, k: y * x, range(count), x)

    def horner(count):
        return lambda x: functools.reduce(lambda y, k: y * x + 0.5, range(count), x)

    for kind in (product, horner):
        short, long = seconds(kind(100), X), seconds(kind(800), X)
        assert long < 14 * short, (short, long)
