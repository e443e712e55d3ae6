"""Rules of sums, products, activations, max-pools and softmax, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import Composite, match

A, B = np.array([1.0, -2.0, 3.0, 0.0]), np.array([2.0, 1.0, -3.0, 0.0])


def shares(f, *args, **options):
    return jrlrp.relevance(f, tuple(range(len(args))), target="all", **options)(*[jnp.asarray(a) for a in args])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (jrlrp.ShareRatio(0.0), ([1.0, -2.0, 3.0, 0.0], [2.0, 1.0, -3.0, 0.0])),
        (jrlrp.ShareAbsolute(), ([1.0, -2 / 3, 0.0, 0.0], [2.0, -1 / 3, 0.0, 0.0])),
        (jrlrp.ShareEqual(), ([1.5, -0.5, 0.0, 0.0], [1.5, -0.5, 0.0, 0.0])),
    ],
)
def test_sums(rule, expected):
    actual = shares(lambda a, b: a + b, A, B, rules=Composite([(match("sum"), rule)]))
    for part, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(part, wanted, atol=1e-12)


def test_a_difference_is_a_sum_with_a_negative_part():
    a, b = shares(lambda a, b: a - b, A, B, rules=Composite([(match("sum"), jrlrp.ShareRatio(0.0))]))
    np.testing.assert_allclose(a, A)
    np.testing.assert_allclose(b, -B)


def test_exact_cancellation_is_shared_within_bounds():
    a, b = shares(lambda a, b: (a + b) * 0 + 1.0 + (a + b), [3.0], [-3.0], rules=jrlrp.epsilon())
    assert np.isfinite(a).all() and np.isfinite(b).all()


def test_the_order_of_a_sum_does_not_matter():
    args = [np.array([1.0, 4.0]), np.array([-2.0, 0.5]), np.array([3.0, 1.0])]
    orders = [lambda a, b, c: (a + b) + c, lambda a, b, c: a + (b + c), lambda a, b, c: b - (-c - a)]
    results = [shares(f, *args) for f in orders[:2]]
    np.testing.assert_allclose(results[0], results[1])
    np.testing.assert_allclose(results[0], shares(lambda a, b, c: c + (b + a), *args))


def test_constants_of_a_sum_belong_to_it_wherever_the_brackets_stand():
    w, b = np.random.default_rng(0).normal(size=(4, 4)), np.random.default_rng(1).normal(size=4)
    x = np.random.default_rng(2).normal(size=(3, 4))
    h, p = lambda x: jnp.tanh(x @ w), lambda x: jax.nn.relu(x @ w.T)
    spellings = [
        lambda x: ((h(x) + p(x)) + b) @ w,
        lambda x: (h(x) + (p(x) + b)) @ w,
        lambda x: ((h(x) + b) + p(x)) @ w,
        lambda x: sum([h(x), p(x), b]) @ w,
        lambda x: (h(x) - (-b - p(x))) @ w,
        lambda x: -((-b - h(x)) - p(x)) @ w,
        lambda x: (((h(x) + b / 2) + p(x)) + b / 2) @ w,
    ]
    for rules in (jrlrp.relative(), jrlrp.AlphaBeta(), jrlrp.epsilon()):
        expected = jrlrp.relevance(spellings[0], rules=rules)(x)
        for f in spellings[1:]:
            assert [node.kind for node in jrlrp.plan(f, x).nodes].count("scale") == 0
            np.testing.assert_allclose(jrlrp.relevance(f, rules=rules)(x), expected, rtol=1e-9)
    relu = lambda x: ((jax.nn.relu(x @ w) + p(x)) + b) @ w
    zero = jrlrp.relevance(relu, rules=jrlrp.Zero())(x)
    score = lambda x: relu(x).max(-1).sum()
    np.testing.assert_allclose(zero, x * jax.grad(score)(jnp.asarray(x)), rtol=1e-9)


def test_a_constant_between_sums_does_not_part_them():
    a, b, c, d = (np.random.default_rng(k).normal(size=4) for k in range(4))
    expected = shares(lambda a, b, d: a + b + d + c, a, b, d, rules=jrlrp.relative())
    for f in (lambda a, b, d: a + b + c + d, lambda a, b, d: (a + c) + (b + d), lambda a, b, d: d - (-c - (a + b))):
        assert [node.kind for node in jrlrp.plan(f, a, b, d, argnums=(0, 1, 2)).nodes] == ["sum"]
        for part, wanted in zip(shares(f, a, b, d, rules=jrlrp.relative()), expected, strict=True):
            np.testing.assert_allclose(part, wanted)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda z, c, w: (z + c) + (z - w), lambda z, c, w: 2 * z + (c - w)),
        (lambda z, c, w: z - (z - c) * w, lambda z, c, w: z * (1 - w) + c * w),
    ],
)
def test_linear_parts_that_meet_again_are_no_activation(one, other):
    rng = np.random.default_rng(0)
    a, h, c, w = rng.normal(size=(4, 5)), rng.normal(size=(5, 3)), rng.normal(size=5), rng.normal(size=5)
    x = jnp.asarray(rng.normal(size=(2, 4)))
    f, g = (lambda x, m=m: m(x @ a, c, w) @ h for m in (one, other))
    zero = jrlrp.relevance(f, rules=jrlrp.Zero())(x)
    np.testing.assert_allclose(zero, x * jax.grad(lambda x: f(x).max(-1).sum())(x), rtol=1e-9)
    np.testing.assert_allclose(zero, jrlrp.relevance(g, rules=jrlrp.Zero())(x), rtol=1e-9)


def test_a_constant_between_two_sums_is_taken_once():
    b = np.array([1.0, 2.0])
    f = lambda x, y, z: jnp.tanh((x + y + b) * 1.0) + ((x * 2 + y) + b) * np.array([1.0, 3.0]) + z
    r = shares(f, np.ones(2), np.ones(2), np.ones(2), rules=jrlrp.epsilon())
    assert all(np.isfinite(part).all() for part in r)


def test_adding_to_an_array_at_indices_is_a_sum():
    a, b = np.array([1.0, 2.0, 3.0]), np.array([4.0, -1.0])
    index = np.array([0, 0])
    for rules in (jrlrp.relative(), jrlrp.epsilon(), jrlrp.Zero()):
        added = shares(lambda a, b: a.at[index].add(b), a, b, rules=rules)
        plain = shares(lambda a, b: a + jnp.zeros(3).at[index].add(b), a, b, rules=rules)
        for part, expected in zip(added, plain, strict=True):
            np.testing.assert_allclose(part, expected)
    onto_constant = shares(lambda b: jnp.asarray(a).at[index].add(b), b, rules=jrlrp.Zero())
    np.testing.assert_allclose(onto_constant, [b])


def test_a_broadcast_summand_gets_the_sum_of_its_parts():
    a, b = shares(lambda a, b: a + b, np.ones((3, 1)), np.ones((3, 4)))
    assert a.shape == (3, 1)
    np.testing.assert_allclose(a, 4.0)
    np.testing.assert_allclose(b, 1.0)


@pytest.mark.parametrize("gate", [jax.nn.sigmoid, lambda x: jnp.clip(x, 0, 1), lambda x: 1 - jax.nn.sigmoid(x)])
def test_a_gate_gets_nothing_and_the_signal_all(gate):
    f = lambda signal, x: signal * gate(x)
    signal, x = shares(f, A, B)
    np.testing.assert_allclose(signal, f(A, B))
    np.testing.assert_allclose(x, 0.0)


def test_factors_without_a_gate_share_alike():
    a, b, c = shares(lambda a, b, c: a * b * c, A, B, A)
    np.testing.assert_allclose(a, A * B * A / 3)
    np.testing.assert_allclose(b, A * B * A / 3)
    np.testing.assert_allclose(c, A * B * A / 3)


def test_attention_weights_are_gates_and_values_a_linear_layer():
    rng = np.random.default_rng(0)
    scores, values = rng.normal(size=(3, 5)), rng.normal(size=(5, 2))
    s, v = shares(lambda s, v: jax.nn.softmax(s) @ v, scores, values, rules=jrlrp.Zero())
    weights = np.asarray(jax.nn.softmax(scores))
    np.testing.assert_allclose(s, 0.0)
    np.testing.assert_allclose(v, values * weights.sum(0)[:, None])  # R is the output: Σ_i w_ij v_jk


def test_a_matrix_product_of_signals_gives_each_half():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 5)), rng.normal(size=(5, 2))
    ra, rb = shares(lambda a, b: a @ b, a, b, rules=jrlrp.Zero())
    np.testing.assert_allclose(ra, a * b.sum(1) / 2)
    np.testing.assert_allclose(rb, b * a.sum(0)[:, None] / 2)


def test_a_matrix_times_its_own_transpose():
    x = np.random.default_rng(0).normal(size=(3, 5))
    (r,) = shares(lambda x: x @ x.T, x, rules=jrlrp.Zero())
    np.testing.assert_allclose(r.sum(), (x @ x.T).sum())


def test_max_pool_gives_all_to_the_winner():
    x = np.array([[1.0, 5.0, 2.0, 3.0]])
    pool = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2), (1, 2), "VALID")
    (r,) = shares(pool, x)
    np.testing.assert_allclose(r, [[0.0, 5.0, 0.0, 3.0]])
    a, b = shares(jnp.maximum, np.array([1.0, 4.0]), np.array([2.0, 3.0]))
    np.testing.assert_allclose(a, [0.0, 4.0])
    np.testing.assert_allclose(b, [2.0, 0.0])


def test_proportional_shares_a_window_by_positive_parts():
    rules = Composite([(match("max_pool"), jrlrp.Proportional(0.0))])
    x = np.array([[1.0, 5.0, -2.0, 3.0], [-1.0, -4.0, 6.0, 2.0]])
    pool = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2), (1, 2), "VALID")
    (r,) = shares(pool, x, rules=rules)
    np.testing.assert_allclose(r, [[5 / 6, 25 / 6, 0.0, 3.0], [0.0, 0.0, 4.5, 1.5]])
    (r,) = shares(lambda x: x.max(1), x, rules=rules)
    np.testing.assert_allclose(r, [[5 / 9, 25 / 9, 0.0, 15 / 9], [0.0, 0.0, 4.5, 1.5]])
    a, b = shares(jnp.maximum, x[0], x[1], rules=rules)
    np.testing.assert_allclose(a, [1.0, 5.0, 0.0, 9 / 5])
    np.testing.assert_allclose(b, [0.0, 0.0, 6.0, 6 / 5])


def test_proportional_with_overlap_padding_and_dilation():
    x = np.random.default_rng(0).normal(size=(2, 7, 7, 3))
    options = {"padding": ((0, 0), (1, 1), (2, 0), (0, 0)), "window_dilation": (1, 2, 1, 1)}
    pool = lambda op, start: lambda x: jax.lax.reduce_window(x, start, op, (1, 3, 3, 1), (1, 2, 1, 1), **options)
    biggest, total = pool(jax.lax.max, -jnp.inf), pool(jax.lax.add, 0.0)
    rules = Composite([(match("max_pool"), jrlrp.Proportional(0.1))])
    r = jax.jit(jrlrp.relevance(biggest, rules=rules, target="all"))(x)
    positive = jnp.maximum(x, 0)
    sums, back = jax.vjp(total, positive)
    np.testing.assert_allclose(r, positive * back(biggest(x) / (sums + 0.1))[0])


@pytest.mark.parametrize("f", [lambda x: jnp.sort(x), lambda x: x.min(0), lambda x: jax.lax.top_k(x, 2)[0]])
def test_proportional_is_for_maxima(f):
    rules = Composite([(match("max_pool"), jrlrp.Proportional())], base=jrlrp.epsilon())
    with pytest.raises(jrlrp.RuleError, match="maxima over windows, over axes and of two values"):
        jrlrp.relevance(f, rules=rules, target="all")(jnp.ones(4))


def test_uniform_gives_gates_their_part():
    gate = lambda x: jax.nn.sigmoid(x)
    rules = Composite([(match("product"), jrlrp.Uniform())])
    signal, x = shares(lambda signal, x: signal * gate(x), A, B, rules=rules)
    np.testing.assert_allclose(signal, A * gate(B) / 2)
    np.testing.assert_allclose(x, A * gate(B) / 2)


def test_uniform_of_a_matrix_product():
    """AttnLRP's Proposition 3.3 for softmax(S) V: both operands get half."""
    rng = np.random.default_rng(0)
    a, b, r = rng.uniform(0.1, 1, size=(3, 5)), rng.normal(size=(5, 2)), rng.normal(size=(3, 2))
    rules = Composite([(match("product"), jrlrp.Uniform(jrlrp.Zero()))])
    ra, rb = jrlrp.relevance(lambda a, b: a @ b, (0, 1), rules=rules, target=lambda out: r)(a, b)
    np.testing.assert_allclose(ra, a * ((r / (2 * a @ b)) @ b.T))
    np.testing.assert_allclose(rb, b * (a.T @ (r / (2 * a @ b))))


def test_values_only_holds_attention_and_activated_gates_constant():
    rng = np.random.default_rng(0)
    s, v, w = rng.normal(size=(3, 5)), rng.normal(size=(5, 2)), rng.normal(size=(2, 2))
    rules = jrlrp.cp_lrp(0.0)
    attention = lambda s, v: jnp.einsum("ij,jk->ik", jnp.swapaxes(jax.nn.softmax(s).T * 0.5, 0, 1), v)
    rs, rv = shares(attention, s, v, rules=rules)
    np.testing.assert_allclose(rs, 0.0)
    np.testing.assert_allclose(rv, v * (0.5 * jax.nn.softmax(s)).sum(0)[:, None])
    swiglu = lambda x, y: jax.nn.silu(x @ w) * (y @ w)
    rx, ry = shares(swiglu, v, v, rules=rules)
    np.testing.assert_allclose(rx, 0.0)
    np.testing.assert_allclose(ry.sum(), swiglu(v, v).sum())
    both = lambda x, y: jnp.tanh(x) * jax.nn.silu(y)  # no factor is plain: each gets half
    rx, ry = shares(both, v, v, rules=rules)
    np.testing.assert_allclose(rx, both(v, v) / 2)
    np.testing.assert_allclose(ry, rx)


def test_softmax_taylor_against_its_formula():
    x, r = np.array([0.5, -1.0, 2.0]), np.array([1.0, -0.5, 2.0])
    s = np.asarray(jax.nn.softmax(x))
    f = lambda x: jnp.cumsum(jax.nn.softmax(x))  # a sum after it, so that it is not the last softmax
    rules = Composite([(match("average_pool"), jrlrp.Zero()), (match("softmax"), jrlrp.SoftmaxTaylor())])
    actual = jrlrp.relevance(f, rules=rules, target=lambda out: r)(jnp.asarray(x))
    into = s * np.cumsum((r / np.cumsum(s))[::-1])[::-1]
    np.testing.assert_allclose(actual, x * (into - s * into.sum()), rtol=1e-10)


def test_masked_entries_of_a_softmax_get_nothing():
    x = jnp.asarray([0.5, -jnp.inf, 2.0])
    f = lambda x: jnp.cumsum(jax.nn.softmax(x))
    r = jrlrp.relevance(f, rules=jrlrp.epsilon(), target="all")(x)
    assert np.isfinite(r).all() and r[1] == 0


def test_gradient_is_gradient_times_input_of_the_node():
    f = lambda x: jnp.tanh(x)
    x = jnp.asarray([0.3, -2.0])
    rules = Composite([(match("activation"), jrlrp.Gradient(0.0))], base=jrlrp.epsilon())
    np.testing.assert_allclose(jrlrp.relevance(f, rules=rules, target="all")(x), x * (1 - jnp.tanh(x) ** 2))


def test_block_hands_nothing_on():
    r = jrlrp.relevance(lambda x: x @ jnp.ones((2, 2)) + x, rules=jrlrp.Block())(jnp.asarray([1.0, 3.0]))
    np.testing.assert_allclose(r, [0.0, 3.0], rtol=1e-5)  # what x itself has a part in


KINKED = {  # linear on both sides of 0, but not everywhere
    "relu6": (jax.nn.relu6, lambda x: np.clip(x, 0, 6)),
    "clip": (lambda x: jnp.clip(x, -5, 5), lambda x: np.clip(x, -5, 5)),
    "minimum": (lambda x: jnp.minimum(x, 6), lambda x: np.minimum(x, 6)),
    "soft threshold": (
        lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 5, 0),
        lambda x: np.sign(x) * np.maximum(np.abs(x) - 5, 0),
    ),
    "hard threshold": (lambda x: jnp.where(jnp.abs(x) > 5, x, 0), lambda x: np.where(np.abs(x) > 5, x, 0)),
    "bump": (
        lambda x: jax.nn.relu(x - 4) - 2 * jax.nn.relu(x - 5) + jax.nn.relu(x - 6),
        lambda x: np.maximum(1 - np.abs(x - 5), 0),
    ),
    "far": (lambda x: jnp.minimum(x, 1e5), lambda x: np.minimum(x, 1e5)),
}


@pytest.mark.parametrize("name", KINKED)
@pytest.mark.parametrize("rules", [jrlrp.Zero(), jrlrp.epsilon(0.0), jrlrp.attn_lrp(), None])
def test_an_activation_passes_all_relevance_wherever_its_kinks_are(name, rules):
    act, expected = KINKED[name]
    x = jnp.asarray([[8.0, 3.0, -7.0, 4.6, 0.0, -0.5, 2e5, 6.0]])
    r = jrlrp.relevance(lambda x: act(x) @ (1 + jnp.arange(16.0).reshape(8, 2)), rules=rules, target=0)(x)
    np.testing.assert_allclose(r, expected(np.asarray(x)) * (1 + np.arange(0, 16, 2)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("act", [jax.nn.relu, lambda x: jnp.clip(x, 0), lambda x: jnp.clip(x, 0, 6), jax.nn.relu6])
def test_units_that_are_0_hand_no_ratio_on(act):
    w = jnp.asarray([[1.0, 2.0], [-1.0, 1.0]])
    _, inner = jrlrp.relevance(lambda x: act(x @ w) @ jnp.ones(2), rules=jrlrp.Zero(), capture="dense*", ratio=True)(
        jnp.asarray([1.0, 1.0])
    )
    first = next(iter(inner.values()))
    np.testing.assert_array_equal(first, [0, 1])
