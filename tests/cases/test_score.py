"""CASES.md B: what an increasing head makes of a score is explained at the score, and nothing is lost at the head."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrlrp

X, W = np.array([1.0, 2.0, 1.0]), np.array([1.0, -2.0, 0.5])
LOGIT = X * W  # the map under ε of z = −2.5
RULES = {
    "epsilon": (jrlrp.epsilon(), LOGIT),
    "attn_lrp": (jrlrp.attn_lrp(), LOGIT),
    "relative plus": (jrlrp.relative_plus(), LOGIT * 2.5 / 5.5),  # sgn(z) x w R, its size kept
    "z plus": (jrlrp.ZPlus(), LOGIT.clip(0) / 1.5 * -2.5),
    "gradient": (jrlrp.gradient_times_input(), LOGIT),
}
BOUNDS = {"float64": 1e-5, "float32": 1e-5, "bfloat16": 2**-6, "float16": 2**-9}


def close(actual, expected, bound=1e-5):
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * np.abs(expected).max())


def log_sigmoid_by_hand(z):
    return jnp.minimum(z, 0) - jnp.log1p(jnp.exp(-jnp.abs(z)))


# Heads of one score, with the sign in which they follow it.
SIGMOIDS = {
    "sigmoid": (1, jax.nn.sigmoid),
    "expit": (1, jax.scipy.special.expit),
    "lax.logistic": (1, jax.lax.logistic),
    "by exp": (1, lambda z: 1 / (1 + jnp.exp(-z))),
    "by exp, reciprocal": (1, lambda z: jax.lax.reciprocal(1 + jnp.exp(-z))),
    "by exp, the other way": (1, lambda z: jnp.exp(z) / (1 + jnp.exp(z))),
    "by exp, shared": (1, lambda z: (e := jnp.exp(z)) / (e + 1)),
    "by power": (1, lambda z: (1 + jnp.exp(-z)) ** -1),
    "by tanh": (1, lambda z: 0.5 * jnp.tanh(0.5 * z) + 0.5),
    "two cases": (1, lambda z: jnp.where(z > 0, 1 / (1 + jnp.exp(-z)), jnp.exp(z) / (1 + jnp.exp(z)))),
    "softmax of two": (1, lambda z: jax.nn.softmax(jnp.stack([jnp.zeros_like(z), z], -1))[..., 1]),
    "log_sigmoid": (1, jax.nn.log_sigmoid),
    "log_sigmoid by hand": (1, log_sigmoid_by_hand),
    "log of sigmoid": (1, lambda z: jnp.log(jax.nn.sigmoid(z))),
    "log of sigmoid, stabilised": (1, lambda z: jnp.log(jax.nn.sigmoid(z) + 1e-7)),
    "log of sigmoid, clipped": (1, lambda z: jnp.log(jnp.clip(jax.nn.sigmoid(z), 1e-3, 1 - 1e-3))),
    "clipped": (1, lambda z: jnp.clip(jax.nn.sigmoid(z), 1e-3, 1 - 1e-3)),
    "cast": (1, lambda z: jax.nn.sigmoid(z.astype(jnp.float32))),
    "indexed": (1, lambda z: jax.nn.sigmoid(z[None])[0]),
    "negated": (-1, lambda z: -jax.nn.sigmoid(z)),
    "of the negative": (-1, lambda z: jax.nn.sigmoid(-z)),
    "its complement": (-1, lambda z: 1 - jax.nn.sigmoid(z)),
    "log of its complement": (-1, lambda z: jnp.log1p(-jax.nn.sigmoid(z))),
    "label 1": (-1, lambda z: optax.sigmoid_binary_cross_entropy(z, jnp.ones_like(z))),
    "label 0": (1, lambda z: optax.sigmoid_binary_cross_entropy(z, jnp.zeros_like(z))),
    "label 1 by hand": (-1, lambda z: -jnp.log(jax.nn.sigmoid(z) + 1e-7)),
    "under jit": (1, jax.jit(jax.nn.sigmoid)),
}
INCREASING = {
    "exp": (1, jnp.exp),
    "exp2": (1, jnp.exp2),
    "exp of the negative": (-1, lambda z: jnp.exp(-z)),
    "softplus": (1, jax.nn.softplus),
    "softplus by hand": (1, lambda z: jnp.log1p(jnp.exp(z))),
    "softplus by logaddexp": (1, lambda z: jnp.logaddexp(z, 0.0)),
    "elu + 1": (1, lambda z: jax.nn.elu(z) + 1),
    "1 + tanh": (1, lambda z: 1 + jnp.tanh(z)),
    "scaled sigmoid": (1, lambda z: 3 * jax.nn.sigmoid(z)),
    "shifted sigmoid": (1, lambda z: 4 * jax.nn.sigmoid(z) + 1),
    "sigmoid in percent": (1, lambda z: 100 * jax.nn.sigmoid(z)),
    "sigmoid within bounds": (1, lambda z: 0.05 + 0.9 * jax.nn.sigmoid(z)),
    "cdf": (1, jax.scipy.stats.norm.cdf),
    "arctan": (1, lambda z: jnp.arctan(z) / np.pi + 0.5),
    "exp of exp": (1, lambda z: jnp.exp(-jnp.exp(-z))),
}
HEADS = {**SIGMOIDS, **INCREASING}


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        *((name, "epsilon") for name in HEADS),
        *((name, "relative plus") for name in ("sigmoid", "log_sigmoid", "exp", "negated")),
        *((name, "gradient") for name in ("sigmoid", "log_sigmoid", "softplus", "label 1", "softmax of two")),
    ],
)
def test_a_head_is_explained_at_its_argument(name, rules):
    sign, head = HEADS[name]
    composite, expected = RULES[rules]
    x = jnp.asarray(X, jnp.float32)
    value, r = jrlrp.value_and_relevance(lambda x: head(x @ jnp.asarray(W, x.dtype)), rules=composite)(x)
    np.testing.assert_allclose(value, head(jnp.float32(-2.5)), rtol=1e-6)
    close(r, sign * expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@pytest.mark.parametrize("name", ["sigmoid", "by exp", "log_sigmoid", "exp", "label 1"])
def test_a_head_in_any_dtype(name, dtype):
    sign, head = HEADS[name]
    r = jrlrp.relevance(lambda x: head(x @ jnp.asarray(W, x.dtype)), rules=jrlrp.epsilon())(jnp.asarray(X, dtype))
    assert r.dtype == dtype
    close(r, sign * LOGIT, BOUNDS[dtype])


@pytest.mark.parametrize("rules", ["attn_lrp", "z plus"])
@pytest.mark.parametrize("name", ["by exp, shared", "exp", "elu + 1", "its complement"])
def test_a_head_under_other_rules(name, rules):
    sign, head = HEADS[name]
    composite, _ = RULES[rules]  # the positive part of a sum's negative is another than of the sum
    expected = jrlrp.relevance(lambda x: x @ (sign * W), rules=composite)(X)
    close(jrlrp.relevance(lambda x: head(x @ W), rules=composite)(X), expected)


@pytest.mark.parametrize("name", ["sigmoid", "log of sigmoid, clipped", "exp"])
def test_a_head_of_a_batch_and_under_transforms(name):
    head = HEADS[name][1]
    weights = np.random.default_rng(0).normal(size=(3, 4))
    x = np.random.default_rng(1).normal(size=(5, 3))
    for wrap in (lambda f: f, jax.checkpoint):
        explain = lambda f: jax.jit(jrlrp.relevance(wrap(f), rules=jrlrp.epsilon()))  # noqa: B023
        expected = explain(lambda x: jnp.tanh(x) @ weights)(x)  # the highest score, of all classes alike
        close(explain(lambda x: head(jnp.tanh(x) @ weights))(x), expected)
    close(jax.vmap(explain(lambda x: head(jnp.tanh(x) @ weights)))(x), expected)
    one = weights[:, :1]
    close(explain(lambda x: head(x @ one))(x), explain(lambda x: x @ one)(x))


@pytest.mark.parametrize("name", ["tanh", "elu", "relu", "cube", "arcsinh"])
def test_a_head_with_a_zero_at_zero_is_explained_at_its_value(name):
    heads = {"cube": lambda z: z**3, "arcsinh": jnp.arcsinh, "tanh": jnp.tanh}
    head = heads.get(name) or getattr(jax.nn, name)
    r = jrlrp.relevance(lambda x: head(x @ W), rules=jrlrp.epsilon())(X)
    np.testing.assert_allclose(r, LOGIT / -2.5 * float(head(-2.5)), rtol=1e-5, atol=1e-9)


def test_a_head_of_a_narrow_interval_is_one():
    """What lies within [0, 10⁻⁵] has no point of a grid of numbers near 1."""
    head = lambda z: jnp.log(jnp.clip(1e-5 * jax.nn.sigmoid(z), 0, 1e-5))
    close(jrlrp.relevance(lambda x: head(x @ W), rules=jrlrp.epsilon())(X), LOGIT)


NO_HEADS = {
    "far from a label": lambda z: (z - 30.0) ** 2,
    "a long wave": lambda z: 2 + jnp.sin(z / 100),
    "waves between numbers": lambda z: z + jnp.sin(2 * np.pi * z + 1),
    "a dip": lambda z: jnp.exp(z) - 2 * jnp.exp(-(((z - 0.25) / 0.1) ** 2)),
}


@pytest.mark.parametrize("name", NO_HEADS)
def test_what_turns_somewhere_is_no_head(name):
    """A loss of 30 away falls at z = −2.5, and rises where z is more than the label."""
    head = NO_HEADS[name]
    value, r = jrlrp.value_and_relevance(lambda x: head(x @ W), rules=jrlrp.epsilon(), target="all")(X)
    close(r, LOGIT / LOGIT.sum() * value)  # as of an activation, and with its value


def test_an_activation_inside_a_network_is_no_head():
    r = jrlrp.relevance(lambda x: jnp.exp(x * W) @ W, rules=jrlrp.epsilon())(X)
    np.testing.assert_allclose(r, np.exp(LOGIT) * W, rtol=1e-5)


RNG = np.random.default_rng(2)
LAYER, NET = RNG.normal(size=(4, 6)), RNG.normal(size=(6, 3))
INPUT = RNG.normal(size=4)


def logits(x):
    return jax.nn.relu(x @ LAYER) @ NET


# Heads of logits, and the logits' target that they are explained as, with its sign.
OF_SOFTMAX = {
    "softmax": ("max", 1, jax.nn.softmax),
    "log of softmax": ("max", 1, lambda z: jnp.log(jax.nn.softmax(z))),
    "log_softmax": ("max", 1, jax.nn.log_softmax),
    "log, stabilised": ("max", 1, lambda z: jnp.log(jax.nn.softmax(z) + 1e-7)),
    "clipped": ("max", 1, lambda z: jnp.clip(jax.nn.softmax(z), 1e-7, 1 - 1e-7)),
    "clipped, log": ("max", 1, lambda z: jnp.log(jnp.clip(jax.nn.softmax(z), 1e-7, 1.0))),
    "cast": ("max", 1, lambda z: jax.nn.softmax(z.astype(jnp.float32)).astype(z.dtype)),
    "at least": ("max", 1, lambda z: jnp.maximum(jax.nn.softmax(z), 1e-9)),
    "in percent": ("max", 1, lambda z: 100 * jax.nn.softmax(z)),
    "the highest": ("max", 1, lambda z: jax.nn.softmax(z).max(-1)),
    "the highest log": ("max", 1, lambda z: jnp.log(jax.nn.softmax(z).max(-1))),
    "one": (1, 1, lambda z: jax.nn.softmax(z)[..., 1]),
    "log of one": (1, 1, lambda z: jnp.log(jax.nn.softmax(z)[..., 1])),
    "one by take": (1, 1, lambda z: jnp.take(jax.nn.softmax(z), 1, axis=-1)),
    "one by a mask": (1, 1, lambda z: (jax.nn.softmax(z) * jnp.array([0.0, 1, 0])).sum(-1)),
    "negative log of one": (2, -1, lambda z: -jnp.log(jax.nn.softmax(z)[..., 2])),
    "negative log of one, stabilised": (2, -1, lambda z: -jnp.log(jax.nn.softmax(z)[..., 2] + 1e-7)),
    "negative log_softmax": (2, -1, lambda z: -jax.nn.log_softmax(z)[..., 2]),
    "by hand": (0, 1, lambda z: ((e := jnp.exp(z - z.max(-1, keepdims=True))) / e.sum(-1, keepdims=True))[..., 0]),
}


@pytest.mark.parametrize("rules", [None], ids=["default"])
@pytest.mark.parametrize("name", OF_SOFTMAX)
def test_what_follows_a_final_softmax(name, rules):
    target, sign, head = OF_SOFTMAX[name]
    expected = sign * jrlrp.relevance(logits, target=target, rules=rules)(INPUT)
    assert np.abs(expected).max() > 0.1
    close(jrlrp.relevance(lambda x: head(logits(x)), rules=rules)(INPUT), expected)


@pytest.mark.parametrize("rules", [None, jrlrp.epsilon(), jrlrp.attn_lrp()], ids=["default", "epsilon", "attn_lrp"])
def test_a_difference_of_logs_is_one_of_logits(rules):
    plain = lambda x: (z := logits(x))[0] - z[1]
    expected = jrlrp.relevance(plain, rules=rules)(INPUT)
    for ratio in (
        lambda z: jnp.log(jax.nn.softmax(z)[0]) - jnp.log(jax.nn.softmax(z)[1]),
        lambda z: (p := jnp.log(jax.nn.softmax(z)))[0] - p[1],
        lambda z: (p := jax.nn.log_softmax(z))[0] - p[1],
        lambda z: jnp.log((p := jax.nn.softmax(z))[0] / p[1]),
    ):
        close(jrlrp.relevance(lambda x: ratio(logits(x)), rules=rules)(INPUT), expected, 1e-7)  # noqa: B023


LABELS = np.array([0, 2, 1, 1, 0])
ONE_HOT, BINARY = np.eye(3)[LABELS], LABELS > 0
pick = lambda z: jnp.take_along_axis(z, LABELS[:, None], 1)[:, 0]
binary = lambda z: z[:, 0] * (1 - 2 * BINARY)


def binary_by_hand(z, y=BINARY * 1):
    p = jax.nn.sigmoid(z[:, 0])
    return -(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))


# Losses of a batch of logits, and what of the logits they are explained as.
LOSSES = {
    "integer": (
        lambda z: optax.softmax_cross_entropy_with_integer_labels(z, LABELS).mean(),
        lambda z: -pick(z).mean(),
    ),
    "one-hot": (lambda z: optax.softmax_cross_entropy(z, ONE_HOT).mean(), lambda z: -pick(z).mean()),
    "by hand": (
        lambda z: -jnp.mean(jnp.sum(ONE_HOT * jnp.log(jax.nn.softmax(z) + 1e-7), -1)),
        lambda z: -pick(z).mean(),
    ),
    "likelihood": (
        lambda z: jnp.sum(jax.nn.one_hot(LABELS, 3) * jax.nn.log_softmax(z), -1).sum(),
        lambda z: pick(z).sum(),
    ),
    "where": (lambda z: jnp.where(ONE_HOT > 0, jax.nn.log_softmax(z), 0).sum(), lambda z: pick(z).sum()),
    "picked by a product": (lambda z: (jax.nn.softmax(z) * jax.nn.one_hot(LABELS, 3)).sum(-1), pick),
    "picked by einsum": (lambda z: jnp.einsum("bk,bk->b", jax.nn.softmax(z), jax.nn.one_hot(LABELS, 3)), pick),
    "under vmap": (lambda z: jax.vmap(lambda z, y: -jax.nn.log_softmax(z)[y])(z, LABELS), lambda z: -pick(z)),
    "logit less log-sum-exp": (lambda z: z[:, 1] - jax.nn.logsumexp(z, -1), lambda z: z[:, 1]),
    "binary": (lambda z: optax.sigmoid_binary_cross_entropy(z[:, 0], BINARY * 1.0).mean(), lambda z: binary(z).mean()),
    "binary by hand": (binary_by_hand, binary),
    "binary, labels that JAX computes": (lambda z: binary_by_hand(z, jnp.asarray(BINARY, jnp.int32)), binary),
    "log-odds": (lambda z: jax.scipy.special.logit(jax.nn.sigmoid(z)), lambda z: z),
    "highest of the complements": (lambda z: (1 - jax.nn.softmax(z)).max(-1), lambda z: (-z).max(-1)),
    "lowest": (lambda z: jax.nn.softmax(z).min(-1), lambda z: z.min(-1)),
    "split": (lambda z: jnp.log(jnp.split(jax.nn.softmax(z), 3, -1)[1]), lambda z: z[:, 1:2]),
    "in a scan": (
        lambda z: jax.lax.scan(lambda c, t: (c, -jax.nn.log_softmax(t[0])[t[1]]), 0.0, (z, LABELS))[1].mean(),
        lambda z: -pick(z).mean(),
    ),
    "after a loop": (lambda z: jnp.log(jax.lax.map(jax.nn.softmax, z) + 1e-6), lambda z: z),
}


@pytest.mark.parametrize("rules", [None, jrlrp.epsilon()], ids=["default", "epsilon"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_label_s_loss_is_explained_at_its_logit(name, rules):
    x = np.random.default_rng(3).normal(size=(5, 4))
    loss, score = LOSSES[name]
    r, expected = (
        jax.jit(jrlrp.relevance(lambda x: f(logits(x)), target="all", rules=rules))(x)  # noqa: B023
        for f in (loss, score)
    )
    close(r, expected, 1e-4)  # a sum over labels has a stabiliser of its own


def test_a_head_ends_where_the_network_s_own_function_begins():
    net = lambda x: jax.nn.relu(x @ LAYER)
    for head, same in (
        (lambda h: jnp.exp(h), lambda h: h),
        (lambda h: jax.nn.sigmoid(h.mean()), lambda h: h.mean()),
        (lambda h: jnp.log(1 + h), jnp.log1p),
        (lambda h: jax.nn.log_softmax(h) @ np.array([1.0, 2, 0, 1, -1, 3]),) * 2,
    ):
        r, expected = (jrlrp.relevance(lambda x: f(net(x)))(INPUT) for f in (head, same))  # noqa: B023
        close(r, expected)


def test_the_mean_of_two_softmaxes_is_not_lost_in_silence():
    """Of no one logit: it may be refused, but not explained as nothing."""
    f = lambda x: (jax.nn.softmax(logits(x)) + jax.nn.softmax(jnp.tanh(x @ LAYER) @ NET)) / 2
    try:
        r = jrlrp.relevance(f)(INPUT)
    except jrlrp.JrlrpError:
        return
    assert np.isfinite(r).all()
    assert np.abs(r).max() > 1e-3


BATCH = RNG.normal(size=(5, 4))
SINGLE = {
    "indexed": lambda x: (x @ LAYER)[:, 0],
    "vector": lambda x: x @ LAYER[:, 0],
    "squeezed": lambda x: jnp.squeeze(jax.nn.relu(x @ LAYER) @ NET[:, :1], 1),
    "sigmoid": lambda x: jax.nn.sigmoid((x @ LAYER)[:, 0]),
    "reshaped": lambda x: (x @ LAYER[:, :1]).reshape(-1),
    "mean": lambda x: jax.nn.relu(x @ LAYER).mean(1),
    "vmapped": jax.vmap(lambda x: x @ LAYER[:, 0]),
    "highest": lambda x: logits(x).max(-1),
    "mapped": lambda x: jax.lax.map(lambda x: jnp.tanh(x) @ LAYER[:, 0], x),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_score_for_each_example_needs_a_target(name):
    f = SINGLE[name]
    for explain in (jrlrp.relevance(f), jax.jit(jrlrp.relevance(f, rules=jrlrp.epsilon()))):
        with pytest.raises(jrlrp.TargetError, match=r'target="all"'):
            explain(BATCH)
    r = jax.jit(jrlrp.relevance(f, target="all"))(BATCH)
    kept = lambda x: f(x)[:, None]
    close(r, jrlrp.relevance(kept)(BATCH), 1e-7)


@pytest.mark.parametrize(
    "f",
    [lambda x: x @ LAYER, lambda x: jax.nn.softmax(x), lambda x: x.mean() * INPUT],
    ids=["dense", "softmax", "of a mean"],
)
def test_scores_of_one_example_are_no_batch(f):
    assert np.isfinite(jrlrp.relevance(f)(INPUT)).all()


def test_scores_of_a_whole_batch_are_no_scores_of_examples():
    assert np.isfinite(jrlrp.relevance(lambda x: x.mean(0) @ LAYER)(BATCH)).all()
    assert jax.vmap(jrlrp.relevance(lambda x: x @ LAYER[:, 0]))(BATCH).shape == BATCH.shape
