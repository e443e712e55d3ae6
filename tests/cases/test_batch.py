"""CASES.md C: an example's map does not depend on the batch it is in, whatever moves the batch, or that is said."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import jrlrp

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 5, 5, 2)) * np.array([1.0, 30.0])[:, None, None, None]
HEAD = RNG.normal(size=(3, 2))


def close(actual, expected, bound=1e-7):
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * np.abs(expected).max())


def conv_net(x):
    """Return scores of a small convolutional network, for images of any number of channels."""
    kernel = np.random.default_rng(1).normal(size=(3, 3, x.shape[-1], 3))
    z = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(z).mean((1, 2)) @ HEAD


def take_rows(x):
    return jnp.take_along_axis(x, jnp.broadcast_to(jnp.arange(5)[::-1, None, None], x.shape), axis=1)


ALONG = {
    "tile": lambda x: jnp.tile(x, (1, 1, 1, 2)),
    "repeat": lambda x: jnp.repeat(x, 2, axis=1),
    "pad, edge": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"),
    "pad, reflect": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"),
    "pad, zero": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
    "approx_max_k": lambda x: jax.lax.approx_max_k(x, 2, reduction_dimension=1)[0],
    "top_k": lambda x: jax.lax.top_k(x, 2)[0],
    "sort": lambda x: jnp.sort(x, axis=2),
    "roll": lambda x: jnp.roll(x, 1, axis=2),
    "rot90": lambda x: jnp.rot90(x, axes=(1, 2)),
    "take_along_axis": take_rows,
    "resize": lambda x: jax.image.resize(x, (x.shape[0], 8, 8, 2), "bilinear"),
    "split and join": lambda x: jnp.concatenate(jnp.split(x, 5, axis=1)[::-1], axis=1),
    "unstacked": lambda x: jnp.stack([x[:, k] for k in range(5)], axis=1),
    "cumsum": lambda x: jnp.cumsum(x, axis=1),
    "patches": lambda x: jax.lax.conv_general_dilated_patches(
        x, (2, 2), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ),
    "scatter": lambda x: x.at[:, 1].set(0.0).at[:, :, 2].add(x[:, :, 0]),
    "scan": lambda x: jax.lax.scan(lambda c, t: (c, jnp.tanh(t)), 0, x.swapaxes(0, 1))[1].swapaxes(0, 1),
    "map": lambda x: jax.lax.map(jnp.tanh, x),
    "einshape": lambda x: (
        x.reshape(x.shape[0], 25, 2).swapaxes(1, 2).reshape(x.shape[0], 2, 5, 5).transpose(0, 2, 3, 1)
    ),
    "cond": lambda x: jax.lax.cond(True, lambda x: jnp.tile(x, (1, 1, 1, 2)), lambda x: jnp.tile(x, (1, 1, 1, 2)), x),
    "optimization_barrier": jax.lax.optimization_barrier,
    "batch last and back": lambda x: jnp.moveaxis(jnp.tanh(jnp.moveaxis(x, 0, -1)), -1, 0),
    "folded and back": lambda x: jnp.tanh(x.reshape(-1, 5, 2)).reshape(-1, 5, 5, 2),
}
# What moves the examples themselves, but mixes none with another.
ACROSS = {
    "reversed": lambda net: lambda x: net(x[::-1])[::-1],
    "flipped": lambda net: lambda x: jnp.flip(net(jnp.flip(x, 0)), 0),
    "rolled": lambda net: lambda x: jnp.roll(net(jnp.roll(x, 1, 0)), -1, 0),
    "permuted": lambda net: lambda x: net(x[np.arange(len(x))[::-1]])[np.arange(len(x))[::-1]],
    "padded and cut": lambda net: lambda x: net(jnp.pad(x, ((0, 3), *[(0, 0)] * (x.ndim - 1))))[: len(x)],
    "last repeated": lambda net: lambda x: net(jnp.pad(x, ((0, 3), *[(0, 0)] * (x.ndim - 1)), mode="edge"))[: len(x)],
    "first repeated": lambda net: lambda x: net(jnp.concatenate([x[:1], x, x[:1]]))[1:-1],
    "wrapped": lambda net: lambda x: net(jnp.pad(x, ((1, 0), *[(0, 0)] * (x.ndim - 1)), mode="wrap"))[1:],
    "rows of zeros": lambda net: lambda x: net(jnp.concatenate([x, jnp.zeros_like(x)]))[: len(x)],
    "zeros before": lambda net: lambda x: net(jnp.concatenate([jnp.zeros_like(x), x]))[len(x) :],
    "one by one": lambda net: lambda x: jnp.concatenate([net(x[k : k + 1]) for k in range(len(x))]),
    "stacked": lambda net: lambda x: jnp.stack([net(x[k][None])[0] for k in range(len(x))]),
    "halves": lambda net: lambda x: jnp.concatenate([net(h) for h in jnp.split(x, len(x))][::-1])[::-1],
    "into zeros": lambda net: lambda x: net(jnp.zeros((4, *x.shape[1:])).at[: len(x)].set(x))[: len(x)],
    "mapped": lambda net: lambda x: jax.lax.map(lambda row: net(row[None])[0], x),
    "scanned": lambda net: lambda x: jax.lax.scan(lambda c, row: (c, net(row[None])[0]), 0, x)[1],
    "vmapped": lambda net: jax.vmap(lambda row: net(row[None])[0]),
    "tiled": lambda net: lambda x: net(jnp.tile(x, (2, *[1] * (x.ndim - 1))))[: len(x)],
    "repeated": lambda net: lambda x: net(jnp.repeat(x, 2, axis=0))[::2],
}


def check(f, x, rules=None, bound=1e-7):
    """Compare the first example's map beside the second one with that beside itself: one compilation."""
    explain = jax.jit(jrlrp.relevance(f, rules=rules))
    close(explain(x)[0], explain(x[[0, 0]])[0], bound)


@pytest.mark.parametrize("name", ALONG)
def test_what_moves_within_examples(name):
    check(lambda x: conv_net(ALONG[name](x)), IMAGES)


@pytest.mark.parametrize("name", ["tile", "pad, edge"])
@pytest.mark.parametrize("rules", [jrlrp.relative()], ids=["relative"])
def test_what_moves_within_examples_under_other_rules(name, rules):
    check(lambda x: conv_net(ALONG[name](x)), IMAGES, rules)


SMALL = np.array([[1.0, 2.0, -1.0], [30.0, 10.0, -60.0]])
KERNEL, W = np.array([1.0, -2.0, 0.5]), np.array([[1.0, -1.0], [2.0, 0.5], [-1.0, 1.0]])


def small(x):
    z = jax.lax.conv_general_dilated(x[:, None], KERNEL[None, None].astype(x.dtype), (1,), "SAME")[:, 0]
    return jax.nn.relu(z) @ W.astype(x.dtype)


@pytest.mark.parametrize("name", ACROSS)
def test_the_smallest_network_with_its_batch_moved(name):
    f = ACROSS[name](small)
    np.testing.assert_allclose(f(SMALL), small(SMALL))
    together = jax.jit(jrlrp.relevance(f))(SMALL)
    close(together[0], [0, 2, 2])
    close(together[1], jrlrp.relevance(small)(SMALL[1:])[0])


@pytest.mark.parametrize("name", ["reversed", "padded and cut", "one by one"])
def test_in_other_dtypes(name):
    for dtype in (jnp.float32, jnp.bfloat16):
        together = jax.jit(jrlrp.relevance(ACROSS[name](small)))(jnp.asarray(SMALL, dtype))
        close(together[0], [0, 2, 2], 2**-6 if dtype == jnp.bfloat16 else 1e-5)


ROWS = np.array([[1, 2, -1, 0.5, 1], [30, 10, 60, -20, 15]])
WIDE = np.random.default_rng(3).normal(size=(5, 2))
KERNEL_OF = lambda t: jnp.convolve(t, t[:3], mode="same")
EXPERTS = np.random.default_rng(4).normal(size=(2, 3, 2))


def mixture(h):
    """Two experts, weighed by a softmax: a contraction over them whose leading axis is of size one."""
    weights = jax.nn.softmax(h @ EXPERTS[0], axis=-1)
    return (jnp.einsum("npf,fe->npe", h, EXPERTS[1])[..., None] * weights[..., None]).sum(2)[..., 0]


EACH = {
    "kernel": KERNEL_OF,
    "kernel, conv": lambda t: jax.lax.conv_general_dilated(t[None, None], t[None, None, :3], (1,), "SAME")[0, 0],
    "index": lambda t: jnp.convolve(t[jnp.argsort(t)], KERNEL, mode="same"),
    "slice": lambda t: jnp.convolve(jax.lax.dynamic_slice(t, (jnp.argmax(t) // 2,), (3,)), KERNEL, mode="full"),
    "scatter": lambda t: jnp.convolve(t.at[jnp.argmin(t)].set(1.0), KERNEL, mode="same"),
    "scatter-add": lambda t: jnp.convolve(t.at[jnp.argmax(t)].add(2 * t[0]), KERNEL, mode="same"),
    "update slice": lambda t: jnp.convolve(
        jax.lax.dynamic_update_slice(t, t[:2], (jnp.argmax(t),)), KERNEL, mode="same"
    ),
    "roll": lambda t: jnp.convolve(jnp.roll(t, jnp.argmax(t)), KERNEL, mode="same"),
    "mixture": lambda t: jnp.convolve(mixture(t[None, :, None] * KERNEL)[0], KERNEL, mode="same"),
    "switch": lambda t: jnp.convolve(jax.lax.cond(t[0] > 5, lambda t: t[::-1], lambda t: 2 * t, t), KERNEL, "same"),
}


@pytest.mark.parametrize("name", EACH)
def test_a_vmapped_network_whose_kernel_or_index_is_the_example_s(name):
    f = lambda t: jax.nn.relu(EACH[name](t)) @ WIDE
    together = jax.jit(jrlrp.relevance(jax.vmap(f)))(ROWS)
    close(together, jax.jit(jax.vmap(jrlrp.relevance(f)))(ROWS))


@jrlrp.custom_relevance
def own(x):
    return 2.0 * x


own.defrule(lambda inputs, output, relevance: (relevance,))


# Whether examples stay apart is known of all but the first one: they do, or the whole batch is one example.
MIXED = {
    "custom_relevance": own,
    "batch statistics": lambda x: x - x.mean(0) / 2,
    "sorted": lambda x: jnp.sort(x, axis=0),
    "running sum": lambda x: jnp.cumsum(x, axis=0),
}
CHOSEN = {
    "in another order": lambda x: x[jnp.argsort(-x[:, 0, 0, 0])],
    "folded": lambda x: x.reshape(1, 10, 5, 2)[:, ::-1].reshape(2, 5, 5, 2),
    "by a common mask": lambda x: jnp.where(x.sum() > 0, x, 2 * x),
    "by a common branch": lambda x: jax.lax.cond(x.sum() > 0, jnp.tanh, jnp.sin, x),
}


def said(f, x):
    """Return what is warned of when the map is made."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jax.eval_shape(jrlrp.relevance(f), x)
    return [str(w.message) for w in caught if issubclass(w.category, jrlrp.JrlrpWarning)]


@pytest.mark.parametrize("name", MIXED)
def test_a_batch_that_is_taken_for_one_example_is_said(name):
    f = lambda x: conv_net(MIXED[name](x))
    lost = said(f, IMAGES)
    assert bool(lost) == (name == "custom_relevance")
    assert all("vmap" in message and "test_batch.py" in message for message in lost)
    plan = jrlrp.plan(f, IMAGES)
    assert "one example" in plan.batch and "test_batch.py" in plan.batch and plan.batch in str(plan)


@pytest.mark.parametrize("name", CHOSEN)
def test_what_chooses_among_examples_mixes_none(name):
    f = lambda x: conv_net(CHOSEN[name](x))
    assert not said(f, IMAGES)
    assert jrlrp.plan(f, IMAGES).batch == "batch: examples along the leading axis stay apart"
    if name in ("in another order", "folded"):
        check(f, IMAGES)


@pytest.mark.parametrize("f", [conv_net, ACROSS["reversed"](conv_net), ACROSS["padded and cut"](conv_net)])
def test_nothing_is_said_where_nothing_is_lost(f):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(jrlrp.relevance(f), IMAGES)
        jax.eval_shape(
            jrlrp.relevance(lambda x: conv_net(own(x)), rules=jrlrp.epsilon()), IMAGES
        )  # no rule of which needs it


GATE, VALUE = RNG.normal(size=4), RNG.normal(size=(4, 4))
SHARED = {
    "as it is": lambda g, axis: g,
    "pvary": lambda g, axis: jax.lax.pcast(g, axis, to="varying"),
    "permuted": lambda g, axis: jax.lax.ppermute(g, axis, [(0, 1), (1, 0)]),
    "gathered": lambda g, axis: jax.lax.all_gather(g, axis)[0],
    "mean": lambda g, axis: jax.lax.pmean(g, axis),
    "highest": lambda g, axis: jax.lax.pmax(jax.lax.stop_gradient(g), axis) * 0 + g,
}


@pytest.mark.parametrize("gate_first", [True, False], ids=["gate moved", "argument moved"])
@pytest.mark.parametrize("name", ["as it is", "pvary", "permuted", "gathered", "mean"])
def test_a_gate_inside_shard_map_stays_a_gate(name, gate_first):
    mesh = Mesh(jax.devices()[:2], ("d",))
    x = RNG.uniform(0.5, 1, size=4)

    @partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), P(), P(None, "d")), out_specs=P("d"), check_vma=name != "gathered"
    )
    def layer(g, x, w):
        move = SHARED[name]
        gate = move(jax.nn.sigmoid(g), "d") if gate_first else jax.nn.sigmoid(move(g, "d"))
        return gate[:2] * (x @ w)

    f = lambda g, x: layer(g, x, np.abs(VALUE)) @ np.ones(4)
    r_gate, r = jax.jit(jrlrp.relevance(f, (0, 1), rules=jrlrp.epsilon()))(GATE, x)
    np.testing.assert_allclose(r_gate, 0, atol=1e-9)
    np.testing.assert_allclose(r.sum(), f(GATE, x), rtol=1e-5)
