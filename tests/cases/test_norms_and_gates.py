"""CASES.md D: norms in any order of their operations, and whatever lies in [0, 1], by what they are."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp

X = np.array([2.0, -1.0, 0.5, 1.0])
W = np.array([[1.0, 0.5], [1.0, -1.0], [2.0, 1.0], [-1.0, 2.0]])
RULES = {
    "epsilon": jrlrp.epsilon(),
    "attn_lrp": jrlrp.attn_lrp(),
    "cp_lrp": jrlrp.cp_lrp(),
    "relative plus": jrlrp.relative_plus(),
    "z plus": jrlrp.ZPlus(),
}
BOUNDS = {"float64": 1e-5, "float32": 1e-5, "bfloat16": 2**-5}


def close(actual, expected, bound=1e-5):
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * np.abs(expected).max())


def of(x, weights):
    return jnp.asarray(weights, x.dtype)


def rms(x):
    return jnp.sqrt(jnp.mean(x * x, -1, keepdims=True))


def length(x):
    return jnp.linalg.norm(x, axis=-1, keepdims=True)


OTHERS = [("cp_lrp", "bfloat16"), ("attn_lrp", "float64")]
PRODUCT = X * W[:, 1]  # of the higher of two scores
DIVIDED = {
    "before the product": (1.25, lambda x: (x / rms(x)) @ of(x, W)),
    "after the product": (1.25, lambda x: x @ of(x, W) / rms(x)),
    "after, reciprocal": (1.25, lambda x: (x @ of(x, W)) * (1 / rms(x))),
    "after, rsqrt": (1.25, lambda x: (x @ of(x, W)) * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True))),
    "after, power": (1.25, lambda x: (x @ of(x, W)) * jnp.mean(x**2, -1, keepdims=True) ** -0.5),
    "after two layers": (1.25, lambda x: ((x @ of(x, W)) @ of(x, np.eye(2))) / rms(x)),
    "the other way round": (1.25, lambda x: jax.lax.reciprocal(rms(x)) * (x @ of(x, W))),
    "times a number": (2.5, lambda x: (x @ of(x, W)) * 0.5 / rms(x)),
    "by length": (2.5, lambda x: x @ of(x, W) / length(x)),
    "by length, einsum": (2.5, lambda x: x @ of(x, W) / jnp.sqrt(jnp.einsum("...i,...i->...", x, x))[..., None]),
    "by largest": (2.0, lambda x: x @ of(x, W) / jnp.abs(x).max(-1, keepdims=True)),
    "by sum of sizes": (4.5, lambda x: x @ of(x, W) / jnp.abs(x).sum(-1, keepdims=True)),
    "stabilised": (2.5, lambda x: x @ of(x, W) / (length(x) + 1e-9)),
    "at least": (2.5, lambda x: x @ of(x, W) / jnp.maximum(length(x), 1e-9)),
    "cosines": (6.25, lambda x: x @ of(x, W) / (length(x) * 2.5)),
}


@pytest.mark.parametrize(
    ("name", "rules", "dtype"),
    [
        *((name, "epsilon", "float32") for name in DIVIDED),
        *((name, *how) for name in ("after the product", "by length") for how in OTHERS),
    ],
)
def test_a_statistic_divides_before_or_after_the_product(name, rules, dtype):
    size, f = DIVIDED[name]
    close(jrlrp.relevance(f, rules=RULES[rules])(jnp.asarray(X, dtype)), PRODUCT / size, BOUNDS[dtype])
    if size == 1.25:
        close(PRODUCT / size, [0.8, 0.8, 0.4, 1.6])


@pytest.mark.parametrize("rules", ["relative plus", "z plus"])
@pytest.mark.parametrize("name", ["after the product", "after, rsqrt", "the other way round"])
def test_a_statistic_divides_before_or_after_under_other_rules(name, rules):
    before, after = DIVIDED["before the product"][1], DIVIDED[name][1]
    for f in (lambda norm: norm, lambda norm: lambda x: jnp.tanh(norm(x)) @ W.T):
        expected = jrlrp.relevance(f(before), rules=RULES[rules])(X)
        close(jrlrp.relevance(f(after), rules=RULES[rules])(X), expected)


def test_cosines():
    w = W[:, 1]
    expected = X * w / (np.linalg.norm(X) * np.linalg.norm(w))
    for f in (
        lambda x: x @ w / (jnp.linalg.norm(x) * jnp.linalg.norm(w)),
        lambda x: x @ w / jnp.linalg.norm(x) / jnp.linalg.norm(w),
        lambda x: (x / jnp.linalg.norm(x)) @ (w / jnp.linalg.norm(w)),
        lambda x: x @ w * jax.lax.rsqrt((x @ x) * (w @ w)),
        lambda x: (x * w).sum() / jnp.sqrt((x**2).sum() * (w**2).sum()),
    ):
        close(jrlrp.relevance(f, rules=jrlrp.epsilon())(X), expected)


BACK = {
    "norm": lambda x: (x / length(x)) * length(x),
    "root mean square": lambda x: (x / rms(x)) * rms(x),
    "shared": lambda x: (s := length(x)) * (x / s),
    "reciprocal": lambda x: (x * (1 / rms(x))) * rms(x),
    "rsqrt and sqrt": lambda x: x * jax.lax.rsqrt((x * x).sum()) * jnp.sqrt((x * x).sum()),
    "deviation": lambda x: (x / x.std()) * x.std(),
    "largest": lambda x: (x / jnp.abs(x).max()) * jnp.abs(x).max(),
    "multiplied first": lambda x: (x * length(x)) / length(x),
    "whitened and back": lambda x: (x - x.mean()) / x.std() * x.std() + x.mean(),
}


@pytest.mark.parametrize("rules", ["epsilon"])
@pytest.mark.parametrize("name", BACK)
def test_what_is_scaled_back_is_itself(name, rules):
    f = lambda x: BACK[name](x) @ of(x, W)
    close(jrlrp.relevance(f, rules=RULES[rules])(jnp.asarray(X, jnp.float32)), [1, 1, 0.5, 2])


@pytest.mark.parametrize("name", ["norm", "shared", "rsqrt and sqrt", "whitened and back"])
def test_what_is_scaled_back_after_the_product_is_the_product(name):
    after = {
        "norm": lambda x: (x / length(x)) @ W * length(x),
        "shared": lambda x: (s := length(x)) * ((x / s) @ W),
        "rsqrt and sqrt": lambda x: (x * jax.lax.rsqrt((x * x).sum())) @ W * jnp.sqrt((x * x).sum()),
        "whitened and back": lambda x: ((x - x.mean()) / x.std()) @ W * x.std() + x.mean() * W.sum(0),
    }
    for rules in ("epsilon", "relative plus"):
        expected = jrlrp.relevance(lambda x: x @ W, rules=RULES[rules])(X)
        if name != "whitened and back" or rules == "epsilon":
            close(jrlrp.relevance(after[name], rules=RULES[rules])(X), expected)


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu, jax.nn.silu])
def test_what_is_scaled_back_may_be_an_activation(activation):
    """The statistic is of the activation's output, not of its input."""
    deviation = lambda h: jnp.sqrt(jnp.var(h) + 1e-6)
    scaled = lambda x: ((h := activation(x)) / deviation(h)) @ of(x, W) * deviation(h)
    close(
        jrlrp.relevance(scaled, rules=RULES["epsilon"])(X),
        jrlrp.relevance(lambda x: activation(x) @ of(x, W), rules=RULES["epsilon"])(X),
    )


GATES = {
    "divided": lambda z, h: h / (1 + jnp.exp(-z)),
    "times one over": lambda z, h: h * (1 / (1 + jnp.exp(-z))),
    "reciprocal": lambda z, h: h * jax.lax.reciprocal(1 + jnp.exp(-z)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", GATES)
def test_a_gate_whose_divisor_leaves_the_dtype_is_closed(name, rules, dtype):
    x = jnp.asarray([[1000.0, -50, 20], [1, 2, 3]], dtype)
    weights = jnp.asarray(np.arange(9.0).reshape(3, 3) - 4, dtype)
    explain = lambda gated: jrlrp.relevance(lambda x: gated(3 * x, x @ weights), rules=RULES[rules], target="all")(x)
    wanted = explain(lambda z, h: h * jax.nn.sigmoid(z)).astype(float)
    np.testing.assert_allclose(explain(GATES[name]).astype(float), wanted, atol=0.02 * np.abs(wanted).max())


# Bilinear sampling: a position that the input moves has no relevance, for a fraction lies in [0, 1].
ROW = np.array([0.5, -1.0, 2.0, 1.5, -0.3])
AT = np.array([1.0, -2.0, 0.4, 0.3, 0.8])


def position(x):
    return 1.0 + 2.5 * jax.nn.sigmoid(x @ AT)


def neighbours(x, p):
    low = jnp.clip(jnp.floor(p).astype(int), 0, 3)
    return x[low], x[low + 1]


def mixed(fraction, mix):
    def f(x):
        p = position(x)
        return mix(fraction(p), *neighbours(x, p))

    return f


FRACTIONS = {
    "less floor": lambda p: p - jnp.floor(p),
    "remainder": lambda p: p % 1,
    "mod": lambda p: jnp.mod(p, 1.0),
    "modf": lambda p: jnp.modf(p)[0],
    "less a cast": lambda p: p - p.astype(int).astype(p.dtype),
    "less trunc": lambda p: p - jnp.trunc(p),
}
MIXES = {
    "(1−f)a + fb": lambda f, a, b: (1 - f) * a + f * b,
    "a + f(b−a)": lambda f, a, b: a + f * (b - a),
    "b − (1−f)(b−a)": lambda f, a, b: b - (1 - f) * (b - a),
    "fb + a − fa": lambda f, a, b: f * b + a - f * a,
    "a stack": lambda f, a, b: jnp.stack([1 - f, f]) @ jnp.stack([a, b]),
}
HATS = {
    "hats": lambda x: jnp.maximum(0, 1 - jnp.abs(position(x) - jnp.arange(5))) @ x,
    "hats, relu": lambda x: (jax.nn.relu(1 - jnp.abs(jnp.arange(5) - position(x))) * x).sum(),
    "hats, clipped": lambda x: jnp.clip(1 - jnp.abs(position(x) - jnp.arange(5)), 0, None) @ x,
}
SAMPLES = {
    **{name: mixed(fraction, MIXES["(1−f)a + fb"]) for name, fraction in FRACTIONS.items()},
    **{name: mixed(FRACTIONS["less floor"], mix) for name, mix in MIXES.items()},
    **HATS,
}


@pytest.mark.parametrize("rules", ["epsilon"])
@pytest.mark.parametrize("name", SAMPLES)
def test_bilinear_sampling(name, rules):
    f = SAMPLES[name]
    weights = np.maximum(0, 1 - np.abs(float(position(ROW)) - np.arange(5)))
    np.testing.assert_allclose(f(ROW), weights @ ROW, rtol=1e-9)
    close(jrlrp.relevance(f, rules=RULES[rules])(ROW), weights * ROW)


# Attention over rows, (weights(x @ A) @ x) @ V, by hand: weights that are gates, or a softmax's, get nothing ...
A, V = np.array([1.0, -0.5]), np.array([1.0, 2.0])
ROWS = np.array([[3.0, 1.0], [2.0, 0.5], [0.5, -1.0]])


def pooled(weights):
    return lambda x: (weights(x @ of(x, A)) @ x) @ of(x, V)


def gated_map(weights):
    return weights[:, None] * ROWS * V


def softmax_map(weights):
    """... or under AttnLRP half, which a softmax hands on by x ⊙ (R − s ΣR)."""
    r = gated_map(weights).sum(1) / 2
    return gated_map(weights) / 2 + (r - weights * r.sum())[:, None] * ROWS * A


def maximum(e):
    return jnp.maximum(e.max(), 0)


E = ROWS @ A
SINK = np.exp(E) / (1 + np.exp(E).sum())
TO_COME = pytest.mark.xfail(strict=True, reason="this spelling is not recognised yet")
SINKS = {
    "by definition": lambda e: jax.nn.softmax(jnp.append(e, jnp.zeros((), e.dtype)))[:-1],
    "plain": lambda e: jnp.exp(e) / (1 + jnp.exp(e).sum()),
    "shared": lambda e: (q := jnp.exp(e)) / (q.sum() + 1),
    "held": lambda e: (q := jnp.exp(e - (m := jax.lax.stop_gradient(maximum(e))))) / (q.sum() + jnp.exp(-m)),
    "not held": lambda e: (q := jnp.exp(e - (m := maximum(e)))) / (jnp.exp(-m) + q.sum()),
    "own maximum": lambda e: (q := jnp.exp(e - (m := e.max()))) / (q.sum() + jnp.exp(-m)),
    "reciprocal": lambda e: (
        (q := jnp.exp(e - (m := jax.lax.stop_gradient(maximum(e))))) * (1 / (q.sum() + jnp.exp(-m)))
    ),
    "log-sum-exp": lambda e: jnp.exp(e - jax.nn.logsumexp(jnp.append(e, jnp.zeros((), e.dtype)))),
    "logaddexp": lambda e: jnp.exp(e - jnp.logaddexp(jax.nn.logsumexp(e), 0.0)),
    "softmax and sigmoid": lambda e: jax.nn.softmax(jnp.pad(e, (0, 1)))[:3],
}


@pytest.mark.parametrize(
    ("name", "rules", "dtype"),
    [
        *((name, "attn_lrp", "float32") for name in SINKS if name != "logaddexp"),
        pytest.param("logaddexp", "attn_lrp", "float32", marks=TO_COME),
        *((name, *how) for name in ("held", "plain") for how in [("epsilon", "bfloat16"), ("cp_lrp", "float64")]),
    ],
)
def test_a_softmax_with_a_sink(name, rules, dtype):
    r = jrlrp.relevance(pooled(SINKS[name]), rules=RULES[rules])(jnp.asarray(ROWS, dtype))
    close(r, softmax_map(SINK) if rules == "attn_lrp" else gated_map(SINK), BOUNDS[dtype])


def test_a_sink_that_is_a_parameter():
    b = 0.7
    weights = np.exp(E) / (np.exp(b) + np.exp(E).sum())
    f = lambda x, b: pooled(lambda e: jax.nn.softmax(jnp.append(e, b))[:-1])(x)
    g = lambda x, b: pooled(lambda e: (q := jnp.exp(e - e.max())) / (q.sum() + jnp.exp(b - e.max())))(x)
    for sink in (f, g):
        close(jax.jit(jrlrp.relevance(sink, rules=jrlrp.attn_lrp()))(ROWS, b), softmax_map(weights))


def softmax(e):
    return np.exp(e) / np.exp(e).sum()


FIRST, SECOND = softmax(E), softmax(-0.5 * E)
DIFFERENCES = {
    "difference": (FIRST - 0.3 * SECOND, lambda e: jax.nn.softmax(e) - 0.3 * jax.nn.softmax(-0.5 * e)),
    "other order": (FIRST - 0.3 * SECOND, lambda e: -0.3 * jax.nn.softmax(-0.5 * e) + jax.nn.softmax(e)),
    "mean": ((FIRST + SECOND) / 2, lambda e: (jax.nn.softmax(e) + jax.nn.softmax(-0.5 * e)) / 2),
    "scaled": (2 * FIRST, lambda e: 2 * jax.nn.softmax(e)),
    "negated": (-FIRST, lambda e: -jax.nn.softmax(e)),
    "of two rows": (FIRST - 0.3 * SECOND, lambda e: jnp.array([1, -0.3]) @ jax.nn.softmax(jnp.stack([e, -0.5 * e]))),
    "product": (FIRST * SECOND, lambda e: jax.nn.softmax(e) * jax.nn.softmax(-0.5 * e)),
    "less a constant": (FIRST - 0.1, lambda e: jax.nn.softmax(e) - 0.1),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=TO_COME if name == "of two rows" else ()) for name in DIFFERENCES]
)
def test_weights_from_softmaxes_are_constants_under_cp_lrp(name):
    """Differential attention, mixtures and scaled weights: (A1 − λ A2) V gives all to V."""
    weights, f = DIFFERENCES[name]
    close(jrlrp.relevance(pooled(f), rules=jrlrp.cp_lrp())(ROWS), gated_map(weights))


def sparsemax(e):
    down = jnp.sort(e)[::-1]
    k = jnp.arange(1, e.shape[0] + 1)
    sums = jnp.cumsum(down)
    size = jnp.sum(1 + k * down > sums)
    return jnp.maximum(e - (sums[size - 1] - 1) / size, 0)


def sparsemax_in_numpy(e):
    down = np.sort(e)[::-1]
    sums = np.cumsum(down)
    size = np.sum(1 + np.arange(1, e.size + 1) * down > sums)
    return np.maximum(e - (sums[size - 1] - 1) / size, 0)


def entmax(e):
    """Entmax of α = 1.5 by bisection, its threshold held."""
    e = e / 2
    low, high = e.max() - 1, e.max()
    for _ in range(50):
        middle = (low + high) / 2
        above = (jnp.maximum(e - middle, 0) ** 2).sum() > 1
        low, high = jnp.where(above, middle, low), jnp.where(above, high, middle)
    return jnp.maximum(e - jax.lax.stop_gradient(low), 0) ** 2


@pytest.mark.parametrize("rules", ["epsilon", "cp_lrp"])
@pytest.mark.parametrize("name", ["sparsemax", "entmax"])
def test_other_masks_that_sum_to_one_are_gates(name, rules):
    """As clip(·, 0, 1) around them, which changes no value, says; CP-LRP needs no such word.

    That max(x − τ, 0) is at most 1 follows from what the τ of a run is, not from the program: where no clip says it,
    such a mask is no gate.
    """
    own = {"sparsemax": sparsemax, "entmax": entmax}[name]
    mask = own if rules == "cp_lrp" else lambda e: jnp.clip(own(e), 0, 1)
    weights = np.asarray(mask(jnp.asarray(0.4 * E)))
    if name == "sparsemax":
        np.testing.assert_allclose(weights, sparsemax_in_numpy(0.4 * E))
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-9)
    found = jax.jit(jrlrp.relevance(pooled(lambda e: mask(0.4 * e)), rules=RULES[rules]))(ROWS)
    close(found, gated_map(weights))


# Shares of a total, each with NumPy's value of it.
POSITIVE = {
    "relu": (lambda e: jax.nn.relu(e), lambda e: e.clip(0)),
    "sigmoid": (jax.nn.sigmoid, lambda e: 1 / (1 + np.exp(-e))),
    "softplus": (jax.nn.softplus, lambda e: np.log1p(np.exp(e))),
    "squares": (lambda e: e**2, lambda e: e**2),
    "sizes": (jnp.abs, np.abs),
    "squared relu": (lambda e: jax.nn.relu(e) ** 2, lambda e: e.clip(0) ** 2),
    "elu + 1": (lambda e: jax.nn.elu(e) + 1, lambda e: np.where(e > 0, e + 1, np.exp(e))),
}
SHARES = {
    "ratio": lambda p: p / p.sum(),
    "ratio, keepdims": lambda p: p / p.sum(-1, keepdims=True),
    "stabilised": lambda p: p / (p.sum() + 1e-9),
    "at least": lambda p: p / jnp.maximum(p.sum(), 1e-9),
    "reciprocal": lambda p: p * (1 / p.sum()),
    "by ones": lambda p: p / (p @ jnp.ones_like(p)),
    "by mean": lambda p: p / p.mean() / p.shape[0],
    "by jnp.linalg.norm": lambda p: p / jnp.linalg.norm(p, 1),
}
SHARED = [*((p, "ratio") for p in POSITIVE), *(("relu", share) for share in SHARES), ("sigmoid", "reciprocal")]


@pytest.mark.parametrize(
    ("positive", "share", "rules"), [*((*how, "epsilon") for how in SHARED), ("relu", "ratio", "relative plus")]
)
def test_shares_of_a_total_are_gates(positive, share, rules):
    act, in_numpy = POSITIVE[positive]
    weights = in_numpy(E - 1.2) / in_numpy(E - 1.2).sum()
    r = jrlrp.relevance(pooled(lambda e: SHARES[share](act(e - 1.2))), rules=RULES[rules])(ROWS)
    gate = jrlrp.relevance(lambda x: (weights @ x) @ V, rules=RULES[rules])(ROWS)
    close(r, gate)
    if rules == "epsilon":
        close(r, gated_map(weights))


# A mixture of experts, which are the rows' own values, by two of three.
CHOSEN = np.array([0, 1])


def renormalised(e):
    weights, index = jax.lax.top_k(jax.nn.softmax(e), 2)
    return weights / weights.sum(), index


MIXTURES = {
    "softmax of top_k": lambda e: (lambda v, i: (jax.nn.softmax(v), i))(*jax.lax.top_k(e, 2)),
    "renormalised": renormalised,
    "renormalised, stabilised": lambda e: (lambda v, i: (v / (v.sum() + 1e-20), i))(
        *jax.lax.top_k(jax.nn.softmax(e), 2)
    ),
    "renormalised by reciprocal": lambda e: (lambda v, i: (v * (1 / v.sum()), i))(*jax.lax.top_k(jax.nn.softmax(e), 2)),
    "taken by index": lambda e: (
        (q := jax.nn.softmax(e)[(i := jax.lax.top_k(e, 2)[1])]) / q.sum(),
        i,
    ),
    "by argsort": lambda e: ((q := jax.nn.softmax(e)[(i := jnp.argsort(-e)[:2])]) / q.sum(), i),
    "by sort": lambda e: ((q := jnp.sort(jax.nn.softmax(e))[::-1][:2]) / q.sum(), jnp.argsort(-e)[:2]),
}


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        *(pytest.param(name, "attn_lrp", marks=TO_COME if name == "by sort" else ()) for name in MIXTURES),
        *(("renormalised", rules) for rules in RULES),
    ],
)
def test_a_softmax_renormalised_over_a_subset_is_that_of_the_subset(name, rules):
    def f(x):
        weights, index = MIXTURES[name](x @ A)
        return (weights @ x[index]) @ V

    r = jrlrp.relevance(f, rules=RULES[rules])(ROWS)
    weights = np.append(softmax(E[CHOSEN]), 0)
    if rules == "attn_lrp":
        close(r, softmax_map(weights))
    elif rules != "relative plus":
        close(r, gated_map(weights))
    else:
        close(r, jrlrp.relevance(lambda x: (jax.nn.softmax(x[:2] @ A) @ x[:2]) @ V, rules=RULES[rules])(ROWS))


# Norms, each kind in many spellings; the last axis is normalised but for group and instance norms.
RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(2, 5, 6)) + 0.3
GAIN, BIAS = RNG.normal(size=6) + 1, RNG.normal(size=6)
DENSE = RNG.normal(size=(6, 3))
EPS = 1e-5


def mean(x):
    return x.mean(-1, keepdims=True)


def by_hand(x):
    d = x - mean(x)
    return d / jnp.sqrt(mean(d * d) + EPS) * GAIN + BIAS


def unrolled(x):
    """Each feature by itself: a statistic of a hundred equations."""
    features = [x[..., k : k + 1] for k in range(6)]
    centre = sum(features) / 6
    variance = functools.reduce(jnp.add, [jnp.square(f - centre) for f in features]) / 6
    return (x - centre) / jnp.sqrt(variance + EPS) * GAIN + BIAS


def in_groups(x, variance):
    g = x.reshape(*x.shape[:-1], 2, 3)
    return ((g - mean(g)) / jnp.sqrt(variance(g) + EPS)).reshape(x.shape) * GAIN + BIAS


def squares(x):
    return mean((x - mean(x)) ** 2)


def over_positions(x, variance):
    d = x - x.mean(1, keepdims=True)
    return d / jnp.sqrt(variance(x, d) + EPS) * GAIN + BIAS


NORMS = {
    "layer": {
        "by var": lambda x: (x - mean(x)) / jnp.sqrt(x.var(-1, keepdims=True) + EPS) * GAIN + BIAS,
        "by hand": by_hand,
        "by hand, rsqrt": lambda x: (d := x - mean(x)) * jax.lax.rsqrt(mean(d * d) + EPS) * GAIN + BIAS,
        "by hand, power": lambda x: (d := x - mean(x)) * (mean(d**2) + EPS) ** -0.5 * GAIN + BIAS,
        "gain first": lambda x: (d := x - mean(x)) * GAIN / jnp.sqrt(mean(d * d) + EPS) + BIAS,
        "by einsum": lambda x: (
            (d := x - mean(x)) / jnp.sqrt(jnp.einsum("bti,bti->bt", d, d)[..., None] / 6 + EPS) * GAIN + BIAS
        ),
        "by a matrix of means": lambda x: (
            (d := x - x @ jnp.full((6, 6), 1 / 6)) / jnp.sqrt((d * d) @ jnp.full((6, 6), 1 / 6) + EPS) * GAIN + BIAS
        ),
        "by norm": lambda x: (d := x - mean(x)) * np.sqrt(6) / jnp.sqrt(length(d) ** 2 + 6 * EPS) * GAIN + BIAS,
        "sums": lambda x: (
            (d := x - x.sum(-1, keepdims=True) / 6) / jnp.sqrt((d * d).sum(-1, keepdims=True) / 6 + EPS) * GAIN + BIAS
        ),
        "standardize": lambda x: jax.nn.standardize(x, epsilon=EPS) * GAIN + BIAS,
        "unrolled": unrolled,
        "flax": lambda x: nn.LayerNorm(epsilon=EPS).apply({"params": {"scale": GAIN, "bias": BIAS}}, x),
    },
    "rms": {
        "by rsqrt": lambda x: x * jax.lax.rsqrt(mean(x * x) + EPS) * GAIN,
        "by root": lambda x: x / jnp.sqrt(mean(jnp.square(x)) + EPS) * GAIN,
        "by power": lambda x: x * (mean(x**2) + EPS) ** -0.5 * GAIN,
        "by norm": lambda x: x / jnp.sqrt(length(x) ** 2 / 6 + EPS) * GAIN,
        "gain first": lambda x: GAIN * x / jnp.sqrt(mean(x * x) + EPS),
        "by matmul": lambda x: x * jax.lax.rsqrt((x[..., None, :] @ x[..., None])[..., 0] / 6 + EPS) * GAIN,
        "unrolled": lambda x: (
            x / jnp.sqrt(functools.reduce(jnp.add, [x[..., k : k + 1] ** 2 for k in range(6)]) / 6 + EPS) * GAIN
        ),
        "unrolled, again and again": lambda x: (
            x / jnp.sqrt(functools.reduce(jnp.add, [x[..., k : k + 1] ** 2 for k in [*range(6)] * 8]) / 48 + EPS) * GAIN
        ),
        "flax": lambda x: nn.RMSNorm(epsilon=EPS).apply({"params": {"scale": GAIN}}, x),
    },
    "group": {
        "by var": lambda x: in_groups(x, lambda g: g.var(-1, keepdims=True)),
        "by hand": lambda x: in_groups(x, squares),
        "halves": lambda x: (
            jnp.concatenate([(h - mean(h)) / jnp.sqrt(h.var(-1, keepdims=True) + EPS) for h in jnp.split(x, 2, -1)], -1)
            * GAIN
            + BIAS
        ),
    },
    "instance": {
        "by var": lambda x: over_positions(x, lambda x, d: x.var(1, keepdims=True)),
        "by hand": lambda x: over_positions(x, lambda x, d: (d * d).mean(1, keepdims=True)),
        "transposed": lambda x: (
            (lambda y: (d := y - mean(y)) / jnp.sqrt(mean(d * d) + EPS))(x.swapaxes(1, 2)).swapaxes(1, 2) * GAIN + BIAS
        ),
        "vmapped": lambda x: (
            jax.vmap(jax.vmap(lambda v: (d := v - v.mean()) / jnp.sqrt((d * d).mean() + EPS), -1, -1))(x) * GAIN + BIAS
        ),
    },
    "length": {
        "by norm": lambda x: x / length(x),
        "by rsqrt": lambda x: x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True)),
        "reciprocal": lambda x: x * (1 / length(x)),
        "by einsum": lambda x: x / jnp.sqrt(jnp.einsum("...i,...i->...", x, x))[..., None],
        "at least": lambda x: x / jnp.maximum(length(x), 1e-12),
    },
}
# What is normalised over positions, and scored alike at all of them, has no relevance.
TARGETS = {"instance": lambda out: out * jnp.arange(1.0, 6.0)[:, None]}
SPELLINGS = [(kind, name) for kind, spellings in NORMS.items() for name in spellings]


def held_map(kind, x):
    """Return the map of norm(x)[0] @ DENSE at its highest score in each position, statistics held, by hand."""
    x, out = x[0], np.zeros_like(x[0])
    for t in range(5):
        norm = {"layer": (np.eye(6) - 1 / 6) / np.sqrt(x[t].var() + EPS), "length": np.eye(6) / np.linalg.norm(x[t])}
        norm["rms"] = np.eye(6) / np.sqrt((x[t] ** 2).mean() + EPS)
        gain = 1 if kind == "length" else GAIN
        matrix = norm[kind] * gain
        scores = (x[t] @ matrix + (BIAS if kind == "layer" else 0)) @ DENSE
        out[t] = x[t] * (matrix @ DENSE[:, scores.argmax()])
    return out


@functools.cache
def plain_map(kind, rules):
    """Return the map by a kind's first spelling."""
    first = next(iter(NORMS[kind].values()))
    return jax.jit(jrlrp.relevance(lambda x: first(x) @ DENSE, rules=rules, target=TARGETS.get(kind, "max")))(TOKENS)


@pytest.mark.parametrize(("kind", "name"), SPELLINGS)
def test_a_norm_in_any_spelling(kind, name):
    f, plain = (lambda x, g=g: g(x) @ DENSE for g in (NORMS[kind][name], next(iter(NORMS[kind].values()))))
    np.testing.assert_allclose(f(TOKENS), plain(TOKENS), rtol=1e-9)
    assert any(node.kind == "normalisation" for node in jrlrp.plan(f, TOKENS).nodes)
    for rules in (jrlrp.Zero(), None) if kind == "layer" else (jrlrp.Zero(),):
        found = jax.jit(jrlrp.relevance(f, rules=rules, target=TARGETS.get(kind, "max")))(TOKENS)
        close(found, plain_map(kind, rules), 1e-6)
        if rules is not None and kind in ("layer", "rms", "length"):
            close(found[0], held_map(kind, TOKENS), 1e-6)


@pytest.mark.parametrize("name", ["by hand, rsqrt"])
def test_a_norm_in_half_precision_passes_relevance_on_as_it_does_elsewhere(name):
    f = lambda x: (NORMS["layer"][name](x).astype(x.dtype)) @ of(x, DENSE)
    explain = jax.jit(jrlrp.relevance(f))
    half, whole = explain(jnp.asarray(TOKENS, jnp.bfloat16)), explain(TOKENS)
    close(half, whole, 0.1)
