"""Equal programs in other spellings than those of CASES.md: each has the map of its plain one, under every rule."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from stabilisers import refined

import jrlrp

rng = np.random.default_rng(0)
X = rng.normal(size=(3, 4, 6))
W, V, C = rng.normal(size=(3, 6, 6)) / np.sqrt(6)
D, Q, P = rng.normal(size=(6, 5)), rng.normal(size=(4, 6)), rng.normal(size=(4, 7))
FILTER = rng.normal(size=(3, 6, 6)) / 3
EDGES = jnp.arange(12), np.array([0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4])

# With stabilisers so small that two maps are apart by rounding alone.
RULES = {
    "relative plus": refined(jrlrp.relative_plus()),
    "epsilon plus flat": refined(jrlrp.epsilon_plus_flat()),
    "alpha beta": refined(jrlrp.AlphaBeta(2, -1)),
    "default": refined(jrlrp.default()),
}


def parts(e):
    return jnp.exp(e - e.max(-1, keepdims=True))


def total(e):
    return e.sum(-1, keepdims=True)


def attention(attend):
    """Attention of parts p and values v: `attend(p, v)` divides by the sums of p."""
    return lambda x: jax.nn.relu(attend(parts(x @ W @ x.swapaxes(1, 2)), x @ V)).mean(1) @ D


ATTENTION = {
    "divided first": lambda p, v: (p / total(p)) @ v,
    "divided last": lambda p, v: (p @ v) / total(p),
    "reciprocal": lambda p, v: (p @ v) * (1 / total(p)),
    "einsum of three": lambda p, v: jnp.einsum("npq,nqf,np->npf", p, v, 1 / p.sum(-1)),
    "sum of products": lambda p, v: (p[..., None] * v[:, None]).sum(2) / total(p),
    "transposed": lambda p, v: (v.swapaxes(1, 2) @ p.swapaxes(1, 2) / p.sum(-1)[:, None]).swapaxes(1, 2),
    "stabilised": lambda p, v: (p @ v) / (total(p) + 1e-9),
    "guarded": lambda p, v: (p @ v) / jnp.where(total(p) == 0, 1, total(p)),
    "guarded by a bound": lambda p, v: (p @ v) / jnp.where(total(p) > 1e-9, total(p), 1),
    "mean over mean": lambda p, v: (p @ v) / 4 / p.mean(-1, keepdims=True),
    "with a gain": lambda p, v: 0.5 * (p @ v) * (2 / total(p)),
    "of multiples": lambda p, v: (p @ (2 * v)) / (2 * total(p)),
}


def pooling(mean):
    """A mean of x over positions, by weights: `mean(weights, x)`."""
    return lambda x: mean(jax.nn.sigmoid(x @ Q[0]), x) @ D


POOLING = {
    "divided first": lambda w, x: jnp.einsum("np,npf->nf", w / total(w), x),
    "divided last": lambda w, x: (w[..., None] * x).sum(1) / total(w),
    "einsum": lambda w, x: jnp.einsum("np,npf->nf", w, x) / total(w),
    "means": lambda w, x: (w[..., None] * x).mean(1) / w.mean(1, keepdims=True),
    "average": lambda w, x: jnp.stack([jnp.average(x[k], axis=0, weights=w[k]) for k in range(3)]),
    "average under vmap": lambda w, x: jax.vmap(lambda w, x: jnp.average(x, axis=0, weights=w))(w, x),
}


def graph(aggregate):
    """One layer of graph attention: `aggregate(p, h, to, count)` adds up messages, divided by the sums of p."""

    def f(x):
        h, (of, to) = x.reshape(12, 6), EDGES
        e = (h @ W)[of] @ Q[0]
        p = jnp.exp(e - jax.ops.segment_max(e, to, 5)[to])
        return (aggregate(p[:, None], h[of], to, 5) @ D).sum(0)

    return f


GRAPH = {
    "divided first": lambda p, h, to, n: jax.ops.segment_sum(p / jax.ops.segment_sum(p, to, n)[to] * h, to, n),
    "divided last": lambda p, h, to, n: jax.ops.segment_sum(p * h, to, n) / jax.ops.segment_sum(p, to, n),
    "reciprocal": lambda p, h, to, n: jax.ops.segment_sum(h * p, to, n) * (1 / jax.ops.segment_sum(p, to, n)),
    "indices of JAX": lambda p, h, to, n: GRAPH["divided first"](p, h, jnp.asarray(to), n),
}


def layer(dense):
    return lambda x: jax.nn.relu(dense(x) + 0.1).mean(1) @ D[:, :3]


SUMS = {
    "dense": (lambda x: x @ W, lambda x: (x[..., None] * W).sum(-2), lambda x: (W.T * x[..., None, :]).sum(-1)),
    "dense, under vmap": (lambda x: x @ W, lambda x: jax.vmap(lambda x: (x[..., None] * W).sum(-2))(x)),
    "over positions": (
        lambda x: jnp.einsum("npf,pg->ngf", x, P),
        lambda x: (x[:, :, None] * P[None, :, :, None]).sum(1),
        lambda x: jnp.moveaxis((x[:, :, None] * P[None, :, :, None]).sum(1), 1, 1),
    ),
    "each position's own": (
        lambda x: jnp.repeat(jnp.einsum("npf,pf->np", x, Q)[..., None], 6, -1),
        lambda x: jnp.repeat((x * Q).sum(-1, keepdims=True), 6, -1),
        lambda x: jnp.repeat(6 * (x * Q).mean(-1, keepdims=True), 6, -1),
    ),
    "of two active": (
        lambda x: jnp.einsum("npf,nqf->npq", x, x @ W) @ P[:, :6],
        lambda x: (x[:, :, None] * (x @ W)[:, None]).sum(-1) @ P[:, :6],
    ),
    "of multiples": (lambda x: x.sum(1, keepdims=True) / 4, lambda x: (x / 4).sum(1, keepdims=True)),
    "of means side by side": (
        lambda x: x.reshape(-1, 2, 2, 6).mean(2),
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 1), (1, 2, 1), "VALID") / 2,
    ),
}


def conv(x, padding, **options):
    return lax.conv_general_dilated(x, FILTER, (1,), padding, dimension_numbers=("NWC", "WIO", "NWC"), **options)


def pad(x, *edges):
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), edges, (0, 0, 0)])


PADDING = {
    "before": (lambda x: conv(x, "SAME"), lambda x: conv(jnp.pad(x, ((0, 0), (1, 1), (0, 0))), "VALID")),
    "twice": (lambda x: conv(x, "SAME"), lambda x: conv(pad(pad(x, 1, 0, 0), 0, 1, 0), "VALID")),
    "between": (lambda x: conv(x, [(2, 2)], lhs_dilation=(2,)), lambda x: conv(pad(x, 2, 2, 1), "VALID")),
    "of what is dilated": (
        lambda x: conv(x, [(5, 3)], lhs_dilation=(3,)),
        lambda x: conv(pad(x, 1, 0, 0), [(2, 3)], lhs_dilation=(3,)),
    ),
    "of a pool": (
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 1), (1, 2, 1), ((0, 0), (1, 1), (0, 0))),
        lambda x: lax.reduce_window(pad(x, 1, 1, 0), 0.0, lax.add, (1, 2, 1), (1, 2, 1), "VALID"),
    ),
}


def reduced(x, start, function):
    return lax.reduce(x, start, function, (1,))[:, None]


def later_maximum(a, b):
    return jnp.maximum(b, a)


WINDOWS = ((1, 2, 1), (1, 2, 1), ((0, 0), (1, 1), (0, 0)))
REDUCED = {  # by a function of the user's, or from a beginning that is traced
    "sum": (lambda x: x.sum(1, keepdims=True) @ W, lambda x: reduced(x, jnp.zeros((), x.dtype), jnp.add) @ W),
    "maximum": (lambda x: (x @ W).max(1, keepdims=True), lambda x: reduced(x @ W, -jnp.inf, later_maximum)),
    "least": (lambda x: (x @ W).min(1, keepdims=True), lambda x: reduced(x @ W, jnp.inf, jnp.minimum)),
    "average pool": (
        lambda x: lax.reduce_window(x @ W, 0.0, lax.add, *WINDOWS) / 2,
        jax.jit(lambda x: lax.reduce_window(x @ W, jnp.array(0, x.dtype), lax.add, *WINDOWS) / 2),
    ),
    "max-pool": (
        lambda x: lax.reduce_window(x @ W, -jnp.inf, lax.max, *WINDOWS),
        lambda x: lax.reduce_window(x @ W, -jnp.inf, jnp.maximum, *WINDOWS),
    ),
}
SIGNS = {
    "max": (lambda x: (x @ W).max(1, keepdims=True), lambda x: -((-(x @ W)).min(1, keepdims=True))),
    "pooled": (lambda x: (x @ W).reshape(-1, 2, 2, 6).max(2), lambda x: -(-(x @ W)).reshape(-1, 2, 2, 6).min(2)),
    "of two": (lambda x: jnp.maximum(x @ W, x @ V), lambda x: -jnp.minimum(-(x @ W), -(x @ V))),
    "sort": (lambda x: jnp.sort(x @ W, descending=True), lambda x: -jnp.sort(-(x @ W))),
    "sum": (lambda x: x + x @ W + x @ V, lambda x: x - (-(x @ W) - x @ V)),
    "product": (lambda x: (x @ W) * (x @ V), lambda x: (x @ W) / (1 / (x @ V))),
}

STACKS = {  # what is joined to be multiplied
    "product": (
        lambda x: (x @ W) * (x @ V) * (x @ C),
        lambda x: jnp.prod(jnp.stack([x @ W, x @ V, x @ C]), 0),
        lambda x: jnp.prod(jnp.stack([(x @ W) * (x @ V), x @ C], 2), 2),
        lambda x: (x @ W) * jnp.prod(jnp.stack([x @ V, x @ C], -1), -1),
        lambda x: jnp.prod(jnp.concatenate([(x @ W)[None], (x @ V)[None], (x @ C)[None]]), 0),
    ),
}


def blend(of):
    return lambda x: of(jax.nn.sigmoid(x @ W), jnp.tanh(x @ V), x @ C)


MIXTURE = {
    "two products": blend(lambda z, n, h: (1 - z) * n + z * h),
    "difference": blend(lambda z, n, h: n + z * (h - n)),
    "other difference": blend(lambda z, n, h: h + (1 - z) * (n - h)),
    "multiplied out": blend(lambda z, n, h: n - z * n + z * h),
}
LOGSUMEXP = {
    "plain": lambda x: x + jax.nn.logsumexp(x, axis=-1, keepdims=True),
    "shift by a number": lambda x: x + (jnp.log(total(jnp.exp(x - 2.0))) + 2.0),
}
LOGSUMEXP_TWICE = {  # what was added before the second is its own
    "plain": lambda x: twice(x, lambda h: jax.nn.logsumexp(h, axis=-1, keepdims=True)),
    "with a maximum": lambda x: twice(x, lambda h: (m := h.max(-1, keepdims=True)) + jnp.log(total(jnp.exp(h - m)))),
    "shifted by a number": lambda x: twice(x, lambda h: jnp.log(total(jnp.exp(h - 2.0))) + 2.0),
    "unshifted": lambda x: twice(x, lambda h: jnp.log(total(jnp.exp(h)))),
}
NORMED = {
    "divided": lambda x: over_root(x) @ W,
    "times a reciprocal spread out": lambda x: (x * jnp.broadcast_to(1 / root(x), x.shape)) @ W,
    "by a spread root": lambda x: (x * (1 / jnp.repeat(root(x), 6, -1))) @ W,
}
NORMED_TWICE = {
    "divided first": lambda x: over_root(over_root(x) @ W) @ V,
    "divided last": lambda x: divided_last(divided_last(x, W), V),
}


def twice(x, log_sum_exp):
    h = x * Q[0][0] + jax.nn.logsumexp(x, axis=-1, keepdims=True)
    return h + log_sum_exp(h)


def root(x):
    return jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-3)


def over_root(x):
    return x / root(x)


def divided_last(x, w):
    return (x @ w) / root(x)


PRODUCT = {
    "of factors": lambda x: x[:, 0] * x[:, 1] * x[:, 2],
    "over an axis": lambda x: jnp.prod(x[:, :3], axis=1),
    "of a stack": lambda x: jnp.stack([x[:, k] for k in range(3)]).prod(0),
}

THREE = {  # summed up: each product has thirds, whichever two come first
    "left": lambda x: ((x @ W) * (x @ V) * (x @ C)).sum(1) @ D,
    "right": lambda x: ((x @ W) * ((x @ V) * (x @ C))).sum(1) @ D,
    "mean": lambda x: ((x @ V) * ((x @ W) * (x @ C))).mean(1) @ (4 * D),
}

SCALED = {  # whatever scales a part of a product, its factors are three
    "afterwards": lambda x: 2.0 * ((x @ W) * (x @ V) * (x @ C)).sum(1) @ D,
    "within": lambda x: (2.0 * ((x @ W) * (x @ V)) * (x @ C)).sum(1) @ D,
    "negated twice": lambda x: -2.0 * ((-((x @ W) * (x @ V))) * (x @ C)).sum(1) @ D,
    "on both sides": lambda x: ((0.5 * ((x @ W) * (x @ V))) * (4.0 * (x @ C))).sum(1) @ D,
}
SILU = {  # an activation is no product
    "afterwards": lambda x: 2.0 * (jax.nn.silu(x @ W) * (x @ V)) @ D,
    "within": lambda x: (2.0 * jax.nn.silu(x @ W)) * (x @ V) @ D,
}


def of(family, wrapped=lambda f: f):
    (_, plain), *others = family.items()
    plain = wrapped(plain)
    return [pytest.param(plain, wrapped(f), id=name) for name, f in others]


def in_pairs(families):
    alone = {name: (layer(plain), others) for name, (plain, *others) in families.items()}
    return [
        pytest.param(plain, layer(f), id=f"{name} {k}")
        for name, (plain, others) in alone.items()
        for k, f in enumerate(others)
    ]


FREE = [  # of the batch's size
    *of(ATTENTION, attention),
    *of(MIXTURE, layer),
    *of(LOGSUMEXP, layer),
    *of(LOGSUMEXP_TWICE, layer),
    *of(NORMED, layer),
    *of(NORMED_TWICE, layer),
    *of(PRODUCT, lambda f: lambda x: f(x) @ D),
    *of(THREE),
    *of(SCALED),
    *of(SILU, lambda f: lambda x: f(x).mean(1)),
    *(p for families in (SUMS, PADDING, REDUCED, SIGNS, STACKS) for p in in_pairs(families)),
]
PAIRS = [*FREE, *of(POOLING, pooling), *of(GRAPH, graph)]


@cache  # it stands beside several spellings
def map_of_plain(plain, rules, count):
    return np.asarray(jrlrp.relevance(plain, rules=RULES[rules])(jnp.asarray(X[:count])))


@pytest.mark.filterwarnings("ignore::jrlrp.JrlrpWarning")  # the graphs are one example
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("plain", "spelt"), PAIRS)
def test_the_map_is_that_of_the_plain_program(plain, spelt, rules):
    x = jnp.asarray(X)
    of_plain = map_of_plain(plain, rules, len(X))
    value, r = jrlrp.value_and_relevance(spelt, rules=RULES[rules])(x)
    np.testing.assert_allclose(value, spelt(x), 1e-12, 1e-12)
    assert np.max(np.abs(r - of_plain)) <= 1e-6 * np.max(np.abs(of_plain))
    if rules in ("relative plus", "default"):  # relevance by R-LRP, and ratios
        captured, _ = jrlrp.relevance(spelt, rules=RULES[rules], capture="*")(x)
        assert np.max(np.abs(r - captured)) <= 1e-12 * np.max(np.abs(r))


@pytest.mark.parametrize("rules", ["relative plus", "default"])
@pytest.mark.parametrize(("plain", "spelt"), FREE)
def test_a_batch_of_one(plain, spelt, rules):
    of_plain, r = map_of_plain(plain, rules, 1), jrlrp.relevance(spelt, rules=RULES[rules])(jnp.asarray(X[:1]))
    assert np.max(np.abs(r - of_plain)) <= 1e-6 * np.max(np.abs(of_plain))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("plain", "spelt"), [*of(ATTENTION, attention), *in_pairs({"dense": SUMS["dense"]})])
def test_in_narrow_dtypes_too(plain, spelt, dtype):
    with jax.enable_x64(False):
        x = jnp.asarray(X, dtype)
        of_plain, r = (np.asarray(jax.jit(jrlrp.relevance(f))(x), np.float32) for f in (plain, spelt))
    bound = 1e-4 if dtype == jnp.float32 else 0.1
    assert np.max(np.abs(r - of_plain)) <= bound * np.max(np.abs(of_plain))


@pytest.mark.parametrize("inner", [jax.nn.elu, jnp.tanh, jax.nn.leaky_relu, jax.nn.gelu, jax.nn.silu])
@pytest.mark.parametrize("outer", [jax.nn.softplus, jax.nn.elu, jax.nn.log_sigmoid, jnp.tanh, jax.nn.gelu])
def test_activations_in_a_row_are_one(inner, outer):
    plan = jrlrp.plan(lambda x: outer(inner(x @ W)) @ V, jnp.asarray(X))
    assert [node.kind for node in plan.nodes] == ["dense", "activation", "dense"]


def test_a_mask_that_is_added_gets_nothing_under_any_rule():
    f = lambda x: jax.nn.softmax(x + jnp.where(jnp.arange(6) < 4, 0.0, -1e30), -1).mean(1) * Q[0]
    r = jrlrp.relevance(f, rules=jrlrp.WSquare())(jnp.asarray(X))
    assert not np.any(r[..., 4:]) and np.max(np.abs(r)) < 10


@pytest.mark.parametrize(("plain", "spelt"), [*of(ATTENTION, attention), *in_pairs({"dense": SUMS["dense"]})])
def test_in_a_scan_by_jit_and_vmap(plain, spelt):
    def looped(f):
        w = np.resize(W, (5, 6))
        turn = lambda x, _: (x + jax.nn.relu(f(x) @ w[: f(x).shape[-1]])[:, None], None)
        return lambda x: lax.scan(turn, x, length=2)[0].mean(1) @ D

    one = lambda f: lambda x: looped(f)(x[None])[0]
    x, rules = jnp.asarray(X), RULES["default"]
    of_plain = jrlrp.relevance(looped(plain), rules=rules)(x)
    for r in (
        jax.jit(jrlrp.relevance(looped(spelt), rules=rules))(x),
        jax.vmap(jrlrp.relevance(one(spelt), rules=rules))(x),
    ):
        assert np.max(np.abs(r - of_plain)) <= 1e-6 * np.max(np.abs(of_plain))


@pytest.mark.parametrize("divide", [lambda t: jnp.where(t > 2.5, t, 2.5), lambda t: jnp.maximum(t, 2.5)])
def test_what_is_divided_by_a_bounded_total_is_no_softmax(divide):
    f = lambda x: (parts(x @ W) / divide(total(parts(x @ W))) @ V).mean(1) @ D
    assert "softmax" not in [node.kind for node in jrlrp.plan(f, jnp.asarray(X)).nodes]


def test_shares_of_what_no_equation_makes():
    """Of an input, and of the state of a loop."""
    f = lambda a, b: (a * b / total(b)).mean(1) @ D
    of_a, of_b = jrlrp.relevance(f, (0, 1), rules=jrlrp.epsilon())(jnp.asarray(X), jnp.exp(X))
    assert np.isfinite(of_a).all() and np.any(of_a) and np.isfinite(of_b).all()
    turn = lambda c, x: (c * x / total(jnp.exp(x)), None)
    looped = lambda x: lax.scan(turn, jnp.ones((3, 6)), x.swapaxes(0, 1))[0] @ D
    assert np.any(jrlrp.relevance(looped, rules=jrlrp.epsilon())(jnp.asarray(X)))


def test_a_product_of_thousands_over_an_axis_is_an_error_with_ways_out():
    with pytest.raises(jrlrp.UnsupportedError, match="reduce_prod"):
        jrlrp.relevance(lambda x: jnp.prod(x, axis=1, keepdims=True))(jnp.ones((2, 1009)))


def test_a_product_over_an_axis_shares_alike_whatever_its_length():
    for count in (1, 2, 4, 6, 7, 12):
        x = jnp.asarray(np.exp(0.1 * rng.normal(size=(2, count))))
        f = lambda x: jnp.prod(x, axis=1, keepdims=True)
        r = jrlrp.relevance(f, rules=jrlrp.epsilon())(x)
        np.testing.assert_allclose(r, np.broadcast_to(f(x) / count, r.shape), 1e-9)


def test_no_factor_is_lost_in_a_product_of_nothing_or_of_integers():
    f = lambda x: jnp.prod(x[:, :0], axis=1) * x[:, 0] * jnp.prod(jnp.asarray([2, 3]))
    np.testing.assert_allclose(
        jrlrp.relevance(f, rules=jrlrp.epsilon(), target="all")(X[:, 0]), 6 * np.eye(1, 6) * X[:, 0]
    )


def test_a_product_of_a_stack_is_rounded_as_it_was():
    stacked = lambda x: jnp.stack([x @ W, x @ V])
    f = lambda x: jnp.prod(stacked(x).astype(jnp.bfloat16).astype(x.dtype), 0) @ D
    value, r = jrlrp.value_and_relevance(f)(jnp.asarray(X))
    np.testing.assert_array_equal(value, f(jnp.asarray(X)))
    wider = lambda x: jnp.prod(stacked(x.astype(jnp.float32)).astype(x.dtype), 0) @ D
    kinds = [node.kind for node in jrlrp.plan(wider, X).nodes]
    assert kinds.count("product") == 1 and np.isfinite(r).all()


def test_a_value_that_is_computed_twice_inside_and_outside_of_what_is_read_as_one():
    """tanh(x) · (shares · x) times a scale: the product's own equations name values that are others' repeated."""
    scale, shift = jnp.arange(1.0, 7.0), jnp.ones(6)

    def f(x):
        p = jax.nn.relu(x @ V)
        h = jnp.tanh(x) * (p / (p.sum(-1, keepdims=True) + 1) * x)
        return h * (shift / scale) + (shift - shift * shift / scale)

    x = jnp.asarray(X[:, 0])
    r = jrlrp.relevance(f, rules=jrlrp.epsilon(), target="all")(x)
    without_shift = f(x) - (shift - shift * shift / scale)
    np.testing.assert_allclose(r.sum(), without_shift.sum(), 1e-4)
