"""CASES.md A: what equals a softmax, a log-softmax or a log-sum-exp in value has its map, in any spelling and dtype."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrlrp

A, V = np.array([1.0, -0.5]), np.array([1.0, 2.0])
X = np.array([[3.0, 1.0], [2.0, 0.5], [0.5, -1.0]])  # X @ A is exact in bfloat16
KEPT = np.array([True, False, True])
ALL = np.array([True, True, True])

RULES = {
    "epsilon": jrlrp.epsilon(),
    "attn_lrp": jrlrp.attn_lrp(),
    "cp_lrp": jrlrp.cp_lrp(),
    "relative plus": jrlrp.relative_plus(),
    "z plus": jrlrp.ZPlus(),
}
# Of the largest relevance: roundings of the formulas in another order, and the stabilisers' 1e-6.
BOUNDS = {"float64": 1e-5, "float32": 1e-5, "float16": 2**-8, "bfloat16": 2**-5}


def softmax_of(e, kept=None):
    p = np.exp(e - e.max(-1, keepdims=True)) * (1 if kept is None else kept)
    return p / p.sum(-1, keepdims=True)


def pooled_map(rules, kept=None, x=X, s=None):
    """Return the map of (s(x @ A) @ x) @ V: by hand, in float64."""
    e = x @ A
    s = softmax_of(e, kept) if s is None else s
    share = s[:, None] * x * V
    if rules == "attn_lrp":  # half to the values; half to the weights, x ⊙ (R − s ΣR), and on through x @ A
        r = share.sum(1) / 2
        return share / 2 + (r - s * r.sum())[:, None] * x * A
    if rules == "relative plus":  # sgn(h) s x, with a κ of its own for each column
        h = s @ x
        part = s[:, None] * x * np.sign(h)
        r = np.abs(h * V) / np.abs(h * V).sum() * (h @ V) * np.sign(h * V)
        return part / np.abs(part).sum(0) * r
    return share


def pooled(softmax):
    return lambda x: (softmax(x @ jnp.asarray(A, x.dtype)) @ x) @ jnp.asarray(V, x.dtype)


def close(actual, expected, dtype="float64", bound=None):
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    bound = bound or BOUNDS[dtype]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * np.abs(expected).max())


def held(e):
    return jax.lax.stop_gradient(e.max(-1, keepdims=True))


def p(e):
    return jnp.exp(e - held(e))


def total(e):
    return e.sum(-1, keepdims=True)


def over(p, t=None):
    return p / (total(p) if t is None else t)


def by_segments(e):
    zeros = jnp.zeros(e.shape[-1], int)
    one = lambda e: jax.nn.softmax(e) if e.ndim == 0 else segment_softmax(e, zeros, 1)
    return jnp.vectorize(one, signature="(n)->(n)")(e)


def segment_softmax(e, segments, count, **options):
    p = jnp.exp(e - jax.ops.segment_max(e, segments, count, **options)[segments])
    return p / jax.ops.segment_sum(p, segments, count, **options)[segments]


def windows(p):
    dims = (*[1] * (p.ndim - 1), p.shape[-1])
    return jax.lax.reduce_window(p, np.zeros((), p.dtype), jax.lax.add, dims, dims, "VALID")


def rescaled(e):
    """Subtract the maximum again, as numerically careful people do."""
    e = e - held(e)
    return over(jnp.exp(e - e.max(-1, keepdims=True)))


def other_axes(e):
    wide = e[..., None, :]
    return jax.nn.softmax(wide, (-2, -1))[..., 0, :]


LOG2E = np.log2(np.e).item()
SOFTMAXES = {
    "jax.nn": jax.nn.softmax,
    "plain": lambda e: over(jnp.exp(e)),
    "product with 1/sum": lambda e: p(e) * (1 / total(p(e))),
    "product with 1/sum, shared": lambda e: (q := p(e)) * (1 / total(q)),
    "product with reciprocal": lambda e: (q := p(e)) * jax.lax.reciprocal(total(q)),
    "product with power -1": lambda e: (q := p(e)) * total(q) ** -1,
    "maximum not held": lambda e: over(jnp.exp(e - e.max(-1, keepdims=True))),
    "stabilised by a sum": lambda e: (q := p(e)) / (total(q) + 1e-9),
    "stabilised by a maximum": lambda e: (q := p(e)) / jnp.maximum(total(q), 1e-9),
    "stabilised, reciprocal": lambda e: (q := p(e)) * (1 / (1e-9 + total(q))),
    "both written out": lambda e: jnp.exp(e - held(e)) / jnp.exp(e - held(e)).sum(-1, keepdims=True),
    "both written out, no shift": lambda e: jnp.exp(e) / jnp.exp(e).sum(-1, keepdims=True),
    "each with its own shift": lambda e: jnp.exp(e - jax.nn.logsumexp(e, -1, keepdims=True)),
    "exp of log_softmax": lambda e: jnp.exp(jax.nn.log_softmax(e)),
    "exp of a difference to log sum": lambda e: jnp.exp((e - held(e)) - jnp.log(total(p(e)))),
    "exp2": lambda e: over(jnp.exp2((e - held(e)) * LOG2E)),
    "exp2, scaled before the shift": lambda e: over(jnp.exp2(e * LOG2E - held(e * LOG2E))),
    "power": lambda e: over(jnp.power(np.e, e - held(e))),
    "expm1 and one": lambda e: over(jnp.expm1(e - held(e)) + 1),
    "sum by ones": lambda e: (q := p(e)) / (q @ jnp.ones((e.shape[-1], 1), e.dtype)),
    "sum by a matrix of ones": lambda e: (q := p(e)) / (q @ jnp.ones((e.shape[-1],) * 2, e.dtype)),
    "sum by einsum": lambda e: (q := p(e)) / jnp.einsum("...i->...", q)[..., None],
    "sum by mean": lambda e: (q := p(e)) / (q.mean(-1, keepdims=True) * q.shape[-1]),
    "divided by mean and number": lambda e: (q := p(e)) / q.mean(-1, keepdims=True) / q.shape[-1],
    "sum by a window": lambda e: (q := p(e)) / windows(q),
    "segments": by_segments,
    "where all": lambda e: jax.nn.softmax(e, where=jnp.asarray(ALL[: e.shape[-1]])),
    "two axes": other_axes,
    "axis 0 of the transposed": lambda e: jax.nn.softmax(jnp.moveaxis(e, -1, 0), 0) if e.ndim < 2 else moved(e),
    "reversed": lambda e: jax.nn.softmax(e[..., ::-1])[..., ::-1],
    "shifted by a number": lambda e: jax.nn.softmax(e + 3.0),
    "shifted by the mean": lambda e: over(jnp.exp(e - e.mean(-1, keepdims=True))),
    "shifted by the minimum": lambda e: jax.nn.softmax(e - e.min(-1, keepdims=True)),
    "shifted by the first": lambda e: over(jnp.exp(e - e[..., :1])),
    "shifted twice": rescaled,
    "negated": lambda e: over(jnp.exp(-(held(e) - e))),
    "twice normalised": lambda e: over(jax.nn.softmax(e)),
    "scaled and normalised": lambda e: over(5.0 * p(e)),
    "in float32": lambda e: jax.nn.softmax(e.astype(jnp.float32)).astype(e.dtype),
    "sum in float32": lambda e: (q := p(e)) / total(q.astype(jnp.float32)).astype(e.dtype),
    "under checkpoint": jax.checkpoint(lambda e: (q := p(e)) * (1 / total(q))),
    "under jit": jax.jit(lambda e: over(jnp.exp2(e * LOG2E))),
    "flax": nn.softmax,
}


SOME = [
    "product with reciprocal",
    "stabilised by a sum",
    "both written out",
    "exp2",
    "sum by ones",
    "exp of log_softmax",
]
FEW_RULES = [(name, rules) for name in ("jax.nn", SOME[0], SOME[2]) for rules in RULES if rules != "attn_lrp"]


def moved(e):
    return jnp.swapaxes(jax.nn.softmax(jnp.swapaxes(e, -1, -2), -2), -1, -2)


@pytest.mark.parametrize(("name", "rules"), [*((name, "attn_lrp") for name in SOFTMAXES), *FEW_RULES])
def test_a_softmax_in_any_spelling(name, rules):
    x = jnp.asarray(X, jnp.float32)
    value, r = jrlrp.value_and_relevance(pooled(SOFTMAXES[name]), rules=RULES[rules])(x)
    np.testing.assert_allclose(value, 3.587, atol=1e-3)
    close(r, pooled_map(rules), "float32")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "bfloat16") for name in SOFTMAXES), *((name, d) for name in SOME[:4] for d in ("float16", "float64"))],
)
def test_a_softmax_in_any_dtype(name, dtype):
    r = jrlrp.relevance(pooled(SOFTMAXES[name]), rules=RULES["attn_lrp"])(jnp.asarray(X, dtype))
    assert r.dtype == dtype
    close(r, pooled_map("attn_lrp"), dtype)


MASKED = {
    "jax.nn, where": lambda e, k: jax.nn.softmax(e, where=k),
    "where -inf": lambda e, k: jax.nn.softmax(jnp.where(k, e, -jnp.inf)),
    "where -1e9": lambda e, k: jax.nn.softmax(jnp.where(k, e, -1e9)),
    "where the least": lambda e, k: jax.nn.softmax(jnp.where(k, e, jnp.finfo(e.dtype).min)),
    "where -inf by hand": lambda e, k: over(p(jnp.where(k, e, -jnp.inf))),
    "plus -inf": lambda e, k: jax.nn.softmax(e + jnp.where(k, 0.0, -jnp.inf)),
    "plus -1e9": lambda e, k: jax.nn.softmax(e + jnp.where(k, 0.0, -1e9)),
    "minus by product": lambda e, k: jax.nn.softmax(e - 1e9 * (1.0 - k)),
    "log of the mask": lambda e, k: jax.nn.softmax(e + jnp.log(k.astype(e.dtype))),
    "exponentials by where": lambda e, k: over(jnp.where(k, p(e), 0.0)),
    "exponentials by product": lambda e, k: over(p(e) * k),
    "exponentials by product, reciprocal": lambda e, k: (q := p(e) * k) * (1 / total(q)),
    "sum by where=": lambda e, k: jnp.where(k, p(e), 0) / p(e).sum(-1, keepdims=True, where=k),
    "sum by a product with the mask": lambda e, k: p(e) * k / (p(e) @ k.astype(e.dtype))[..., None],
    "renormalised by where": lambda e, k: over(jnp.where(k, jax.nn.softmax(e), 0.0)),
    "renormalised by product": lambda e, k: over(jax.nn.softmax(e) * k),
    "renormalised, stabilised": lambda e, k: (q := jax.nn.softmax(e) * k) / (total(q) + 1e-9),
}


@pytest.mark.parametrize(
    ("name", "dtype", "rules"),
    [
        *((name, "float32", "attn_lrp") for name in MASKED),
        *((name, "bfloat16", "epsilon") for name in ("jax.nn, where", "where -inf", "renormalised by product")),
    ],
)
def test_a_masked_softmax_is_the_softmax_of_what_is_left(name, rules, dtype):
    k = jnp.asarray(KEPT)
    r = jrlrp.relevance(pooled(lambda e: MASKED[name](e, k)), rules=RULES[rules])(jnp.asarray(X, dtype))
    close(r, pooled_map(rules, KEPT), dtype)


@pytest.mark.parametrize("name", ["jax.nn, where", "exponentials by product", "renormalised by where", "plus -1e9"])
def test_a_mask_that_is_another_argument(name):
    f = lambda x, k: pooled(lambda e: MASKED[name](e, k))(x)
    r = jax.jit(jrlrp.relevance(f, rules=jrlrp.attn_lrp()))(jnp.asarray(X), jnp.asarray(KEPT))
    close(r, pooled_map("attn_lrp", KEPT))


RNG = np.random.default_rng(0)
WQ, WK, WV, WO = (RNG.normal(size=(3, 3)) for _ in range(4))
BATCH = RNG.normal(size=(2, 4, 3))


def attention(softmax):
    """Return attention of tokens (..., 4, 3) with a skip, by a softmax over the last axis."""

    def f(x):
        scores = jnp.einsum("...id,...jd->...ij", x @ WQ, x @ WK) / np.sqrt(3)
        return (x + softmax(scores) @ (x @ WV)).mean(-2) @ WO

    return f


def scanned(softmax):
    def f(x):
        step = lambda c, row: (c + jnp.tanh(softmax(row @ WQ) @ WK), None)
        return jax.lax.scan(step, x[..., 0, :], jnp.moveaxis(x, -2, 0))[0] @ WO

    return f


AROUND = {
    "attention": attention,
    "in a scan": scanned,
    "in a remat": lambda s: jax.checkpoint(attention(s)),
    "mapped": lambda s: lambda x: jax.lax.map(attention(s), x),
    "in a cond": lambda s: lambda x: jax.lax.cond(x[0, 0, 0] > -9, attention(s), lambda x: x[:, 0], x),
    "vmapped": lambda s: jax.vmap(attention(s)),
}


@pytest.mark.parametrize(
    ("around", "name", "rules"),
    [
        *((around, "product with reciprocal", "attn_lrp") for around in AROUND),
        ("attention", "both written out", "relative plus"),
        ("in a scan", "exp2", "relative plus"),
    ],
)
def test_a_softmax_wherever_it_stands(around, name, rules):
    found, expected = (AROUND[around](s) for s in (SOFTMAXES[name], jax.nn.softmax))
    explain = lambda f: jax.jit(jrlrp.relevance(f, rules=RULES[rules]))(BATCH)
    close(explain(found), explain(expected), bound=1e-7)


@pytest.mark.parametrize("name", ["product with reciprocal", "segments", "axis 0 of the transposed", "two axes"])
def test_a_batch_of_softmaxes_is_one_after_the_other(name):
    f = pooled(SOFTMAXES[name])
    x = np.stack([X, X[::-1] * 2, -X])
    explain = jrlrp.relevance(f, rules=jrlrp.attn_lrp())
    expected = [pooled_map("attn_lrp", x=row) for row in x]
    close(jax.jit(jax.vmap(explain))(x), expected)


def test_another_active_shift_gets_nothing():
    for shifted in (
        lambda x, c: jax.nn.softmax(x @ A + c),
        lambda x, c: over(jnp.exp(x @ A - c)),
        lambda x, c: over(p(jnp.tanh(c) + x @ A)),
    ):
        for rules in ("attn_lrp", "relative plus"):
            explain = jrlrp.relevance(lambda x, c: (shifted(x, c) @ x) @ V, (0, 1), rules=RULES[rules])  # noqa: B023
            r, of_c = explain(jnp.asarray(X), jnp.asarray(0.7))
            close(r, pooled_map(rules))
            np.testing.assert_allclose(of_c, 0, atol=1e-9)


H = np.array([[3, 1], [3, 1.0001], [0.5, -1]])
SEGMENTS = {
    "segment_max": segment_softmax,
    "sorted": lambda e, i, n: segment_softmax(e, i, n, indices_are_sorted=True),
    "held": lambda e, i, n: (
        (q := jnp.exp(e - jax.lax.stop_gradient(jax.ops.segment_max(e, i, n))[i])) / jax.ops.segment_sum(q, i, n)[i]
    ),
    "by at": lambda e, i, n: (q := jnp.exp(e - jnp.full(n, -jnp.inf).at[i].max(e)[i])) / jnp.zeros(n).at[i].add(q)[i],
    "stabilised": lambda e, i, n: (
        (q := jnp.exp(e - jax.ops.segment_max(e, i, n)[i])) / (jax.ops.segment_sum(q, i, n)[i] + 1e-16)
    ),
    "one maximum of all": lambda e, i, n: (q := jnp.exp(e - e.max())) / jax.ops.segment_sum(q, i, n)[i],
    "no shift": lambda e, i, n: (q := jnp.exp(e)) / jax.ops.segment_sum(q, i, n)[i],
    "reciprocal first": lambda e, i, n: (q := jnp.exp(e)) * (1 / jax.ops.segment_sum(q, i, n))[i],
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_graph_attention_over_one_segment(name):
    f = lambda h: (SEGMENTS[name](h @ A, jnp.zeros(3, int), 1) @ h) @ V
    r = jrlrp.relevance(f, rules=jrlrp.epsilon())(jnp.asarray(H, jnp.float32))
    close(r.sum(1), [2.249, 2.249, -0.151], bound=3e-4)  # of the numbers as CASES.md has them


@pytest.mark.parametrize("rules", ["attn_lrp", "relative plus"])
@pytest.mark.parametrize("name", ["segment_max", "by at", "one maximum of all", "reciprocal first"])
def test_graph_attention_over_several_segments(name, rules):
    index = np.array([0, 1, 0, 2, 1])
    h = np.concatenate([X, [[-1.0, 2.0], [1.0, 1.5]]])

    def f(h):
        weights = SEGMENTS[name](h @ A, jnp.asarray(index), 4)
        return jax.ops.segment_sum(weights[:, None] * h, jnp.asarray(index), 4)[1] @ V

    if rules == "relative plus":
        plain = lambda h: (jax.nn.softmax(h @ A)[:, None] * h).sum(0) @ V
        expected = jrlrp.relevance(plain, rules=RULES[rules])(h[index == 1])
    else:
        expected = pooled_map(rules, x=h[index == 1])
    r = np.asarray(jrlrp.relevance(f, rules=RULES[rules])(jnp.asarray(h)))
    close(r[index == 1], expected)
    np.testing.assert_allclose(r[index != 1], 0, atol=1e-9)


@pytest.mark.parametrize("name", ["jax.nn", "plain", "segments", *SOME])
@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_a_final_softmax_is_explained_at_its_logits(name, dtype):
    r = jrlrp.relevance(SOFTMAXES[name], rules=jrlrp.epsilon())(jnp.asarray([1, 2, 0.5], dtype))
    np.testing.assert_array_equal(np.asarray(r, np.float32), [0, 2, 0])


def test_multi_head_attention_in_half_precision():
    x = jnp.asarray(RNG.normal(size=(1, 5, 8)), jnp.float32)
    module = lambda dtype: nn.MultiHeadDotProductAttention(2, dtype=dtype)
    parameters = module(jnp.float32).init(jax.random.key(0), x)
    for rules in (jrlrp.epsilon(), jrlrp.attn_lrp()):
        whole, half = (
            jax.jit(jrlrp.relevance(lambda x: module(dtype).apply(parameters, x)[0, 0], target=3, rules=rules))(x)  # noqa: B023
            for dtype in (jnp.float32, jnp.bfloat16)
        )
        close(half, whole, bound=0.05)


Y = np.array([0.5, -1.0, 2.0, 0.3])
LOG_SUMS = {
    "jax.nn": jax.nn.logsumexp,
    "scipy": jax.scipy.special.logsumexp,
    "plain": lambda x: jnp.log(jnp.exp(x).sum()),
    "held": lambda x: (m := jax.lax.stop_gradient(x.max())) + jnp.log(jnp.exp(x - m).sum()),
    "not held": lambda x: jnp.log(jnp.exp(x - x.max()).sum()) + x.max(),
    "shifted by the mean": lambda x: jnp.log(jnp.exp(x - x.mean()).sum()) + x.mean(),
    "pairs": lambda x: jnp.logaddexp(jnp.logaddexp(x[0], x[1]), jnp.logaddexp(x[2], x[3])),
    "one after the other": lambda x: jnp.logaddexp(jnp.logaddexp(jnp.logaddexp(x[0], x[1]), x[2]), x[3]),
    "base 2": lambda x: jnp.log2(jnp.exp2(x * LOG2E).sum()) / LOG2E,
    "where": lambda x: jax.nn.logsumexp(jnp.append(x, 5.0), where=jnp.array([True] * 4 + [False])),
    "with -inf": lambda x: jax.nn.logsumexp(jnp.append(x, -jnp.inf)),
    "keepdims": lambda x: jax.nn.logsumexp(x, keepdims=True),
    "two axes": lambda x: jax.nn.logsumexp(x.reshape(2, 2), (0, 1)),
    "one axis after the other": lambda x: jax.nn.logsumexp(jax.nn.logsumexp(x.reshape(2, 2), 0)),
    "half of twice": lambda x: 2 * jax.nn.logsumexp(x) / 2,
    "jnp.logaddexp.reduce": lambda x: jnp.logaddexp.reduce(x),
    "sum by ones": lambda x: jnp.log(jnp.exp(x - x.max()) @ jnp.ones(4, x.dtype)) + x.max(),
    "log of a mean": lambda x: jnp.log(jnp.exp(x).mean() * 4),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in LOG_SUMS), *((name, "bfloat16") for name in ("jax.nn", "plain", "pairs"))],
)
def test_a_log_sum_exp_shares_by_its_softmax(name, dtype):
    x = jnp.asarray(Y, dtype)
    expected = softmax_of(Y) * np.log(np.exp(Y).sum())
    close(expected, [0.364, 0.081, 1.632, 0.298], bound=4e-4)
    for rules in (jrlrp.Zero(), None) if dtype == "float32" else (jrlrp.epsilon(),):
        close(jrlrp.relevance(LOG_SUMS[name], rules=rules)(x), expected, dtype)


@pytest.mark.parametrize("rules", ["epsilon", "relative plus"])
def test_log_sum_exp_pooling(rules):
    """Over positions, with a temperature, before a dense layer: R of each unit by its softmax."""
    x, w = RNG.uniform(0.1, 1, size=(6, 3)), RNG.uniform(0.1, 1, size=3)
    f = lambda x: (jax.nn.logsumexp(5.0 * x, axis=0) - np.log(6.0)) / 5.0 @ w
    r = jax.jit(jrlrp.relevance(f, rules=RULES[rules]))(x)
    pool = lambda x: np.log(np.exp(5 * x).mean(0)) / 5
    assert np.isfinite(r).all()
    # The mean's log is a bias: ε lets it keep its share (or none), R-LRP does not see it; each column has one softmax.
    column = np.exp(5 * x) / np.exp(5 * x).sum(0)
    np.testing.assert_allclose(r / np.asarray(r).sum(0), column, rtol=1e-5)
    assert np.abs(r).sum() < 10 * (pool(x) @ w)


Z = np.array([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0], [-0.7, 0.4, 0.6]])
LOG_SOFTMAXES = {
    "jax.nn": jax.nn.log_softmax,
    "less logsumexp": lambda z: z - jax.nn.logsumexp(z, -1, keepdims=True),
    "shift and log": lambda z: (d := z - held(z)) - jnp.log(total(jnp.exp(d))),
    "shift not held": lambda z: (d := z - z.max(-1, keepdims=True)) - jnp.log(total(jnp.exp(d))),
    "log of softmax": lambda z: jnp.log(jax.nn.softmax(z)),
    "log of p / sum": lambda z: jnp.log((q := p(z)) * (1 / total(q))),
    "plain": lambda z: z - jnp.log(total(jnp.exp(z))),
    "negated": lambda z: -(jnp.log(total(jnp.exp(z))) - z),
}


def log_softmax_map(x, w, v, rules):
    """Return the map of log_softmax(x @ w) @ v, a sum of z and −logsumexp(z), whose shares telescope."""
    z = x @ w
    lse = np.log(np.exp(z).sum())
    r = z * v - softmax_of(z) * lse * v.sum()
    return (x[:, None] * w / z * r).sum(1)


@pytest.mark.parametrize(
    ("name", "rules", "dtype"),
    [
        *((name, "attn_lrp", "float32") for name in LOG_SOFTMAXES),
        *((name, "epsilon", "bfloat16") for name in ("jax.nn", "plain", "log of softmax")),
    ],
)
def test_a_log_softmax_inside_a_network_is_z_less_its_log_sum_exp(name, rules, dtype):
    x, v = np.array([1.0, 2.0, -0.5]), np.array([1.0, 0.5, -2.0])
    f = lambda x: LOG_SOFTMAXES[name](x @ jnp.asarray(Z, x.dtype)) @ jnp.asarray(v, x.dtype)
    r = jrlrp.relevance(f, rules=RULES[rules])(jnp.asarray(x, dtype))
    close(r, log_softmax_map(x, Z, v, rules), dtype, bound={"bfloat16": 0.06}.get(dtype, 2e-5))


@pytest.mark.parametrize("name", LOG_SOFTMAXES)
@pytest.mark.parametrize("rules", ["relative plus"])
def test_a_log_softmax_inside_a_network_keeps_the_score_s_size(name, rules):
    x, v = RNG.normal(size=3), np.array([1.0, 0.5, -2.0])
    f = lambda log_softmax: lambda x: log_softmax(x @ Z) @ v
    r, plain = (jrlrp.relevance(f(s), rules=RULES[rules])(x) for s in (LOG_SOFTMAXES[name], LOG_SOFTMAXES["plain"]))
    close(r, plain, bound=1e-6)
    assert np.abs(r).sum() < 30 * abs(f(jax.nn.log_softmax)(x))


ENTROPIES = {
    "log_softmax": lambda z: -jax.nn.log_softmax(z)[1],
    "take": lambda z: -jnp.take(jax.nn.log_softmax(z), 1),
    "optax, integer": lambda z: optax.softmax_cross_entropy_with_integer_labels(z, jnp.array(1)),
    "optax, one-hot": lambda z: optax.softmax_cross_entropy(z, jax.nn.one_hot(1, 3, dtype=z.dtype)),
    "one-hot": lambda z: -(jax.nn.log_softmax(z) * jax.nn.one_hot(1, 3, dtype=z.dtype)).sum(),
    "log of softmax": lambda z: -jnp.log(jax.nn.softmax(z)[1]),
    "log of softmax, stabilised": lambda z: -jnp.log(jax.nn.softmax(z)[1] + 1e-7),
    "log-sum-exp": lambda z: jax.nn.logsumexp(z) - z[1],
}


@pytest.mark.parametrize(
    ("name", "rules", "dtype"),
    [
        *((name, "relative plus", "float32") for name in ENTROPIES),
        *((name, "epsilon", "bfloat16") for name in ("log_softmax", "optax, integer")),
    ],
)
def test_a_cross_entropy_is_explained_at_its_label_s_logit(name, rules, dtype):
    x = jnp.asarray([1.0, 2.0, -0.5], dtype)
    layer = lambda x: x @ jnp.asarray(Z, x.dtype)
    r = jrlrp.relevance(lambda x: ENTROPIES[name](layer(x)), rules=RULES[rules])(x)
    expected = -np.asarray(jrlrp.relevance(layer, target=1, rules=RULES[rules])(x.astype(jnp.float64)))
    close(r, expected, dtype)


def test_cross_entropies_of_a_batch():
    x, labels = RNG.normal(size=(4, 3)), np.array([0, 2, 1, 1])
    f = lambda x: optax.softmax_cross_entropy_with_integer_labels(jnp.tanh(x @ Z) @ Z, labels)
    expected = -jrlrp.relevance(lambda x: jnp.tanh(x @ Z) @ Z, target=labels)(x)
    close(jrlrp.relevance(f, target="all")(x), expected, bound=1e-7)


def test_smoothed_labels_and_other_losses_keep_the_score_s_size():
    x = RNG.normal(size=(2, 6, 3))
    labels, none = np.array([[1, 2, 1], [2, 1, 0]]), np.zeros((2, 3))
    none[1, 2] = 1
    losses = {
        "ctc": lambda x: optax.ctc_loss(x @ Z, np.zeros((2, 6)), labels, none),
        "smoothed": lambda x: optax.softmax_cross_entropy(x @ Z, np.array([0.1, 0.8, 0.1])).sum(1),
        "divergence": lambda x: optax.kl_divergence(jax.nn.log_softmax(x @ Z), np.array([0.1, 0.8, 0.1])).sum(1),
    }
    for name, loss in losses.items():
        for rules in ("epsilon", "attn_lrp", "relative plus"):
            r = jax.jit(jrlrp.relevance(loss, rules=RULES[rules], target="all"))(x)
            score = np.abs(loss(x)).sum()
            assert np.isfinite(r).all(), (name, rules)
            assert np.abs(r).sum() < 1e3 * score, (name, rules, np.abs(r).sum(), score)


SHIFTED = {
    "held": lambda x: jnp.exp(x - held(x)),
    "not held": lambda x: jnp.exp(x - x.max()),
    "exp2": lambda x: jnp.exp2((x - held(x)) * LOG2E),
    "negated": lambda x: jnp.exp(-(x.max() - x)),
}


@pytest.mark.parametrize("rules", ["epsilon"])
@pytest.mark.parametrize("name", SHIFTED)
def test_a_shift_under_an_exp_of_no_softmax_passes_relevance_on(name, rules):
    w = np.array([0.5, -1.0, 2.0])
    r = jrlrp.relevance(lambda x: SHIFTED[name](x) @ w, rules=RULES[rules])(jnp.asarray(Y[:3]))
    close(r, np.exp(Y[:3] - Y[:3].max()) * w)


def found_softmax(f, x):
    return any(node.kind == "softmax" for node in jrlrp.plan(f, x).nodes)


def flash(x, block=1):
    """Return softmax(x @ A) @ x by blocks with a running maximum, as flash attention does."""

    def step(carry, rows):
        m, s, o = carry
        e = rows @ A
        new = jnp.maximum(m, e.max())
        q = jnp.exp(e - new)
        old = jnp.exp(m - new)
        return (new, s * old + q.sum(), o * old + q @ rows), None

    start = (-jnp.inf, 0.0, jnp.zeros(x.shape[1]))
    (_, s, o), _ = jax.lax.scan(step, start, x.reshape(-1, block, x.shape[1]))
    return o / s @ V


AFTER = {
    "divided after": lambda x: ((q := p(x @ A)) @ x / q.sum()) @ V,
    "divided after the layer": lambda x: (((q := p(x @ A)) @ x) @ V) / q.sum(),
    "multiplied after": lambda x: ((q := p(x @ A)) @ x * (1 / q.sum())) @ V,
    "running maximum": flash,
}


@pytest.mark.parametrize("rules", ["epsilon", "attn_lrp"])
@pytest.mark.parametrize("name", AFTER)
def test_division_after_the_values_is_found_or_said_and_of_the_score_s_size(name, rules):
    f = AFTER[name]
    np.testing.assert_allclose(f(X), pooled(jax.nn.softmax)(jnp.asarray(X)), rtol=1e-6)
    r = jax.jit(jrlrp.relevance(f, rules=RULES[rules]))(X)
    if found_softmax(f, X):
        close(r, pooled_map(rules))
    assert np.isfinite(r).all()
    assert np.abs(r).sum() < 10 * 3.587
