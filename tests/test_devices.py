"""Layers of which devices have parts: sharded, they are explained as they are unsharded, under every rule."""

import functools
import warnings

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


def whole(x):
    return mlp(x, W1, B1, W2, B2)


@pytest.mark.parametrize("spec", [P(), P("data")], ids=["the same examples", "examples apart"])
@pytest.mark.parametrize("rules", ["default", "R-LRP", "epsilon plus flat"])
def test_what_is_captured_inside(rules, spec):
    """Examples are put together, what is the same is there once, and units of devices have a leading axis."""
    explain = functools.partial(jrlrp.relevance, rules=RULES[rules], capture="*", values=True)
    _, found = jax.jit(explain(sharded("MLP", spec)))(X)
    _, expected = explain(whole)(X)
    for name, (value, r) in expected.items():
        own_value, own_r = found[name]
        if name != "dense#1":
            assert own_r.shape == (2, 4, 4)
            own_value, own_r = (np.concatenate(list(v), -1) for v in (own_value, own_r))
        np.testing.assert_allclose(own_value, value, rtol=1e-9)
        np.testing.assert_allclose(own_r, r, atol=1e-9 * np.abs(r).max())


@pytest.mark.parametrize("spec", [P(), P("data")], ids=["the same examples", "examples apart"])
@pytest.mark.parametrize(
    ("options", "of_whole"),
    [
        ({"conditions": {"dense#1": np.arange(5) == 1}}, None),
        ({"conditions": {"dense#1": np.arange(4)[:, None] < 2}}, None),
        (
            {"conditions": {"dense#0": (np.arange(8) % 3 == 1).reshape(2, 1, 4)}},
            {"conditions": {"dense#0": np.arange(8) % 3 == 1}},
        ),
        ({"start": {"dense#1": np.arange(5.0)}, "target": None}, None),
        ({"start": {"dense#1": lambda v: v * (v > 0)}, "target": None}, None),
        ({"start": {"dense#1": np.arange(20.0).reshape(4, 5)}}, None),
        ({"start": {"activation": lambda v: v}, "target": None}, None),
    ],
)
def test_conditions_and_starts_inside(options, of_whole, spec):
    found = jax.jit(jrlrp.relevance(sharded("MLP", spec), **options))(X)
    expected = jrlrp.relevance(whole, **of_whole or options)(X)
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


def test_an_audit_counts_each_thing_once():
    for spec in (P(), P("data")):
        for rules in (jrlrp.epsilon(), jrlrp.relative()):
            audit, expected = (jrlrp.audit(f, X, rules=rules) for f in (sharded("MLP", spec), whole))
            np.testing.assert_allclose(audit.gap, 0, atol=1e-9)
            for name in ("dense#0", "dense#1"):
                k, n = audit.names.index(name), expected.names.index(name)
                np.testing.assert_allclose(audit.received[k], expected.received[n], rtol=1e-9)
                np.testing.assert_allclose(audit.bias[k], expected.bias[n], rtol=1e-9, atol=1e-12)


def test_what_does_not_fit_inside():
    f = sharded("MLP")
    with pytest.raises(
        jrlrp.ArgumentError, match=r"output, \(4, 4\), or with leading axes \(2,\) for each turn or device"
    ):
        jrlrp.relevance(f, conditions={"dense#0": np.ones((4, 8))})(X)
    with pytest.raises(jrlrp.ArgumentError, match="inside shard_map, where each device has channels"):
        jrlrp.concepts.maps(f, "dense#0")(X)


def test_scans_and_shards_inside_one_another():
    turn = lambda h, _: (jnp.tanh(h @ W1 @ W1.T / 9), None)
    loop = lambda x: jax.lax.scan(turn, x, None, length=3)[0]
    inside = lambda x: jax.shard_map(loop, mesh=mesh(), in_specs=P("data"), out_specs=P("data"))(x) @ W1
    one = lambda x: jax.shard_map(lambda x: turn(x, None)[0], mesh=mesh(), in_specs=P("data"), out_specs=P("data"))(x)
    around = lambda x: jax.lax.scan(lambda h, _: (one(h), None), x, None, length=3)[0] @ W1
    explain = functools.partial(jrlrp.relevance, capture=jrlrp.match("activation"))
    r, expected = explain(lambda x: loop(x) @ W1)(X)
    for f in (inside, around):
        own_r, found = jax.jit(explain(f))(X)
        np.testing.assert_allclose(own_r, r, atol=1e-9)
        np.testing.assert_allclose(found["activation"], expected["activation"], atol=1e-9)


@pytest.mark.parametrize("order", [("data", "model"), ("model", "data")])
def test_examples_are_put_together_in_the_order_in_which_they_were_split(order):
    over = jax.shard_map(whole, mesh=mesh(), in_specs=P(order), out_specs=P(order))
    for options in ({"capture": "dense#1"}, {"capture": "activation", "values": True}):
        found, expected = (jrlrp.relevance(f, **options)(X)[1] for f in (over, whole))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, expected)
    rows = np.arange(20.0).reshape(4, 5)
    for options in ({"conditions": {"dense#1": rows > 6}}, {"start": {"dense#1": rows}, "target": None}):
        found, expected = (jrlrp.relevance(f, **options)(X) for f in (over, whole))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_where_types_are_not_checked_what_is_not_known_is_said():
    part = functools.partial(mlp, total=lambda z: jax.lax.psum(z, "model"))
    specs = (P("data"), *LAYOUTS["MLP"][3])
    over = jax.shard_map(part, mesh=mesh(), in_specs=specs, out_specs=P("data"), check_vma=False)
    f = lambda x: over(x, W1, B1, W2, B2)
    for options in (
        {"capture": "dense#1"},
        {"start": {"dense#1": np.ones(5)}},
        {"conditions": {"dense#1": np.ones(5)}},
    ):
        with pytest.raises(jrlrp.ArgumentError, match=r"inside shard_map\(..., check_vma=False\)"):
            jrlrp.relevance(f, **options)(X)
    with pytest.warns(jrlrp.JrlrpWarning, match="dense#0, dense#1 may take a part for the whole"):
        jrlrp.relevance(f, rules=jrlrp.ZPlus())(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = jrlrp.relevance(f, rules=jrlrp.Zero())(X)  # which adds up over devices
    np.testing.assert_allclose(found, jrlrp.relevance(whole, rules=jrlrp.Zero())(X), rtol=1e-9)
