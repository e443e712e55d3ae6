"""Conditions and starts: relevance that is masked at a node, or begins there. Values of `shared` networks N1 and N2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import CHANNELS, N1, N2, N2_CONV, N2_SCAN, SKIP, X
from stabilisers import refined

import jrlrp
from jrlrp import match

ZERO = jrlrp.Zero()
OF_A = np.array([[1, 1], [1.5, -6], [1.5, 6]])
OF_B = np.array([[3.5, 0], [1, -2.5], [-0.5, 3.5]])
RULES = {"Zero": ZERO, "Epsilon": refined(jrlrp.epsilon()), "gradient × input": jrlrp.gradient_times_input()}
TRANSFORMS = {
    "as it is": lambda f: f(jnp.asarray(X)),
    "jit": lambda f: jax.jit(f)(jnp.asarray(X)),
    "vmap": lambda f: jax.vmap(f)(jnp.stack([3 * X, X, X]))[1],
    "batch": lambda f: f(jnp.stack([X, X, 2 * X]))[1],
}


def one_hot(*channels):
    return sum(np.eye(3)[c] for c in channels)


@pytest.fixture(params=TRANSFORMS)
def run(request):
    return TRANSFORMS[request.param]


@pytest.fixture(params=RULES)
def rules(request):
    return RULES[request.param]


@pytest.mark.parametrize("node, maps", [("a", OF_A), ("b", OF_B)])
def test_a_mask_of_each_channel(node, maps, run, rules):
    for channel, expected in enumerate(maps):
        explain = jrlrp.relevance(N2, rules=rules, target=0, conditions={node: one_hot(channel)})
        np.testing.assert_allclose(run(explain), expected, atol=1e-9)


def test_channels_of_a_node_are_any_of_them_and_nodes_all_hold(run, rules):
    explain = lambda **conditions: run(jrlrp.relevance(N2, rules=rules, target=0, conditions=conditions))
    np.testing.assert_allclose(explain(b=one_hot(0, 2)), [3, 3.5], atol=1e-9)
    np.testing.assert_allclose(explain(b=one_hot(0), a=one_hot(1)), [1, -4], atol=1e-9)


def test_entries_that_name_the_same_node_all_hold(rules):
    both = {"a": one_hot(0, 1), match("dense", path="a"): one_hot(1, 2)}
    found = jrlrp.relevance(N2, rules=rules, target=0, conditions=both)(X)
    np.testing.assert_allclose(found, OF_A[1], atol=1e-9)


def test_relevance_that_begins_at_a_node(run, rules):
    begun = jrlrp.relevance(N2, rules=rules, target=None, start={"b": lambda z: z * one_hot(0)})
    np.testing.assert_allclose(run(begun), [3.5, 0], atol=1e-9)
    both = jrlrp.relevance(N2, rules=rules, target=0, start={"b": lambda z: z * one_hot(0)})
    np.testing.assert_allclose(run(both), [4 + 3.5, 1], atol=1e-9)


def test_a_start_is_an_array_too_and_comes_before_the_mask(rules):
    start = np.array([3.5, 1.5, 6])
    masked = jrlrp.relevance(N2, rules=rules, target=None, start={"b": start}, conditions={"b": one_hot(0)})
    np.testing.assert_allclose(masked(X), [3.5, 0], atol=1e-9)


def test_starts_of_two_nodes_and_of_a_matcher_add_up(rules):
    own = lambda z: z * one_hot(0)
    b, a = (jrlrp.relevance(N2, rules=rules, target=None, start={node: own})(X) for node in "ba")
    both = jrlrp.relevance(N2, rules=rules, target=None, start={"a": own, "b": own})(X)
    np.testing.assert_allclose(both, a + b, atol=1e-9)
    matched = jrlrp.relevance(N2, rules=rules, target=None, start={match(where=lambda n: n.path in ("a", "b")): own})
    np.testing.assert_allclose(matched(X), a + b, atol=1e-9)


def test_what_goes_around_a_node_stays(rules):
    """A mask alone leaves the skip connection; a start at what was captured leaves it out, as zennit-crp does."""
    explain = lambda **kw: jrlrp.relevance(SKIP, rules=rules, target=0, **kw)
    r, captured = explain(capture="b")(X)
    np.testing.assert_allclose(r, [6.25, -1], atol=1e-9)
    np.testing.assert_allclose(captured["b"], [3.5, -1.5, 3], atol=1e-9)
    np.testing.assert_allclose(explain(conditions={"b": one_hot(0)})(X), [5.75, -2], atol=1e-9)
    alone = jrlrp.relevance(SKIP, rules=rules, target=None, start={"b": captured["b"] * one_hot(0)})(X)
    np.testing.assert_allclose(alone, [3.5, 0], atol=1e-9)


def test_values_and_ratios_are_captured(run, rules):
    explain = jrlrp.relevance(N2, rules=rules, target=0, capture=("a", "b"), values=True)
    found = jax.tree.map(lambda v: v, explain(jnp.asarray(X))[1])
    for node, value, r in (("a", [2, 3, 2.5], [2, -4.5, 7.5]), ("b", [3.5, 1.5, 6], [3.5, -1.5, 3])):
        np.testing.assert_allclose(found[node][0], value, atol=1e-12)
        np.testing.assert_allclose(found[node][1], r, atol=1e-9)
    ratios = jrlrp.relevance(N2, rules=rules, target=0, capture="b", values=True, ratio=True)(X)[1]
    np.testing.assert_allclose(ratios["b"][1], [1, -1, 0.5], atol=1e-9)


def test_a_ratio_is_known_at_zero_where_relevance_travels_as_one():
    net = lambda x: jnp.sum(jax.named_call(lambda x: x @ np.array([[1.0], [-1.0]]), name="a")(x) * 3.0)
    x = np.array([2.0, 2.0])
    c = {rules: jrlrp.relevance(net, rules=rules, capture="a", ratio=True)(x)[1] for rules in (ZERO, jrlrp.ZPlus())}
    assert [float(next(iter(found.values()))[0]) for found in c.values()] == [3.0, 0.0]


def test_a_mask_acts_on_what_is_captured_and_maps_do_not_depend_on_capturing(rules):
    explain = lambda **kw: jrlrp.relevance(N2, rules=rules, target=0, conditions={"b": one_hot(1)}, **kw)
    r, captured = explain(capture=("a", "b"))(X)
    np.testing.assert_array_equal(r, explain()(X))
    np.testing.assert_allclose(captured["b"], [0, -1.5, 0], atol=1e-9)
    np.testing.assert_allclose(captured["a"].sum(), -1.5, atol=1e-9)


@pytest.mark.parametrize("preset", [jrlrp.relative_plus(), jrlrp.epsilon_plus(), jrlrp.rap(), ZERO])
def test_masks_of_ones_change_nothing_and_those_of_zeros_leave_nothing(preset):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 5, 2)))
    explain = lambda mask: jrlrp.relevance(N2_CONV, rules=preset, conditions={"b": mask})(x)
    np.testing.assert_allclose(explain(np.ones(3, bool)), jrlrp.relevance(N2_CONV, rules=preset)(x), rtol=1e-12)
    np.testing.assert_array_equal(explain(np.zeros(3)), 0 * x)


@pytest.mark.parametrize("preset", [jrlrp.epsilon(), jrlrp.epsilon_plus(), jrlrp.epsilon_gamma_box(-9.0, 9.0), ZERO])
def test_maps_of_all_channels_add_up_under_rules_that_are_linear(preset):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 5, 2)))
    explain = jax.jit(lambda mask: jrlrp.relevance(N2_CONV, rules=preset, conditions={"b": mask})(x))
    whole = jrlrp.relevance(N2_CONV, rules=preset)(x)
    np.testing.assert_allclose(sum(map(explain, np.eye(3))), whole, atol=1e-9 * np.abs(whole).max())


def test_plan_says_where_they_do_not():
    x = jnp.zeros((2, 5, 5, 2))
    plan = jrlrp.plan(N2_CONV, x)
    assert plan.not_linear == ("RelativePlus()", "Relative()")
    assert "do not add up to the whole: RelativePlus(), Relative()" in str(plan)
    assert jrlrp.plan(N2_CONV, x, rules=jrlrp.epsilon_plus()).not_linear == ()


@pytest.mark.parametrize("rules", [ZERO, refined(jrlrp.epsilon()), jrlrp.relative(), jrlrp.gradient_times_input()])
def test_in_a_scan(rules):
    """A mask acts at each turn, or has one for each; the same network unrolled says what is right."""
    scanned, unrolled = N2_SCAN
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4, 2)))
    name = next(node.name for node in jrlrp.plan(scanned, x).nodes if node.path.endswith("cell"))
    each = np.random.default_rng(3).integers(0, 2, size=(4, 3))
    for mask, own in ((each[0], [each[0]] * 4), (each[:, None], list(each))):
        conditions = {f"cell{k}": own[k] for k in range(4)}
        found = jax.jit(jrlrp.relevance(scanned, rules=rules, conditions={name: mask}))(x)
        wanted = jrlrp.relevance(unrolled, rules=rules, conditions=conditions)(x)
        np.testing.assert_allclose(found, wanted, atol=1e-9)
    start = np.random.default_rng(4).normal(size=(4, 2, 3))
    found, captured = jrlrp.relevance(
        scanned, rules=rules, target=None, start={name: start}, capture=name, values=True
    )(x)
    wanted = jrlrp.relevance(unrolled, rules=rules, target=None, start={f"cell{k}": start[k] for k in range(4)})(x)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert captured[name][0].shape == (4, 2, 3) and np.all(captured[name][0] != 0)
    by_value = jrlrp.relevance(scanned, rules=rules, target=None, start={name: lambda z: 2 * z})(x)
    own = jrlrp.relevance(unrolled, rules=rules, target=None, start={f"cell{k}": lambda z: 2 * z for k in range(4)})(x)
    np.testing.assert_allclose(by_value, own, atol=1e-9)


def test_in_a_branch_in_remat_and_under_scans_of_scans():
    inner = lambda c: jax.named_call(lambda c: jnp.tanh(c @ CHANNELS), name="in")(c)
    branch = lambda x: jax.lax.cond(x.sum() > 0, lambda c: jax.checkpoint(inner)(c), lambda c: 2 * c, x)
    turn = lambda c, _: (jax.lax.scan(lambda c, _: (branch(c), None), c, None, length=2)[0], None)
    f = lambda x: jax.lax.scan(turn, x, None, length=3)[0]
    x = jnp.asarray([1.0, 2.0, 0.5])
    node = next(node.name for node in jrlrp.plan(f, x).nodes if node.kind == "dense")
    plain = jrlrp.relevance(f, rules=ZERO, target="all")(x)
    mask = np.ones((3, 2, 3))
    explain = lambda mask: jax.jit(jrlrp.relevance(f, rules=ZERO, target="all", conditions={node: mask}))(x)
    np.testing.assert_allclose(explain(mask), plain, rtol=1e-9)
    mask[0, 0] = 0
    np.testing.assert_allclose(explain(mask), 0 * plain)
    found = jrlrp.relevance(f, rules=ZERO, target=None, start={node: lambda z: z}, capture=node, values=True)(x)
    assert found[1][node][0].shape == (3, 2, 3) and np.isfinite(found[0]).all()


@pytest.mark.parametrize("rules", [ZERO, jrlrp.relative_plus(), jrlrp.attn_lrp(), jrlrp.rap()])
def test_the_books_close(rules):
    conditions = {"b": np.array([1, 0.5, 0])}
    audit = jrlrp.audit(N2, X, rules=rules, target=0, conditions=conditions, start={"a": lambda z: z, "b": np.ones(3)})
    assert abs(audit.gap) < 1e-9
    assert audit.started == pytest.approx(7.5 + 3)
    assert "started" in str(audit)
    r = jrlrp.relevance(N2, rules=rules, target=0, conditions=conditions, start={"a": lambda z: z, "b": np.ones(3)})(X)
    assert audit.inputs == pytest.approx(float(r.sum()))


def test_pullback_takes_them_too():
    out, propagate = jrlrp.pullback(N2, jnp.asarray(X), rules=ZERO, conditions={"b": one_hot(0)})
    np.testing.assert_allclose(propagate(out * np.array([1, 0]))[0], OF_B[0], atol=1e-9)


def test_masks_are_operands():
    explain = lambda mask: jrlrp.relevance(N2, rules=ZERO, target=0, conditions={"b": mask})(X)
    np.testing.assert_allclose(jax.jit(jax.vmap(explain))(np.eye(3)), OF_B, atol=1e-9)
    derivative = jax.jacobian(lambda mask: explain(mask).sum())(jnp.ones(3))
    np.testing.assert_allclose(derivative, OF_B.sum(1), atol=1e-9)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_narrow_numbers_stay_finite(dtype):
    x = jnp.asarray(np.random.default_rng(5).normal(size=(2, 5, 5, 2)), dtype)
    for preset in (None, jrlrp.epsilon_plus(), jrlrp.attn_lrp(), jrlrp.rap()):
        r, captured = jrlrp.relevance(
            N2_CONV,
            rules=preset,
            conditions={"b": one_hot(0)},
            start={"b": lambda z: 0 * z + 1},
            capture="b",
            values=True,
        )(x)
        assert r.dtype == dtype and np.isfinite(np.asarray(r, np.float64)).all()
        assert captured["b"][0].dtype == dtype


def test_a_start_reaches_what_the_output_does_not():
    """The rule of attention's weights blocks the way from the output; a start below it is explained nonetheless."""
    net = lambda x: jax.nn.softmax(jax.named_call(lambda x: x @ CHANNELS, name="q")(x), axis=-1) * 1.0 @ CHANNELS
    r = jrlrp.relevance(net, rules=jrlrp.cp_lrp(), target=None, start={"q": lambda z: z})(jnp.asarray([1.0, 2.0, 0.5]))
    np.testing.assert_allclose(r.sum(), (jnp.asarray([1.0, 2.0, 0.5]) @ CHANNELS).sum(), rtol=1e-9)


WRONG = {
    "no match": ({"conditions": {"nothing": one_hot(0)}}, "conditions='nothing' matches no node"),
    "several": ({"conditions": {"*": one_hot(0)}}, r"conditions='\*' names \d nodes"),
    "shape": ({"conditions": {"b": np.ones(4)}}, r"an array of shape \(4,\); expected one that broadcasts"),
    "no mapping": ({"conditions": "b"}, "conditions='b': expected a dict from patterns of nodes to masks"),
    "no array": ({"conditions": {"b": "x"}}, "expected an array of numbers"),
    "a channel for a mask": ({"conditions": {"b": 2}}, r"write jnp.arange\(10\) == 2; to multiply, 2.0"),
    "mask of nothing": ({"conditions": {"b": np.full(3, np.nan)}}, "not all of it is finite"),
    "infinite start": ({"start": {"b": np.full(3, np.inf)}}, "not all of it is finite"),
    "no pattern": ({"conditions": {3: np.ones(3)}}, "conditions=3: expected globs"),
    "start of truth values": ({"start": {"b": np.ones(3, bool)}}, "expected an array of numbers"),
    "start shape": ({"start": {"b": np.ones((2, 3))}}, "start gives b an array of shape"),
    "start function": ({"start": {"b": lambda z: z[:2]}}, "the function that start gives b returns"),
    "no start": ({"target": None}, "target=None gives the output no relevance"),
    "values": ({"values": True}, "name them with capture"),
    "ratio": ({"capture": "b", "ratio": 1}, "ratio=1: expected True or False"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_before_anything_runs(name):
    options, message = WRONG[name]
    with pytest.raises((jrlrp.ArgumentError, jrlrp.TargetError), match=message):
        explain = jrlrp.relevance(N2, **{"rules": ZERO, **options})
        jax.eval_shape(explain, jax.ShapeDtypeStruct((2,), float))


def test_a_mask_where_no_relevance_passes_is_an_error():
    blocking = jrlrp.Composite([(match(path="b"), jrlrp.Block())], base=jrlrp.epsilon())
    net = lambda x: N1(x) + x @ np.ones((2, 3))
    for keyword, value in (("conditions", np.ones(3)), ("start", lambda z: z)):
        node = "a" if keyword == "conditions" else "b"
        with pytest.raises(jrlrp.ArgumentError, match=f"{keyword} has no effect at {node}: under these rules"):
            jrlrp.relevance(net, rules=blocking, **{keyword: {node: value}})(X)


def test_a_start_that_is_no_number_shows_in_its_example_alone():
    x = jnp.stack([X, -X, 2 * X])
    explain = jrlrp.relevance(N2, rules=jrlrp.Zero(), target=None, start={"b": jnp.log})
    np.testing.assert_array_equal(np.isnan(explain(x)).any(1), np.isnan(np.log(np.asarray(N1(x)))).any(1))
    assert not np.isnan(explain(x)).all()
