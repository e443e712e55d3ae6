"""Depthwise convolutions and max-pools as the library spells them on CPUs, against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import jrlrp
from jrlrp.rewrites.fast import DepthwiseConv, MaxPool
from jrlrp.rewrites.spell_out import spelled_out
from jrlrp.trace.inline import trace

RNG = np.random.default_rng(0)
LAYOUTS = {"NHWC": (("NHWC", "HWIO", "NHWC"), (0, 1, 2, 3)), "NCHW": (("NCHW", "OIHW", "NCHW"), (0, 3, 1, 2))}


def respelled(f, x):
    program = trace(lambda x: [f(x)], [x])
    (eqn,) = [eqn for eqn in spelled_out(program, program.inputs)[0].equations if type(eqn) in (DepthwiseConv, MaxPool)]
    return eqn


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("trial", range(12))
def test_depthwise_convolutions(layout, trial):
    rng = np.random.default_rng(trial)
    size, stride, dilation, apart = (int(n) for n in rng.integers(1, [6, 4, 3, 3]))
    padding = [tuple(int(n) for n in pair) for pair in rng.integers(0, 4, size=(2, 2))]
    names, order = LAYOUTS[layout]
    x = jnp.asarray(rng.normal(size=(2, 9, 11, 3)).transpose(order))
    w = rng.normal(size=(size, 3, 1, 3)).transpose((0, 1, 2, 3) if layout == "NHWC" else (3, 2, 0, 1))
    conv = lambda x: jax.lax.conv_general_dilated(
        x, w, (stride, 1), padding, (dilation, 1), (1, apart), names, feature_group_count=3
    )
    eqn = respelled(conv, x)
    z = conv(x)
    np.testing.assert_allclose(eqn.run([x, w])[0], z, rtol=1e-9, atol=1e-12)
    r = jnp.asarray(rng.normal(size=z.shape))
    np.testing.assert_allclose(eqn.pull(r, jnp.asarray(w)), jax.vjp(conv, x)[1](r)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 3])
def test_depthwise_convolutions_of_other_ranks(dims):
    x, w = jnp.asarray(RNG.normal(size=(2, *[6] * dims, 3))), RNG.normal(size=(*[2] * dims, 1, 3))
    names = {1: ("NWC", "WIO", "NWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}[dims]
    conv = lambda x: jax.lax.conv_general_dilated(x, w, [2] * dims, "SAME", None, None, names, feature_group_count=3)
    assert isinstance(respelled(conv, x), DepthwiseConv)
    score = lambda x: conv(x).sum()
    gradient = x * jax.grad(score)(x)
    np.testing.assert_allclose(
        jrlrp.relevance(conv, rules=jrlrp.Zero(), target="all")(x), gradient, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(
        jrlrp.relevance(conv, rules=jrlrp.gradient_times_input(), target="all")(x), gradient, atol=1e-12
    )


def test_a_depthwise_convolution_in_bf16_sums_in_float32():
    x, w = (jnp.asarray(RNG.normal(size=shape), jnp.bfloat16) for shape in ((2, 9, 9, 4), (5, 5, 1, 4)))
    options = {"dimension_numbers": LAYOUTS["NHWC"][0], "feature_group_count": 4}
    conv = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", **options)
    value, r = jrlrp.value_and_relevance(lambda x: conv(x, w), target="all")(x)
    assert value.dtype == r.dtype == jnp.bfloat16
    exact = conv(x.astype(jnp.float32), w.astype(jnp.float32))
    np.testing.assert_allclose(value.astype(jnp.float32), exact, rtol=2**-8)


@pytest.mark.parametrize("rules", [jrlrp.epsilon(), jrlrp.ZPlus(), jrlrp.Flat(), jrlrp.relative()])
def test_depthwise_convolutions_and_max_pools_inside_shard_map(rules):
    x, w = jnp.asarray(RNG.normal(size=(4, 6, 6, 3))), jnp.asarray(RNG.normal(size=(3, 3, 1, 3)))
    options = {"dimension_numbers": LAYOUTS["NHWC"][0], "feature_group_count": 3}

    def net(x, w):
        z = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", **options) * 2.0 + 1.0
        return jax.lax.reduce_window(jax.nn.relu(z), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID").sum(
            (1, 2)
        )

    explain = lambda x, w: jrlrp.relevance(net, rules=rules)(x, w)
    mesh, along, whole = Mesh(jax.devices()[:4], ("data",)), PartitionSpec("data"), PartitionSpec()
    mapped = jax.jit(jax.shard_map(explain, mesh=mesh, in_specs=(along, whole), out_specs=along))
    np.testing.assert_allclose(mapped(x, w), explain(x, w), rtol=1e-9, atol=1e-12)


POOLS = [
    ((1, 2, 2, 1), (1, 2, 2, 1), "VALID", None),
    ((1, 3, 3, 1), (1, 2, 2, 1), "SAME", None),
    ((1, 3, 2, 1), (1, 1, 3, 1), ((0, 0), (1, 2), (1, 0), (0, 0)), (1, 2, 1, 1)),
    ((2, 2, 1, 3), (1, 1, 1, 1), "VALID", None),
]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_max_pools_give_all_to_the_winner_that_jax_chooses(pool, wrap):
    window, strides, padding, apart = pool
    f = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding, None, apart)
    x = jnp.asarray(RNG.integers(0, 3, size=(2, 9, 8, 3)), float)  # ties abound
    assert isinstance(respelled(f, x), MaxPool)
    r = jnp.asarray(RNG.normal(size=f(x).shape))
    explain = wrap(jrlrp.relevance(f, target=lambda out: r))
    if apart is None:
        np.testing.assert_allclose(explain(x), jax.vjp(f, x)[1](r)[0], rtol=1e-9, atol=1e-12)
    else:  # JAX has no pullback of this one
        distinct = x + jnp.asarray(RNG.permutation(x.size).reshape(x.shape)) / x.size
        nudged = jax.vmap(lambda step: f(distinct + step))(1e-6 * jnp.eye(x.size).reshape(-1, *x.shape))
        expected = ((nudged - f(distinct)) / 1e-6 * r).sum((1, 2, 3, 4)).reshape(x.shape)
        np.testing.assert_allclose(explain(distinct), expected, atol=1e-6)
    if window[0] == 1:
        one = lambda x, r: jrlrp.relevance(lambda x: f(x[None])[0], target=lambda out: r)(x)
        np.testing.assert_allclose(jax.vmap(one)(x, r), explain(x), rtol=1e-9, atol=1e-12)


def test_max_pools_of_padding_alone_stay_finite():
    f = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2,), (2,), ((2, 0),))
    r = jrlrp.relevance(lambda x: jnp.where(jnp.isfinite(f(x)), f(x), 0.0), target="all")(jnp.asarray([1.0, 2.0]))
    np.testing.assert_allclose(r, [0.0, 2.0])
