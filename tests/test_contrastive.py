"""Contrast: why this class and not another. Values by hand, of the network N1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import N1, N2_CONV, W1, W2, X

import jrlrp
from jrlrp.contrastive import contrast, difference, others, softmax_gradient

PLUS = jrlrp.ZPlus(1e-12, bias="ignore")
R = [(1.346154, 2.153846), (0.1875, 1.3125), (0.75, 5.25)]
OTHERS = [(0.9375, 6.5625), (2.096154, 7.403846), (1.533654, 3.466346)]
AGAINST = {"others": [0.259615, -0.095648, -0.181731], "negated": [0.384615, -0.075, -0.375]}
SOFTMAX = [0.018030, -0.000198, -0.017832]
TRANSFORMS = {
    "as it is": lambda f: f(jnp.asarray(X)),
    "jit": lambda f: jax.jit(f)(jnp.asarray(X)),
    "vmap": lambda f: jax.vmap(f)(jnp.stack([3 * X, X]))[1],
    "batch of three": lambda f: f(jnp.stack([2 * X, X, X]))[1],
    "scan": lambda f: jax.lax.map(f, jnp.stack([X, 3 * X]))[0],
}


@pytest.fixture(params=TRANSFORMS)
def run(request):
    return TRANSFORMS[request.param]


@pytest.mark.parametrize("t", range(3))
def test_targets(t, run):
    explain = lambda target: run(jrlrp.relevance(N1, rules=PLUS, target=target))
    np.testing.assert_allclose(explain(t), R[t], atol=1e-6)
    np.testing.assert_allclose(explain(others(t)), OTHERS[t], atol=1e-6)
    np.testing.assert_allclose(explain(softmax_gradient(t)), [SOFTMAX[t], -SOFTMAX[t]], atol=1e-6)
    k = (t + 1) % 3
    np.testing.assert_allclose(explain(difference(t, k)), np.subtract(R[t], R[k]), atol=2e-6)


@pytest.mark.parametrize("against", AGAINST)
@pytest.mark.parametrize("t", range(3))
def test_contrast(t, against, run):
    value = AGAINST[against][t]
    found = run(contrast(N1, against, rules=PLUS, target=t))
    np.testing.assert_allclose(found, [value, -value], atol=1e-6)


def test_without_normalising_and_against_a_class_or_a_callable():
    plain = lambda against: contrast(N1, against, rules=PLUS, target=0, normalise=False)(X)
    np.testing.assert_allclose(plain("others"), np.subtract(R[0], OTHERS[0]), atol=1e-6)
    np.testing.assert_allclose(plain("negated"), np.subtract(R[0], (0, 3.5)), atol=2e-6)  # by its stabiliser
    np.testing.assert_allclose(plain(1), np.subtract(R[0], R[1]), atol=1e-6)
    np.testing.assert_allclose(plain(lambda z: 0 * z), R[0], atol=1e-6)


def test_each_example_against_a_class_of_its_own():
    x = jnp.stack([X, X])
    found = contrast(N1, np.array([1, 2]), rules=PLUS, target=0)(x)
    alone = [contrast(N1, k, rules=PLUS, target=0)(X) for k in (1, 2)]
    np.testing.assert_allclose(found, alone, rtol=1e-9)


def test_the_presets_of_the_papers():
    x = jnp.stack([X, 2 * X])
    expected = np.broadcast_to([0.259615, -0.259615], (2, 2))
    np.testing.assert_allclose(contrast(N1, rules=jrlrp.clrp(), target=0)(x), expected, atol=1e-5)
    r = jrlrp.relevance(N1, rules=jrlrp.sglrp(), target=softmax_gradient(np.array([0, 2])))(x)
    np.testing.assert_allclose(r[0], [SOFTMAX[0], -SOFTMAX[0]], atol=1e-6)
    boxed = jrlrp.relevance(N1, rules=jrlrp.clrp(-4.0, 4.0), target=0)(X)
    zb = X * W1 - (-4) * np.maximum(W1, 0) - 4 * np.minimum(W1, 0)
    h = np.maximum(X @ W1.T, 0)
    hidden = 3.5 * np.maximum(W2[0], 0) * h / (np.maximum(W2[0], 0) * h).sum()
    np.testing.assert_allclose(boxed, (zb / zb.sum(1, keepdims=True) * hidden[:, None]).sum(0), rtol=1e-5)


@pytest.mark.parametrize("rules", [None, jrlrp.epsilon_plus(), jrlrp.clrp(), jrlrp.rap(), jrlrp.relative()])
@pytest.mark.parametrize("against", ["others", "negated", 1])
def test_images_sum_to_nothing_in_every_type(rules, against):
    for dtype in ("float64", "bfloat16"):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 5, 2)), dtype)
        found = jax.jit(contrast(N2_CONV, against, rules=rules))(x)
        assert found.shape == x.shape and found.dtype == dtype
        sums = np.asarray(found, np.float64).sum((1, 2, 3))
        assert np.isfinite(sums).all()
        if dtype == "float64":
            np.testing.assert_allclose(np.where(np.abs(np.abs(sums) - 1) < 1e-5, 0, sums), 0, atol=1e-5)


@pytest.mark.parametrize("against", ["others", "negated", 1, others(0)])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_class_that_is_masked_out_is_as_if_it_were_not_there(against, normalise):
    last = np.arange(3) == 2
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
    wanted = contrast(lambda x: N1(x)[:, :2], against, rules=jrlrp.epsilon(), target=0, normalise=normalise)(x)
    for masked in (lambda x: jnp.where(last, -jnp.inf, N1(x)), lambda x: N1(x) + jnp.where(last, -jnp.inf, 0.0)):
        found = contrast(masked, against, rules=jrlrp.epsilon(), target=0, normalise=normalise)(x)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
        r = jrlrp.relevance(masked, rules=jrlrp.epsilon(), target=difference(0, 1))(x)
        assert np.isfinite(r).all()


def test_scores_that_overflow_give_nothing():
    z = jnp.asarray([[jnp.inf, 1.0, 2.0], [-jnp.inf, 1.0, 2.0], [jnp.inf, -jnp.inf, 0.0]])
    for target in (others(1), softmax_gradient(1), difference(0, 1), softmax_gradient("max")):
        assert np.isfinite(target(z)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_of_a_softmax_that_is_sure(dtype):
    for z in (14.0, 18.0, 60.0):
        scores = jnp.asarray([[z, 0.0, -1.0, 0.5]], dtype)
        y = np.exp(np.asarray([z, 0, -1, 0.5]) - z)
        y /= y.sum()
        wanted = np.where(np.arange(4) == 0, y[0] * y[1:].sum(), -y[0] * y)
        np.testing.assert_allclose(softmax_gradient(0)(scores)[0].astype(float), wanted, rtol=1e-2)


def test_gradient_times_input_keeps_examples_apart():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
    found = contrast(N1, rules=jrlrp.gradient_times_input())(x)
    for k in range(3):
        np.testing.assert_allclose(
            found[k], contrast(N1, rules=jrlrp.gradient_times_input())(x[k : k + 1])[0], atol=1e-12
        )


def test_what_is_no_number_shows_in_its_example_alone():
    found = contrast(N1, rules=PLUS)(jnp.stack([X, jnp.nan * X, X]))
    np.testing.assert_array_equal(np.isnan(found).any(1), [False, True, False])


def test_strict_promotion_is_for_the_user_s_code():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        net, x = lambda x: x @ jnp.ones((2, 3), x.dtype), jnp.ones((3, 2), "bfloat16")
        contrast(net, rules=PLUS)(x)
        jrlrp.relevance(net, rules=PLUS, target=softmax_gradient())(x)


def test_several_arguments_and_one_forward_pass():
    f = lambda x, y: N1(x) + N1(y)
    both = contrast(f, rules=PLUS, target=0, argnums=(0, 1))(jnp.asarray(X), 2 * jnp.asarray(X))
    assert len(both) == 2 and abs(sum(float(r.sum()) for r in both)) < 1e-9
    w = jnp.asarray(np.random.default_rng(1).normal(size=(512, 512)))
    net = lambda x: jax.nn.relu(jax.nn.relu(x @ w) @ w) @ w
    x = jnp.ones((8, 512))
    flops = lambda f: jax.jit(f).lower(x).compile().cost_analysis()["flops"]
    one, two = flops(jrlrp.relevance(net, rules=jrlrp.epsilon())), flops(contrast(net, rules=jrlrp.epsilon()))
    assert two <= 1.55 * one  # a forward pass and two backward ones, of the same size


WRONG = {
    "against": (lambda: contrast(N1, "x"), jrlrp.ArgumentError, 'against=\'x\': expected "others", "negated"'),
    "target": (lambda: contrast(N1, target="all"), jrlrp.TargetError, "target='all': expected one class"),
    "range": (lambda: contrast(N1, target=7)(X), jrlrp.TargetError, "target=7 is out of range"),
    "range of against": (lambda: contrast(N1, 7)(X), jrlrp.TargetError, "against: target=7 is out of range"),
    "against itself": (lambda: contrast(N1, 1, target=1), jrlrp.ArgumentError, "class 1 against itself is 0"),
    "nothing": (lambda: contrast(N1, None), jrlrp.ArgumentError, "against=None: expected"),
    "one class": (lambda: contrast(lambda x: N1(x)[..., :1])(X), jrlrp.TargetError, "at least two classes"),
    "a scalar": (
        lambda: jrlrp.relevance(lambda x: N1(x).sum(), target=softmax_gradient())(X),
        jrlrp.TargetError,
        "at least two classes",
    ),
    "the same twice": (lambda: difference(1, 1), jrlrp.TargetError, "expected two classes"),
    "no class": (lambda: others(1.0), jrlrp.TargetError, "target=1.0: expected one class"),
    "argnums": (lambda: contrast(N1, argnums="x"), jrlrp.ArgumentError, "argnums is 'x'"),
    "range of others": (
        lambda: jrlrp.relevance(N1, target=others(7))(X),
        jrlrp.TargetError,
        "target=7 is out of range",
    ),
    "one score": (
        lambda: jrlrp.relevance(lambda x: N1(x)[:, 0], target=softmax_gradient())(np.stack([X, X])),
        jrlrp.TargetError,
        "one score for each example",
    ),
    "gradient": (
        lambda: contrast(N1, "negated", rules=jrlrp.gradient_times_input()),
        jrlrp.ArgumentError,
        "gradient × input has no rules",
    ),
    "normalise": (lambda: contrast(N1, normalise=1), jrlrp.ArgumentError, "normalise=1: expected True or False"),
    "no last layer": (
        lambda: contrast(lambda x: 2 * x, "negated")(X),
        jrlrp.ArgumentError,
        "needs a conv or dense layer",
    ),
    "bounds": (lambda: jrlrp.clrp(0.0), jrlrp.RuleError, "expected both bounds or none"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name):
    run, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        run()
