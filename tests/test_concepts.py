"""Concepts: maps of channels, their scores, the samples in which they are highest, and receptive fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import N2, N2_CONV, N2_SCAN, SKIP, X

import jrlrp
from jrlrp import match
from jrlrp.concepts import References, maps, receptive_field, scores
from jrlrp.contrastive import contrast

ZERO = jrlrp.Zero()
BLOCKED = lambda x: jax.nn.softmax(N2(x)) * x
OF_A = np.array([[1, 1], [1.5, -6], [1.5, 6]])
OF_B = np.array([[3.5, 0], [1, -2.5], [-0.5, 3.5]])
IMAGES = np.random.default_rng(0).normal(size=(3, 5, 5, 2))


def test_maps_of_each_channel():
    kw = {"rules": ZERO, "target": 0}
    for node, expected in (("a", OF_A), ("b", OF_B)):
        for run in (lambda f: f(jnp.asarray(X)), lambda f: jax.jit(f)(jnp.asarray(X))):
            np.testing.assert_allclose(run(maps(N2, node, **kw)), expected, atol=1e-9)
            np.testing.assert_allclose(run(maps(N2, node, batch_size=2, **kw)), expected, atol=1e-9)
            np.testing.assert_allclose(run(maps(N2, node, channels=[2, 0], **kw)), expected[[2, 0]], atol=1e-9)
    batch = maps(N2, "b", **kw)(jnp.stack([X, 2 * X, X]))
    assert batch.shape == (3, 3, 2)
    np.testing.assert_allclose(batch[:, 1], 2 * OF_B, atol=1e-9)
    np.testing.assert_allclose(jax.vmap(maps(N2, "b", **kw))(jnp.stack([2 * X, X]))[1], OF_B, atol=1e-9)
    traced = jax.jit(lambda k: maps(N2, "b", channels=k, **kw)(X))(jnp.array([1]))
    np.testing.assert_allclose(traced, OF_B[[1]], atol=1e-9)
    assert maps(N2, "b", channels=[], **kw)(X).shape == (0, 2)


@pytest.mark.parametrize("rules", [None, jrlrp.epsilon_plus(), jrlrp.rap(), jrlrp.gradient_times_input()])
def test_maps_are_those_of_conditions(rules):
    for net, node, x in ((N2_CONV, "b", IMAGES), (SKIP, "b", jnp.stack([X, -X]))):
        found = jax.jit(maps(net, node, rules=rules, batch_size=2))(x)
        for channel, mask in enumerate(np.eye(3)):
            wanted = jrlrp.relevance(net, rules=rules, conditions={node: mask})(x)
            np.testing.assert_allclose(found[channel], wanted, atol=1e-9 * np.abs(wanted).max())


def test_maps_inside_a_scan_and_of_another_axis_and_arguments():
    scanned, _ = N2_SCAN
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 2)))
    name = next(node.name for node in jrlrp.plan(scanned, x).nodes if node.path.endswith("cell"))
    found = maps(scanned, name, rules=ZERO)(x)
    for channel, mask in enumerate(np.eye(3)):
        np.testing.assert_allclose(
            found[channel], jrlrp.relevance(scanned, rules=ZERO, conditions={name: mask})(x), atol=1e-9
        )
    rows = maps(N2_CONV, match("conv", path="b"), axis=1, rules=ZERO)(IMAGES)
    assert rows.shape == (5, *IMAGES.shape)
    both = maps(lambda x, y: N2(x) + y, "b", argnums=(0, 1), rules=ZERO)(X, np.ones(2))
    assert [r.shape for r in both] == [(3, 2), (3, 2)]


def test_all_above_the_node_is_computed_once():
    w = [jnp.asarray(np.random.default_rng(k).normal(size=(256, 256)), jnp.float32) for k in range(6)]

    def net(x):
        for k, weights in enumerate(w):
            with jax.named_scope(f"layer{k}"):
                x = x @ weights
            x = jax.nn.relu(x)
        return x

    x = jnp.ones((4, 256), jnp.float32)
    flops = lambda f: jax.jit(f).lower(x).compile().cost_analysis()["flops"]
    pair = flops(lambda x: x @ w[0])  # one layer forwards, or backwards
    of = lambda count: flops(maps(net, "layer1", channels=np.arange(count), batch_size=64, rules=ZERO))
    assert of(1) <= 12.3 * pair  # six layers forwards and back
    for count in (8, 64):
        assert of(count) <= of(1) + 2.3 * pair * (count - 1)  # of two layers more for each map
    looped = flops(maps(net, "layer1", channels=np.arange(64), batch_size=8, rules=ZERO))  # XLA counts a loop once
    assert looped <= of(8) * 1.05


def test_what_chunks_have_in_common_is_computed_once():
    kernels = [jnp.asarray(np.random.default_rng(k).normal(size=(3, 3, 16, 16)), jnp.float32) for k in range(4)]
    numbers = ("NHWC", "HWIO", "NHWC")

    def net(x):
        for k, kernel in enumerate(kernels):
            with jax.named_scope(f"layer{k}"):
                x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
            x = jax.nn.relu(x)
        return x.mean((1, 2))

    x = jnp.ones((1, 24, 24, 16), jnp.float32)
    compiled = lambda f: jax.jit(f).lower(x).compile()
    text = compiled(maps(net, "layer3", rules=jrlrp.epsilon_plus(), batch_size=4)).as_text()
    convolutions = [line for line in text.splitlines() if " convolution(" in line]
    repeated = [line for line in convolutions if "while/body" in line]
    assert len(convolutions) > len(repeated) >= 4
    assert not [line for line in repeated if "= f32[4,24,24,16]" not in line]  # those of four maps, of no forward pass
    assert not [line for line in convolutions if "01oi" in line]  # with which XLA's CPU backend is slow in a loop


@pytest.mark.parametrize("strides, groups", [((1, 1), 1), ((2, 1), 1), ((2, 2), 2)])
def test_chunks_of_convolutions_in_any_layout(strides, groups):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(6, 2, 3, 2)), rng.normal(size=(4, 6 // groups, 3, 3))
    x = jnp.asarray(rng.normal(size=(2, 2, 9, 8)))

    def net(x):
        x = jax.nn.relu(jax.lax.conv_general_dilated(x, jnp.asarray(first, x.dtype), (1, 1), "SAME"))
        return jax.lax.conv_general_dilated(
            x, jnp.asarray(second, x.dtype), strides, "VALID", feature_group_count=groups
        ).mean((2, 3))

    for rules in (jrlrp.epsilon(), jrlrp.epsilon_plus(), jrlrp.AlphaBeta(2, -1)):
        found = jax.jit(maps(net, "conv#0", axis=1, rules=rules, batch_size=2))(x)
        for channel, mask in enumerate(np.eye(6)):
            wanted = jrlrp.relevance(net, rules=rules, conditions={"conv#0": mask[:, None, None]})(x)
            np.testing.assert_allclose(found[channel], wanted, atol=1e-9 * np.abs(wanted).max())


def test_scores_sums_and_maxima():
    kw = {"rules": ZERO, "target": 0}
    for of, at in (("relevance", 1), ("activation", 0)):
        captured = jrlrp.relevance(N2_CONV, capture="b", values=True, **kw)(IMAGES)[1]["b"][at]
        flat = np.asarray(captured).reshape(3, 25, 3)
        for reduce in ("sum", "max"):
            values = getattr(flat, reduce)(1)
            found = jax.jit(scores(N2_CONV, "b", reduce=reduce, of=of, **kw))(IMAGES)
            np.testing.assert_allclose(found.values, values, rtol=1e-9)
            np.testing.assert_array_equal(found.positions, flat.argmax(1))
            parts = scores(N2_CONV, "b", reduce=reduce, of=of, normalise=True, **kw)(IMAGES)
            np.testing.assert_allclose(parts.values, values / np.abs(values).sum(1, keepdims=True), rtol=1e-9)
    one = scores(N2, "b", **kw)(X)
    np.testing.assert_allclose(one.values, [[3.5, -1.5, 3]], atol=1e-9)


TABLE = np.array([[[1, 2], [0, -3]], [[3, -1], [1, 1]]])  # sample, channel, position
CASES = {
    ("sum", False): ([[0, 1], [1, 0]], [[3, 2], [2, -3]], [[1, 0], [0, 0]]),
    ("max", False): ([[1, 1], [0, 0]], [[3, 1], [2, 0]], [[0, 0], [1, 0]]),
    ("sum", True): ([[0, 1], [1, 0]], [[0.5, 0.5], [0.5, -0.5]], [[1, 0], [0, 0]]),
    ("max", True): ([[0, 1], [1, 0]], [[1, 0.25], [0.75, 0]], [[1, 0], [0, 0]]),
}


@pytest.mark.parametrize("reduce, normalised", CASES)
def test_references(reduce, normalised):
    values = getattr(TABLE, reduce)(-1)
    values = values / np.abs(values).sum(1, keepdims=True) if normalised else values
    samples, expected, positions = CASES[reduce, normalised]
    both = References.empty(2, 2).update(values, np.arange(2), TABLE.argmax(-1))
    first = References.empty(2, 2).update(values[1:], [1], TABLE[1:].argmax(-1))
    last = References.empty(2, 2).update(values[:1], [0], TABLE[:1].argmax(-1))
    looped = jax.lax.scan(
        lambda r, k: (r.update(jnp.asarray(values)[k][None], k[None], jnp.asarray(TABLE.argmax(-1))[k][None]), None),
        References.empty(2, 2),
        jnp.arange(2),
    )[0]
    for found in (both, first.merge(last), last.merge(first), looped):
        np.testing.assert_array_equal(found.samples, samples)
        np.testing.assert_allclose(found.values, expected)
        np.testing.assert_array_equal(found.positions, positions)


def test_ties_go_to_the_lower_sample_and_empty_places_are_last():
    found = References.empty(1, 4).update(np.array([[1.0], [2], [1]]), [7, 3, 5], np.zeros((3, 1), int))
    np.testing.assert_array_equal(found.samples[:, 0], [3, 5, 7, -1])
    np.testing.assert_array_equal(found.values[:, 0], [2, 1, 1, -np.inf])
    assert found.positions[3, 0] == -1


def test_a_receptive_field_is_the_map_of_one_entry():
    np.testing.assert_allclose(receptive_field(N2, "b", 0, 0, rules=ZERO)(X), [3.5, 0], atol=1e-9)
    positions, channels = np.array([0, 12, 24]), np.array([2, 0, 1])
    found = jax.jit(receptive_field(N2_CONV, "b", channels, positions, rules=ZERO))(IMAGES)
    z = jrlrp.relevance(N2_CONV, rules=ZERO, capture="b", values=True)(IMAGES)[1]["b"][0].reshape(3, 25, 3)
    np.testing.assert_allclose(found.sum((1, 2, 3)), z[np.arange(3), positions, channels], rtol=1e-9)
    seen = np.abs(np.asarray(found)).sum(-1) > 0
    corner = np.zeros((5, 5), bool)
    corner[:3, :3] = True  # two convolutions by 3 × 3 see two pixels around an entry
    np.testing.assert_array_equal(seen[0], corner)
    np.testing.assert_array_equal(seen[1], np.ones((5, 5)))
    np.testing.assert_array_equal(seen[2], corner[::-1, ::-1])


def test_scores_lead_to_receptive_fields_inside_a_scan():
    scanned, _ = N2_SCAN
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 2)))
    name = next(node.name for node in jrlrp.plan(scanned, x).nodes if node.path.endswith("cell"))
    found = scores(scanned, name, rules=ZERO)(x)
    assert found.values.shape == (2, 3)
    r = jrlrp.relevance(scanned, rules=ZERO, capture=name)(x)[1][name]
    np.testing.assert_allclose(found.values, r.sum(0), rtol=1e-9)
    np.testing.assert_array_equal(found.positions, r.argmax(0))
    unrolled = N2_SCAN[1]
    for channel in range(3):
        field = receptive_field(scanned, name, channel, np.asarray([3, 2]), rules=ZERO)(x)
        for k, turn in enumerate((3, 2)):  # its own turn, and all that came to it through the states before
            wanted = receptive_field(unrolled, f"cell{turn}", channel, 0, rules=ZERO)(x[k : k + 1])
            np.testing.assert_allclose(field[k], wanted[0], atol=1e-9)
            assert np.all(field[k, turn + 1 :] == 0) and np.any(field[k, 0] != 0)


def test_a_receptive_field_adds_up_to_the_entry_s_value_through_scanned_layers():
    w = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 6)))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6)))
    deep = lambda x: jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, w)[0][:, :2]
    for turn in range(4):
        h = x
        for k in range(turn + 1):
            h = jax.nn.relu(h @ w[k])
        for channel in range(6):
            field = jax.jit(receptive_field(deep, "activation", channel, turn, rules=ZERO))(x)
            np.testing.assert_allclose(field.sum(1), h[:, channel], atol=1e-9)


def test_a_traced_channel_or_position_out_of_range_has_nothing():
    x = jnp.asarray(IMAGES)
    found = jax.jit(lambda c: maps(N2_CONV, "b", channels=c, rules=ZERO)(x))(jnp.array([3, -4, -1]))
    assert not np.any(found[:2])
    np.testing.assert_array_equal(found[2], maps(N2_CONV, "b", channels=[2], rules=ZERO)(x)[0])
    for channel, position in ((3, 0), (0, 25), (0, -26)):
        field = jax.jit(lambda c, p: receptive_field(N2_CONV, "b", c, p, rules=ZERO)(x))(channel, position)
        assert not np.any(field)


def test_what_is_no_number_shows_in_its_example_alone():
    x = IMAGES.copy()
    x[1, 0, 0, 0] = np.nan
    for of in ("relevance", "activation"):
        for normalise in (False, True):
            values = scores(N2_CONV, "b", rules=ZERO, of=of, normalise=normalise)(x).values
            np.testing.assert_array_equal(np.isnan(values).any(1), [False, True, False])
    field = receptive_field(N2_CONV, "b", 0, 0, rules=ZERO)(x)
    np.testing.assert_array_equal(np.isnan(field).any((1, 2, 3)), [False, True, False])
    best = References.empty(1, 2).update(np.array([[np.nan], [1.0], [np.nan]]), np.arange(3), np.zeros((3, 1), int))
    assert best.samples[0, 0] == 1 and best.samples[1, 0] == -1


def test_examples_stay_apart_under_gradient_times_input_too():
    rules = jrlrp.gradient_times_input()
    assert scores(N2_CONV, "b", rules=rules)(IMAGES).values.shape == (3, 3)
    field = receptive_field(N2_CONV, "b", 1, np.arange(3), rules=rules)(IMAGES)
    one = receptive_field(N2_CONV, "b", 1, 2, rules=rules)(IMAGES[2:])
    np.testing.assert_allclose(field[2], one[0], atol=1e-12)


@jrlrp.custom_relevance
def own(x):
    return 2.0 * x


own.defrule(lambda inputs, output, relevance: (relevance,))


def test_examples_that_cannot_be_told_apart_are_said():
    for explain in (scores(lambda x: N2(own(x)), "b", rules=ZERO), contrast(lambda x: N2(own(x)), rules=ZERO)):
        with pytest.warns(jrlrp.JrlrpWarning, match="not known whether examples stay apart"):
            explain(jnp.stack([X, 2 * X]))


def test_nothing_has_scores_too():
    none = scores(N2_CONV, "b", rules=ZERO)(IMAGES[:0])
    assert none.values.shape == none.positions.shape == (0, 3)


def test_strict_promotion_is_for_the_user_s_code():
    x = jnp.asarray(IMAGES, "bfloat16")
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        net = lambda x: jax.lax.conv_general_dilated(
            x, jnp.ones((3, 3, 2, 3), x.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ).sum((1, 2))
        for normalise in (False, True):
            assert scores(net, "conv", rules=ZERO, normalise=normalise)(x).values.shape == (3, 3)
        assert receptive_field(net, "conv", 1, np.arange(3), rules=ZERO)(x).dtype == x.dtype
        assert maps(net, "conv", rules=ZERO)(x).shape == (3, *x.shape)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_narrow_numbers(dtype):
    x = jnp.asarray(IMAGES, dtype)
    found = maps(N2_CONV, "b")(x)
    assert found.dtype == dtype and np.isfinite(np.asarray(found, np.float64)).all()
    assert np.isfinite(np.asarray(scores(N2_CONV, "b", normalise=True)(x).values, np.float64)).all()


def test_a_batch_is_its_examples():
    for rules in (None, jrlrp.epsilon_plus()):
        found = maps(N2_CONV, "a", rules=rules)(IMAGES)
        for k in range(3):
            one = maps(N2_CONV, "a", rules=rules)(IMAGES[k : k + 1])
            np.testing.assert_allclose(found[:, k], one[:, 0], atol=1e-9 * np.abs(found).max())


WRONG = {
    "several": (lambda: maps(N2, "*")(X), r"at='\*' names \d nodes"),
    "none": (lambda: maps(N2, "d")(X), "at='d' matches no node"),
    "matcher of several": (lambda: maps(N2, match("dense"))(X), "matches 3 nodes: a, b, c"),
    "channels": (lambda: maps(N2, "a", channels=[3])(X), "channels=.*out of range, there are 3"),
    "one channel": (lambda: maps(N2, "a", channels=1)(X), r"expected an array of integers of one axis: \[1\]"),
    "mask of channels": (lambda: maps(N2, "a", channels=np.ones(3, bool))(X), "np.flatnonzero"),
    "argnums": (lambda: maps(N2, "a", argnums="x"), "argnums is 'x'"),
    "no effect": (lambda: maps(BLOCKED, "a", rules=jrlrp.cp_lrp())(X), "^at has no effect at a"),
    "inside map": (
        lambda: scores(lambda x: jax.lax.map(N2, x), "a")(np.stack([X, X])),
        "inside jax.lax.map examples are turns",
    ),
    "large numbers": (
        lambda: References.empty(np.int64(1), 1).update(np.ones((1, 1)), np.array([2**31]), np.ones((1, 1), int)),
        "samples up to 2147483648",
    ),
    "axis": (lambda: maps(N2, "a", axis=1)(X), "axis=1: expected an axis of the output of a"),
    "batch size": (lambda: maps(N2, "a", batch_size=0), "batch_size=0: expected a number of maps"),
    "reduce": (lambda: scores(N2, "a", reduce="mean"), "reduce='mean': expected 'sum' or 'max'"),
    "of": (lambda: scores(N2, "a", of="values"), "of='values': expected 'relevance' or 'activation'"),
    "normalise": (lambda: scores(N2, "a", normalise=1), "normalise=1: expected True or False"),
    "axis of examples": (lambda: scores(N2_CONV, "a", axis=0)(IMAGES), "has no axis of its own for examples"),
    "position": (lambda: receptive_field(N2_CONV, "a", 0, 25)(IMAGES), "position=25: out of range, there are 25"),
    "positions": (
        lambda: receptive_field(N2_CONV, "a", 0, np.zeros(2, int))(IMAGES),
        r"position has shape \(2,\); expected \(\) or \(3,\)",
    ),
    "channel": (lambda: receptive_field(N2_CONV, "a", 1.5, 0)(IMAGES), "channel=1.5: expected an integer"),
    "count": (lambda: References.empty(2, 0), "count=0.: expected an integer of at least 1"),
    "update": (
        lambda: References.empty(2, 1).update(np.ones((3, 1)), [1, 2, 3], np.ones((3, 1), int)),
        "for 2 channels",
    ),
    "samples": (lambda: References.empty(2, 1).update(np.ones((3, 2)), [1], np.ones((3, 2), int)), "samples of shape"),
    "fractions": (
        lambda: References.empty(1, 1).update(np.ones((1, 1)), [0.5], np.ones((1, 1), int)),
        "expected integers",
    ),
    "merge": (lambda: References.empty(2, 1).merge(References.empty(3, 1)), "expected References of 2 channels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name):
    run, message = WRONG[name]
    with pytest.raises(jrlrp.ArgumentError, match=message):
        run()
