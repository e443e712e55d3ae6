"""The transform composes as jax.grad does: jit, vmap, grad, jvp, map, checkpoint, sharding, batches, dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.test_util import check_grads

import jrlrp

RNG = np.random.default_rng(0)
K, W, B = RNG.normal(size=(3, 3, 2, 4)), RNG.normal(size=(36, 3)), RNG.normal(size=4)
X = RNG.normal(size=(4, 6, 6, 2))
PRESETS = {
    "relative": jrlrp.relative(),
    "relative, ratio": jrlrp.relative("ratio"),
    "relative plus": jrlrp.relative_plus(),
    "epsilon": jrlrp.epsilon(0.1),
    "epsilon plus flat": jrlrp.epsilon_plus_flat(),
    "epsilon gamma box": jrlrp.epsilon_gamma_box(-4.0, 4.0),
    "alpha beta": jrlrp.AlphaBeta(),
    "gradient": jrlrp.gradient_times_input(),
}


def net(x, k=K, w=W, b=B):
    y = jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b
    y = y + jax.nn.silu(y)
    y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return y.reshape(y.shape[0], 36) @ w


@pytest.fixture(params=PRESETS)
def rules(request):
    return PRESETS[request.param]


def test_jit_inside_and_out(rules):
    # What gets nothing by R-LRP-plus gets rounding, which compilation changes; other rules have no such entries.
    bounds = {"rtol": 1e-9, "atol": 1e-15 if rules is PRESETS["relative plus"] else 0}
    expected = jrlrp.relevance(net, rules=rules)(X)
    np.testing.assert_allclose(jax.jit(jrlrp.relevance(net, rules=rules))(X), expected, **bounds)
    np.testing.assert_allclose(jrlrp.relevance(jax.jit(net), rules=rules)(X), expected, **bounds)
    closed = jax.jit(lambda x, k, w: jrlrp.relevance(lambda x: net(x, k, w), rules=rules)(x))(X, K, W)
    np.testing.assert_allclose(closed, expected, **bounds)


def test_a_batch_is_its_examples(rules):
    batch = jrlrp.relevance(net, rules=rules)(X)
    single = jnp.concatenate([jrlrp.relevance(net, rules=rules)(X[k : k + 1]) for k in range(4)])
    np.testing.assert_allclose(batch, single, rtol=1e-9, atol=1e-12)
    one = lambda x: net(x[None])[0]
    np.testing.assert_allclose(jax.vmap(jrlrp.relevance(one, rules=rules))(X), single, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jrlrp.relevance(jax.vmap(one), rules=rules)(X), single, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jax.lax.map(jrlrp.relevance(one, rules=rules), X), single, rtol=1e-9, atol=1e-12)
    folded = X.reshape(2, 2, 6, 6, 2)
    nested = jax.vmap(jax.vmap(jrlrp.relevance(one, rules=rules)))(folded)
    np.testing.assert_allclose(nested.reshape(X.shape), single, rtol=1e-9, atol=1e-12)


def test_the_value_keeps_its_derivatives(rules):
    f = lambda x: (jax.nn.log_softmax(net(x)), {"hidden": x.reshape(4, -1) @ np.ones((72, 2)), "scores": net(x)})
    loss = lambda out: (out[0] ** 2).sum() + (out[1]["hidden"] ** 3).sum() + jnp.sin(out[1]["scores"]).sum()
    explained = lambda x: jrlrp.value_and_relevance(f, rules=rules, has_aux=True)(x)[0]
    expected = jax.grad(lambda x: loss(f(x)))(jnp.asarray(X))
    np.testing.assert_allclose(jax.grad(lambda x: loss(explained(x)))(jnp.asarray(X)), expected, rtol=1e-7)


def test_checkpoint_is_transparent(rules):
    expected = jrlrp.relevance(net, rules=rules)(X)
    np.testing.assert_allclose(jrlrp.relevance(jax.checkpoint(net), rules=rules)(X), expected, rtol=1e-9)
    np.testing.assert_allclose(jax.checkpoint(jrlrp.relevance(net, rules=rules))(X), expected, rtol=1e-9)


def test_vmap_over_targets(rules):
    targets = jnp.arange(3)
    f = lambda t: jrlrp.relevance(net, rules=rules, target=t)(X)
    for k, r in enumerate(jax.vmap(f)(targets)):
        np.testing.assert_allclose(r, f(k), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda e: jrlrp.epsilon(e),
        lambda e: jrlrp.epsilon_plus(e),
        lambda e: jrlrp.Epsilon(e),
        lambda e: jrlrp.AlphaBeta(1 + e, -e),
        lambda e: jrlrp.ZPlus(e),
        lambda e: jrlrp.Composite([(jrlrp.match("sum"), jrlrp.ShareRatio(e))], base=jrlrp.epsilon()),
        lambda e: jrlrp.Composite([(jrlrp.match("activation"), jrlrp.Gradient(e))], base=jrlrp.epsilon()),
    ],
)
def test_vmap_and_grad_over_rule_parameters(make):
    values = jnp.asarray([0.05, 0.5])
    f = lambda e: jrlrp.relevance(lambda x: net(x) + net(x[:, ::-1]), rules=make(e))(X)
    for e, r in zip(values, jax.jit(jax.vmap(f))(values), strict=True):
        np.testing.assert_allclose(r, f(float(e)), rtol=1e-9, atol=1e-12)
    size = lambda e: (f(e) ** 2).sum()
    step = 1e-6
    np.testing.assert_allclose(jax.grad(size)(0.3), (size(0.3 + step) - size(0.3 - step)) / (2 * step), rtol=1e-4)


def test_grad_and_jvp_through_relevance(rules):
    x, k = jnp.asarray(X[:2]), jnp.asarray(K)
    # tanh has no kinks for the numerical derivative to fall over
    smooth = lambda x, k: jnp.tanh(net(x, k))[:, :2]
    loss = lambda x, k: (jrlrp.relevance(smooth, rules=rules, target=0)(x, k) ** 2).sum()
    check_grads(jax.jit(loss), (x, k), order=1, modes=["rev", "fwd"], eps=1e-7, atol=1e-3, rtol=1e-3)


def test_nothing_is_closed_over():
    """A traced parameter, weight and input at once, under every transform that makes tracers."""

    def f(e, w, x):
        return jrlrp.relevance(lambda x: jax.nn.relu(x @ w) @ w.T, rules=jrlrp.AlphaBeta(1 + e, -e))(x)

    e, w, x = jnp.asarray([0.1, 0.2]), RNG.normal(size=(2, 5, 5)), RNG.normal(size=(2, 3, 5))
    both = jax.jit(jax.vmap(f))(e, w, x)
    looped = jax.lax.scan(lambda c, args: (c, f(*args)), 0, (e, w, x))[1]
    branch = jax.lax.cond(True, f, lambda e, w, x: x, e[0], w[0], x[0])
    for k in range(2):
        np.testing.assert_allclose(both[k], f(e[k], w[k], x[k]), rtol=1e-9)
        np.testing.assert_allclose(looped[k], both[k], rtol=1e-9)
    np.testing.assert_allclose(branch, both[0], rtol=1e-9)


def test_sharded_inputs_stay_sharded(rules):
    if jax.device_count() < 4:
        pytest.skip("needs four devices")
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.device_put(jnp.asarray(X), sharding)
    r = jax.jit(jrlrp.relevance(net, rules=rules))(x)
    assert r.sharding.is_equivalent_to(sharding, r.ndim)
    np.testing.assert_allclose(r, jrlrp.relevance(net, rules=rules)(X), rtol=1e-9, atol=1e-12)


def test_inside_shard_map(rules):
    if jax.device_count() < 4:
        pytest.skip("needs four devices")
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",))
    spec = PartitionSpec("data")
    mapped = jax.shard_map(jrlrp.relevance(net, rules=rules), mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(jax.jit(mapped)(X), jrlrp.relevance(net, rules=rules)(X), rtol=1e-9, atol=1e-12)


def test_strict_settings_of_jax(rules):
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        f = lambda x: jax.nn.relu(x @ jnp.asarray(W[:6])) @ jnp.asarray(W[:3])
        r = jrlrp.relevance(f, rules=rules)(jnp.asarray(X[0, :, :, 0]))
    assert np.isfinite(r).all()


def test_empty_batches_and_axes(rules):
    assert jrlrp.relevance(net, rules=rules)(X[:0]).shape == (0, 6, 6, 2)
    r = jrlrp.relevance(lambda x: x @ jnp.ones((0, 3)), rules=rules)(jnp.ones((2, 0)))
    assert r.shape == (2, 0)


def test_eval_shape(rules):
    out = jax.eval_shape(jrlrp.relevance(net, rules=rules), jax.ShapeDtypeStruct(X.shape, jnp.float64))
    assert out.shape == X.shape and out.dtype == jnp.float64


@pytest.mark.optimised
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_narrow_floats(rules, dtype):
    k, w, b, x = (jnp.asarray(a, dtype) for a in (K, W, B, X))
    r = jax.jit(jrlrp.relevance(lambda x: net(x, k, w, b).astype(jnp.float32), rules=rules, target=0))(x)
    assert r.dtype == dtype and r.shape == X.shape
    exact = np.asarray(jrlrp.relevance(net, rules=rules, target=0)(X))
    error = np.abs(np.asarray(r, np.float64) - exact).sum() / np.abs(exact).sum()
    assert error < {jnp.float32: 1e-3, jnp.float16: 0.05, jnp.bfloat16: 0.3}[dtype]


def test_python_scalars_and_weak_types():
    r = jrlrp.relevance(lambda x: x * 3.0)(2.0)
    assert r == 6.0 and r.dtype == jnp.result_type(float)


# Batched programs that move, merge and split their batch axis, none of which mixes examples.
V = RNG.normal(size=(6, 6))
MOVES = {
    "merged and split": lambda x: (x.reshape(-1, 6) @ V).reshape(4, 3, 6).sum(1),
    "merged behind": lambda x: (x.transpose(1, 0, 2).reshape(-1, 6) @ V).reshape(3, 4, 6).sum(0),
    "merged twice": lambda x: jnp.tanh(x.reshape(-1) * 2.0).reshape(4, 18)[:, :6] @ V,
    "transposed": lambda x: (V.T @ x.sum(1).T).T,
    "einsum": lambda x: jnp.einsum("bti,ij->bj", x, V),
    "batched dot": lambda x: jnp.einsum("bti,bij->bj", x, np.broadcast_to(V, (4, 6, 6))),
    "padded and sliced": lambda x: jnp.pad(x, ((0, 0), (1, 1), (0, 0)))[:, 1:3].sum(1) @ V,
    "concatenated": lambda x: jnp.concatenate([x[:, 0], x[:, 1] @ V], 1),
    "gathered": lambda x: jnp.take(x, np.array([0, 2]), axis=1).sum(1) @ V,
    "sorted": lambda x: jnp.sort(x, axis=-1).sum(1) @ V,
    "scattered": lambda x: x.at[:, 1].set(0.0).sum(1) @ V,
    "scattered at each": lambda x: jnp.tanh(x.sum(1)).at[jnp.arange(4), np.full(4, 2)].add(-0.5) @ V,
    "scattered, vmapped": lambda x: jax.vmap(lambda s, k: s.at[k].set(0.5))(jnp.tanh(x.sum(1)), np.full(4, 2)) @ V,
    "residual": lambda x: x.sum(1) + jnp.tanh(x.sum(1) @ V) @ V,
    "attention": lambda x: (jax.nn.softmax(x @ x.transpose(0, 2, 1)) @ x).sum(1) @ V,
    "picked": lambda x: jnp.stack([x[jnp.arange(4), np.full(4, 2)] @ V, x[np.arange(4), 1]], 1).sum(1),
    "gated": lambda x: (jax.nn.sigmoid(x @ V) * (x @ V.T)).sum(1),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("rules", [jrlrp.relative(), jrlrp.relative("ratio")], ids=["absolute", "ratio"])
def test_an_examples_map_does_not_depend_on_its_batch(move, rules):
    x = RNG.normal(size=(4, 3, 6))
    explain = jax.jit(jrlrp.relevance(lambda x: _tiled(MOVES[move], x)[0], rules=rules))
    one = jnp.stack([explain(e) for e in x])
    np.testing.assert_allclose(jrlrp.relevance(MOVES[move], rules=rules)(x), one, rtol=1e-8, atol=1e-10)


def _tiled(f, example):
    """Evaluate a function of batches of four on one example, beside three constant ones."""
    return f(jnp.concatenate([example[None], jnp.ones((3, *example.shape))]))


@pytest.mark.parametrize(
    "positions",
    [
        lambda: jnp.arange(4).astype(bool).astype(int),
        lambda: (jnp.arange(4) // 2) * 2,
        lambda: jnp.asarray([1, 0, 3, 2]),
        lambda: jnp.arange(4)[::-1],
    ],
)
def test_an_index_that_only_begins_as_arange_mixes(positions):
    known = np.asarray(positions())
    f = lambda index: lambda x: (x @ V + (x @ V)[index(), jnp.zeros(4, int)][:, None]) @ V
    x, explain = RNG.normal(size=(4, 6)), functools.partial(jrlrp.relevance, rules=jrlrp.relative(), target="all")
    expected = explain(f(lambda: jnp.asarray(known)))(x)
    np.testing.assert_allclose(explain(f(positions))(x), expected)
    per_example = explain(f(lambda: jnp.arange(4)))(x)
    assert not np.allclose(per_example, expected)


def test_examples_that_are_mixed_are_one():
    f = lambda x: (x - x.mean(0)) @ V
    x = RNG.normal(size=(4, 6))
    r = jrlrp.relevance(f, rules=jrlrp.Composite([(jrlrp.match("dense"), jrlrp.Relative())], base=jrlrp.epsilon()))(x)
    assert np.isfinite(r).all()
    before = jrlrp.relevance(lambda z: z @ V, rules=jrlrp.Relative())(x - x.mean(0))
    assert not np.allclose(np.abs(before).sum(1), np.abs(r).sum(1))
