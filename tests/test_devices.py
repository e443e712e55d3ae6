"""Layers of which devices have parts: sharded, they are explained as they are unsharded, under every rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from stabilisers import refined

import jrlrp

pytestmark = pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices")
RNG = np.random.default_rng(0)
X, IMAGES = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 6, 6, 2))
W1, B1, W2, B2 = RNG.normal(size=(3, 8)), RNG.normal(size=8), RNG.normal(size=(8, 5)), RNG.normal(size=5)
K1, K2 = RNG.normal(size=(3, 3, 2, 4)) / 3, RNG.normal(size=(3, 3, 4, 6)) / 3
HEAD = RNG.normal(size=(6, 5))
RULES = {
    "default": jrlrp.default(),
    "R-LRP": jrlrp.relative(),
    "R-LRP-plus": jrlrp.RelativePlus(),
    "epsilon": jrlrp.epsilon(),
    "epsilon plus flat": jrlrp.epsilon_plus_flat(),
    "alpha beta": jrlrp.AlphaBeta(2, -1),
    "gamma": jrlrp.Gamma(),
    "w²": jrlrp.WSquare(),
    "box": jrlrp.ZBox(-3, 3),
    "attn_lrp": jrlrp.attn_lrp(),
    "rap": jrlrp.rap(),
}


def mesh():
    return Mesh(np.asarray(jax.devices()[:4]).reshape(2, 2), ("data", "model"))


def conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def mlp(x, w1, b1, w2, b2, total=lambda z: z):
    return total(jax.nn.relu(x @ w1 + b1) @ w2) + b2


def cnn(x, k1, k2, head, total=lambda z: z):
    h = jax.nn.relu(conv(x, k1))
    return jax.nn.relu(total(conv(h, k2))).mean((1, 2)) @ head


def pooled(x, k1, head, total=lambda z: z):
    """Whose image of all channels is averaged: devices have some of the channels."""
    return total(jax.nn.relu(conv(x, k1)).mean((1, 2)) @ head)


LAYOUTS = {  # function, input, weights, and how these are split over "model"
    "MLP": (mlp, X, (W1, B1, W2, B2), (P(None, "model"), P("model"), P("model"), P())),
    "CNN": (cnn, IMAGES, (K1, K2, HEAD), (P(None, None, None, "model"), P(None, None, "model"), P())),
    "pool": (pooled, IMAGES, (K1, HEAD[:4]), (P(None, None, None, "model"), P("model"))),
}


EXAMPLES = P("data")


def sharded(name, specs_of_x=EXAMPLES):
    f, _, weights, specs = LAYOUTS[name]
    part = functools.partial(f, total=lambda z: jax.lax.psum(z, "model"))
    over = jax.shard_map(part, mesh=mesh(), in_specs=(specs_of_x, *specs), out_specs=specs_of_x)
    return lambda x: over(x, *weights)


@pytest.mark.parametrize("spec", [P(), P("data")], ids=["the same examples", "examples apart"])
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_sharded_is_unsharded(name, rules, spec):
    f, x, weights, _ = LAYOUTS[name]
    composite = refined(RULES[rules])
    expected = jrlrp.relevance(lambda x: f(x, *weights), rules=composite)(x)
    found = jax.jit(jrlrp.relevance(sharded(name, spec), rules=composite))(x)
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("rules", ["default", "R-LRP", "epsilon plus flat"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_relevance_inside_of_shard_map(name, rules):
    f, x, weights, specs = LAYOUTS[name]
    part = functools.partial(f, total=lambda z: jax.lax.psum(z, "model"))

    def explain(x, *weights):
        return jrlrp.relevance(lambda x: part(x, *weights), rules=RULES[rules])(x)

    inside = jax.shard_map(explain, mesh=mesh(), in_specs=(P("data"), *specs), out_specs=P("data"))
    expected = jrlrp.relevance(lambda x: f(x, *weights), rules=RULES[rules])(x)
    np.testing.assert_allclose(jax.jit(inside)(x, *weights), expected, atol=1e-9 * np.abs(expected).max())


def test_a_sum_over_devices_of_a_layers_parts_is_the_layer():
    plan = jrlrp.plan(sharded("MLP"), X)
    kinds = [node.kind for node in plan.nodes]
    assert kinds.count("dense") == 2 and "average_pool" not in kinds and "scale" not in kinds


def test_a_sum_over_devices_of_other_things_is_none():
    """Examples on devices are added up, and what devices make of the same input: sums, and no layers."""
    loss = lambda x, w: jax.lax.psum((x @ w).sum(0), "data")
    total = lambda x: jax.shard_map(loss, mesh=mesh(), in_specs=(P("data"), P()), out_specs=P())(x, W1)
    plain = lambda x: (x @ W1).sum(0)
    found, expected = (jrlrp.relevance(f, rules=refined(jrlrp.ZPlus()), target="all")(X) for f in (total, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    own = lambda x, w: jax.lax.psum(x @ w[0], "model")
    weights = RNG.normal(size=(2, 3, 5))
    both = lambda x: jax.shard_map(own, mesh=mesh(), in_specs=(P(), P("model")), out_specs=P())(x, weights)
    plain = lambda x: x @ weights[0] + x @ weights[1]
    for rules in (jrlrp.ZPlus(), jrlrp.epsilon()):
        expected = jrlrp.relevance(plain, rules=rules)(X)
        np.testing.assert_allclose(jrlrp.relevance(both, rules=rules)(X), expected, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_narrow_dtypes(dtype):
    x = jnp.asarray(X, dtype)
    cast = lambda f: lambda x: f(x.astype(jnp.float32)).astype(dtype)
    for rules in (None, jrlrp.relative()):
        found = jax.jit(jrlrp.relevance(cast(sharded("MLP")), rules=rules))(x)
        expected = jrlrp.relevance(cast(lambda x: mlp(x, W1, B1, W2, B2)), rules=rules)(x)
        assert found.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(found, float), np.asarray(expected, float), atol=2e-2 * np.abs(np.asarray(expected, float)).max()
        )
