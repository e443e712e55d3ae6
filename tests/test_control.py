"""Control flow: relevance equals that of the plain program, and loops, branches and remats stay what they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import jrlrp
from jrlrp.primitives import register

RNG = np.random.default_rng(0)
T, D, H = 5, 3, 4
X = RNG.normal(size=(T, D))
WX, WH, B = RNG.normal(size=(D, H)), RNG.normal(size=(H, H)) / 2, RNG.normal(size=H)
W1, W2 = RNG.normal(size=(D, D)), RNG.normal(size=(H, 2))
RULES = {
    "relative": jrlrp.relative(),
    "zero": jrlrp.Zero(),
    "epsilon": jrlrp.epsilon(),
    "epsilon_plus_flat": jrlrp.epsilon_plus_flat(),
    "alpha_beta": jrlrp.AlphaBeta(),
    "attn_lrp": jrlrp.attn_lrp(),
    "gradient": jrlrp.gradient_times_input(),
}


def unrolled_scan(step, carry, xs, length=None, reverse=False):
    """`jax.lax.scan` as a Python loop."""
    length = jax.tree.leaves(xs)[0].shape[0] if length is None else length
    outputs = [None] * length
    for t in reversed(range(length)) if reverse else range(length):
        carry, outputs[t] = step(carry, jax.tree.map(lambda x, t=t: x[t], xs))
    return carry, jax.tree.map(lambda *ys: jnp.stack(ys), *outputs)


def cell(h, x):
    return jnp.tanh(x @ WX + h @ WH + B)


def start(x):
    return 0.1 * (x[0] @ WX)


def forward(x, scan):
    h, hs = scan(lambda h, x: (cell(h, x),) * 2, start(x), x)
    return hs.sum(0) @ W2 + h @ W2


def backward(x, scan):
    return scan(lambda h, x: (cell(h, x), h), start(x), x, reverse=True)[1].max(0) @ W2


def without_inputs(x, scan):
    return scan(lambda h, _: (jax.nn.relu(h @ WH + B), None), start(x), None, length=4)[0] @ W2


def without_carry(x, scan):
    return scan(lambda _, x: (None, jax.nn.relu(x @ WX + B)), None, x)[1].mean(0) @ W2


def closed_over(x, scan):
    u, constant = start(x), jnp.asarray(WX)
    return scan(lambda h, w: (jax.nn.relu(h @ WH + u * w), None), jnp.zeros(H) + u, constant)[0] @ W2


def many_parts(x, scan):
    def step(carry, slices):
        h, count, same = carry
        t, v = slices["t"], slices["x"]
        h = {"a": cell(h["a"], v) * (t + 1.0), "b": jnp.where(t % 2 == 0, h["b"], h["b"] + v @ WX)}
        return (h, count + 1, same), {"h": h["a"] + h["b"], "t": t, "c": count * 1.0}

    init = {"a": start(x), "b": 2 * start(x)}, 0, jnp.ones(H) * 3
    (h, count, same), ys = scan(step, init, {"x": x, "t": jnp.arange(T)})
    return (h["b"] * same + (ys["h"] * (ys["t"][:, None] + ys["c"][:, None] + count)).sum(0)) @ W2


def nested(x, scan):
    def outer(h, v):
        inner, hs = scan(lambda g, w: (jax.nn.relu(g @ WH + w * v[0]), g), h, jnp.asarray(WX))
        return inner + v @ WX, hs.sum(0)

    h, hs = scan(outer, start(x), x)
    return h @ W2 + hs[-1] @ W2


def convolution(x, scan):
    kernel = jnp.asarray(RNG_KERNEL)

    def step(h, v):
        h = jax.nn.relu(jax.lax.conv(h + v, kernel, (1,), "SAME"))
        return h, h.mean()

    h, means = scan(step, jnp.tile(x[:1, None] * 0.5, (1, 2, 1)), jnp.tile(x[:, None, None], (1, 1, 2, 1)))
    return jnp.stack([h.sum(), means.sum()])


RNG_KERNEL = RNG.normal(size=(2, 2, 3))
LOOPS = [forward, backward, without_inputs, without_carry, closed_over, many_parts, nested, convolution]


MAIN = ("relative", "alpha_beta", "attn_lrp", "gradient")
CASES = [(f, rules) for f in LOOPS for rules in MAIN] + [(forward, "zero"), (nested, "epsilon_plus_flat")]


@pytest.mark.parametrize(("f", "rules"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_a_scan_equals_its_loop(f, rules):
    explain = functools.partial(jrlrp.relevance, rules=RULES[rules], target="all")
    expected = explain(lambda x: f(x, unrolled_scan))(X)
    actual = jax.jit(explain(lambda x: f(x, jax.lax.scan)))(X)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("f", LOOPS, ids=lambda f: f.__name__)
def test_a_scan_stays_one(f):
    text = str(jax.make_jaxpr(jrlrp.relevance(lambda x: f(x, jax.lax.scan), target="all"))(X))
    plain = str(jax.make_jaxpr(lambda x: f(x, jax.lax.scan))(X))
    linear = "conv_general_dilated[" if f is convolution else "dot_general["
    assert text.count("scan[") >= 2  # on the way forwards and on the way back
    assert 0 < plain.count(linear) <= text.count(linear) < 3 * plain.count(linear) + 3


PLAIN = {
    "fori_loop": (
        lambda x: jax.lax.fori_loop(0, T, lambda t, h: cell(h, x[t]), start(x)) @ W2,
        lambda x: functools.reduce(cell, list(x), start(x)) @ W2,
    ),
    "map": (
        lambda x: jax.lax.map(lambda v: jax.nn.relu(v @ WX + B), x).max(0) @ W2,
        lambda x: jnp.stack([jax.nn.relu(v @ WX + B) for v in x]).max(0) @ W2,
    ),
    "map in batches": (
        lambda x: jax.lax.map(lambda v: jax.nn.relu(v @ WX + B), x, batch_size=2).max(0) @ W2,
        lambda x: jnp.concatenate([jax.nn.relu(v @ WX + B) for v in (x[:2], x[2:4], x[4:])]).max(0) @ W2,
    ),
    "remat": (
        lambda x: jax.checkpoint(lambda x: jax.nn.relu(x @ WX + B))(x).sum(0) @ W2,
        lambda x: jax.nn.relu(x @ WX + B).sum(0) @ W2,
    ),
    "remat with a policy": (
        lambda x: jax.checkpoint(
            lambda x: jax.nn.relu(x @ WX + B) @ W2, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        )(x).sum(0),
        lambda x: (jax.nn.relu(x @ WX + B) @ W2).sum(0),
    ),
    "remat of an activation": (
        lambda x: jax.checkpoint(jax.nn.silu)(x @ WX + B).sum(0) @ W2,
        lambda x: jax.nn.silu(x @ WX + B).sum(0) @ W2,
    ),
    "remat in a scan": (
        lambda x: jax.lax.scan(jax.checkpoint(lambda h, v: (cell(h, v), None)), start(x), x)[0] @ W2,
        lambda x: functools.reduce(cell, list(x), start(x)) @ W2,
    ),
    "cond, taken": (
        lambda x: jax.lax.cond(True, lambda x: jax.nn.relu(x @ WX + B), lambda x: -x @ WX, x).sum(0) @ W2,
        lambda x: jax.nn.relu(x @ WX + B).sum(0) @ W2,
    ),
    "cond by the values": (
        lambda x: jax.lax.cond(x.sum() > 1e6, lambda x: x @ WX, lambda x: jax.nn.relu(x @ WX + B), x).sum(0) @ W2,
        lambda x: jax.nn.relu(x @ WX + B).sum(0) @ W2,
    ),
    "switch": (
        lambda x: (
            jax.lax.switch(jnp.asarray(2), [lambda x: x, lambda x: 2 * x, lambda x: jax.nn.relu(x @ W1)], x).sum(0) @ WX
        ),
        lambda x: jax.nn.relu(x @ W1).sum(0) @ WX,
    ),
    "cond in a scan": (
        lambda x: (
            jax.lax.scan(
                lambda h, tv: (jax.lax.cond(tv[0] % 2 == 0, lambda h: cell(h, tv[1]), lambda h: h @ WH, h), None),
                start(x),
                (jnp.arange(T), x),
            )[0]
            @ W2
        ),
        lambda x: functools.reduce(lambda h, t: cell(h, x[t]) if t % 2 == 0 else h @ WH, range(T), start(x)) @ W2,
    ),
    "custom_vjp in a scan": (
        lambda x: jax.lax.scan(lambda h, v: (own_derivative(cell(h, v)), None), start(x), x)[0] @ W2,
        lambda x: functools.reduce(lambda h, v: 2 * cell(h, v), list(x), start(x)) @ W2,
    ),
    "solve": (
        lambda x: jnp.linalg.solve(WH, (x @ WX).sum(0)) @ W2,
        lambda x: (x @ WX).sum(0) @ jnp.linalg.inv(WH).T @ W2,
    ),
    "solve of several": (
        lambda x: jnp.linalg.solve(WH, (x @ WX).T).T.sum(0) @ W2,
        lambda x: (x @ WX @ jnp.linalg.inv(WH).T).sum(0) @ W2,
    ),
    "while that nothing passes": (
        lambda x: x[0] @ W1 * jax.lax.while_loop(lambda n: n < 1 + (x > 0).sum(), lambda n: n + 1.0, 0.0),
        lambda x: x[0] @ W1 * (1.0 + (X > 0).sum()),
    ),
}


@jax.custom_vjp
def own_derivative(x):
    return 2 * x


own_derivative.defvjp(lambda x: (2 * x, None), lambda _, g: (7 * g,))


# To R-LRP a solve of several vectors is one layer, where a product of matrices has a factor for each vector.
PLAIN_CASES = [(name, rules) for name in PLAIN for rules in ("relative", "attn_lrp")]
PLAIN_CASES.remove(("solve of several", "relative"))


@pytest.mark.parametrize(("name", "rules"), PLAIN_CASES)
def test_control_flow_equals_the_plain_program(name, rules):
    f, plain = PLAIN[name]
    explain = functools.partial(jrlrp.relevance, rules=RULES[rules], target="all")
    expected = explain(plain)(X)
    actual = jax.jit(explain(f))(X)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("reverse", [False, True])
def test_an_associative_scan_shares_as_the_sum_does(reverse):
    f = lambda x: jax.lax.associative_scan(jnp.add, x @ WX, reverse=reverse)[0 if reverse else -1] @ W2
    plain = lambda x: (x @ WX).sum(0) @ W2
    zero = jrlrp.Zero()
    np.testing.assert_allclose(jrlrp.relevance(f, rules=zero)(X), jrlrp.relevance(plain, rules=zero)(X), rtol=1e-9)
    assert np.isfinite(jrlrp.relevance(f)(X)).all()


def probabilities(x, scan):
    return scan(lambda h, x: (cell(h, x), jax.nn.softmax(cell(h, x) @ W2)), start(x), x)[1]


FINAL = {
    "scan": (
        lambda x: probabilities(x, jax.lax.scan),
        lambda x: jax.lax.scan(lambda h, x: (cell(h, x), cell(h, x) @ W2), start(x), x)[1],
    ),
    "map, picked": (
        lambda x: jax.lax.map(lambda v: jax.nn.log_softmax(v @ WX), x)[:, :2],
        lambda x: jax.lax.map(lambda v: v @ WX, x)[:, :2],
    ),
    "cond": (
        lambda x: jax.lax.cond(x.sum() > 0, lambda x: jax.nn.softmax(x @ WX), lambda x: jax.nn.softmax(-x @ WX), x),
        lambda x: jax.lax.cond(x.sum() > 0, lambda x: x @ WX, lambda x: -x @ WX, x),
    ),
    "remat": (
        lambda x: jax.checkpoint(lambda x: jax.nn.softmax(jax.nn.relu(x @ WX) @ W2))(x),
        lambda x: jax.checkpoint(lambda x: jax.nn.relu(x @ WX) @ W2)(x),
    ),
}


@pytest.mark.parametrize("rules", ["relative", "epsilon", "gradient"])
@pytest.mark.parametrize("name", FINAL)
def test_a_final_softmax_inside_control_flow_is_explained_at_its_logits(name, rules):
    f, logits = FINAL[name]
    expected = jrlrp.relevance(logits, rules=RULES[rules])(X)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(jax.jit(jrlrp.relevance(f, rules=RULES[rules]))(X), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jrlrp.value_and_relevance(f)(X)[0], f(X))


def test_a_remat_stays_one():
    f = PLAIN["remat"][0]
    text = str(jax.make_jaxpr(jrlrp.relevance(f))(X))
    assert "checkpoint[" in text or "remat2[" in text


@pytest.mark.parametrize("options", [{}, {"unknown": "gradient"}, {"rules": jrlrp.gradient_times_input()}])
def test_a_loop_of_unknown_length_is_refused_where_relevance_would_pass(options):
    def f(x):
        n, y = jax.lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 1, c[1] * 1.1), (0, x))
        return y @ W1 * n

    assert [node.equations for node in jrlrp.plan(f, X).unsupported] == [("while",)]
    with pytest.raises(jrlrp.UnsupportedError, match=r"while, at .*test_control.py[\s\S]*jax.lax.scan"):
        jrlrp.relevance(f, **options)(X)


TABLE = RNG.normal(size=(7, D))
IDS = np.asarray([3, 1, 1, 6, 0])


def first_state(ids):
    return jnp.asarray(TABLE)[ids[0]] @ WX


def embed_in_scan(ids):
    h, _ = jax.lax.scan(lambda h, i: (cell(h, jnp.asarray(TABLE)[i]), None), first_state(ids), ids)
    return h @ W2


def embed_in_loop(ids):
    h = first_state(ids)
    for i in ids:
        h = cell(h, jnp.asarray(TABLE)[i])
    return h @ W2


IN_BODIES = {
    "scan": (embed_in_scan, embed_in_loop),
    "fori_loop": (
        lambda ids: jax.lax.fori_loop(0, T, lambda t, h: cell(h, jnp.asarray(TABLE)[ids[t]]), first_state(ids)) @ W2,
        embed_in_loop,
    ),
    "map": (
        lambda ids: jax.lax.map(lambda i: jnp.asarray(TABLE)[i] @ WX, ids).max(0) @ W2,
        lambda ids: jnp.stack([jnp.asarray(TABLE)[i] @ WX for i in ids]).max(0) @ W2,
    ),
    "remat": (
        lambda ids: jax.checkpoint(lambda ids: jnp.asarray(TABLE)[ids] @ WX)(ids).max(0) @ W2,
        lambda ids: (jnp.asarray(TABLE)[ids] @ WX).max(0) @ W2,
    ),
    "cond": (
        lambda ids: (
            jax.lax.cond(
                ids.shape[0] > 2, lambda ids: jnp.asarray(TABLE)[ids] @ WX, lambda ids: jnp.ones((T, H)), ids
            ).max(0)
            @ W2
        ),
        lambda ids: (jnp.asarray(TABLE)[ids] @ WX).max(0) @ W2,
    ),
    "ids through a carry": (
        lambda ids: (
            jax.lax.scan(
                lambda c, i: ((cell(c[0], jnp.asarray(TABLE)[c[1]]), i), i), (first_state(ids), ids[0]), ids[1:]
            )[0][0]
            @ W2
        ),
        lambda ids: embed_in_steps(ids[:-1]),
    ),
    "ids out of a loop": (
        lambda ids: (jnp.asarray(TABLE)[jax.lax.scan(lambda c, i: (i, c), 2, ids)[1]] @ WX).max(0) @ W2,
        lambda ids: (jnp.asarray(TABLE)[jnp.concatenate([jnp.asarray([2]), ids[:-1]])] @ WX).max(0) @ W2,
    ),
    "nested": (
        lambda ids: jax.lax.map(lambda i: embed_in_scan(jnp.stack([i, i + 0, i])), ids).sum(0),
        lambda ids: jnp.stack([embed_in_loop([i, i + 0, i]) for i in ids]).sum(0),
    ),
}


def embed_in_steps(ids):
    h = first_state(ids)
    for i in ids:
        h = cell(h, jnp.asarray(TABLE)[i])
    return h @ W2


@pytest.mark.parametrize("rules", ["relative", "zero", "gradient"])
@pytest.mark.parametrize("name", IN_BODIES)
def test_ids_keep_their_relevance_inside_control_flow(name, rules):
    f, plain = IN_BODIES[name]
    expected = jrlrp.relevance(plain, rules=RULES[rules])(IDS)
    actual = jax.jit(jrlrp.relevance(f, rules=RULES[rules]))(IDS)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)


def test_ids_lose_it_in_a_loop_of_unknown_length_and_the_plan_says_so():
    def f(ids):
        last = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, ids[c[0]]), (0, ids[0]))[1]
        return (jnp.asarray(TABLE)[last] + jnp.asarray(TABLE)[ids[1]]) @ WX

    assert any("while" in place for place in jrlrp.plan(f, IDS).ended)
    assert np.flatnonzero(jrlrp.relevance(f)(IDS)).tolist() == [1]


def batched(x):
    """An LSTM-like loop over time of a batch (N, T, D)."""
    h = x[:, 0] @ WX
    h, hs = jax.lax.scan(lambda h, v: (cell(h, v),) * 2, h, x.swapaxes(0, 1))
    return hs.swapaxes(0, 1).max(1) @ W2 + h @ W2


BATCH = RNG.normal(size=(6, T, D))


@pytest.mark.parametrize("rules", MAIN)
@pytest.mark.parametrize(
    "f",
    [
        batched,
        lambda x: jax.lax.map(lambda v: batched(v[None])[0], x),
        lambda x: jax.vmap(lambda v: batched(v[None])[0])(x),
    ],
)
def test_an_example_does_not_depend_on_its_batch(f, rules):
    explain = jax.jit(jrlrp.relevance(f, rules=RULES[rules]))
    whole = explain(BATCH)
    rows = jnp.concatenate([explain(row[None]) for row in BATCH])
    np.testing.assert_allclose(whole, rows, rtol=1e-9, atol=1e-12)
    mapped = jax.vmap(lambda row: explain(row[None])[0])(BATCH)
    np.testing.assert_allclose(whole, mapped, rtol=1e-9, atol=1e-12)


def test_examples_that_a_loop_mixes_are_one():
    f = lambda x: jax.lax.scan(lambda h, v: (cell(h, v),) * 2, jnp.zeros(H), x)[1] @ W2
    from jrlrp.transform import options, trace_function

    graph = trace_function(f, (X,), {}, options(f)).graph
    assert all(node.output_axis is None for node in graph.nodes)


def test_what_is_captured_in_a_scan_has_its_turns_in_front():
    f = lambda x: forward(x, jax.lax.scan)
    names = [node.name for node in jrlrp.plan(f, X).nodes if node.kind == "activation"]
    _, captured = jrlrp.relevance(f, rules=jrlrp.epsilon(), capture=jrlrp.match("activation"))(X)
    (found,) = captured.values()
    assert list(captured) == names and found.shape == (T, H)

    def tail(hs):  # h_t = hs[t] passes on to the next turn and to the output
        return hs.sum(0) @ W2 + hs[-1] @ W2

    hs = jax.lax.scan(lambda h, x: (cell(h, x),) * 2, start(X), X)[1]
    np.testing.assert_allclose(found[-1], jrlrp.relevance(tail, rules=jrlrp.epsilon())(hs)[-1], rtol=1e-9)
    inner = jrlrp.relevance(lambda x: nested(x, jax.lax.scan), capture=jrlrp.match("activation"))(X)[1]
    assert [r.shape for r in inner.values()] == [(T, D, H)]


@pytest.mark.parametrize("f", [forward, backward, many_parts, nested], ids=lambda f: f.__name__)
@pytest.mark.parametrize("rules", ["relative", "epsilon", "attn_lrp", "gradient"])
def test_an_audit_accounts_for_everything_in_a_loop(f, rules):
    audit = jrlrp.audit(lambda x: f(x, jax.lax.scan), X, rules=RULES[rules])
    if rules != "gradient":
        assert abs(audit.gap) < 1e-9 * np.sum(np.abs(audit.size_received))
    plain = jrlrp.audit(lambda x: f(x, unrolled_scan), X, rules=RULES[rules])
    for name in ("bias", "stabilizer"):
        np.testing.assert_allclose(np.sum(getattr(audit, name)), np.sum(getattr(plain, name)), atol=1e-9)
    assert ("scan" in audit.kinds) == (f is many_parts)  # it begins with constants, which get relevance


def test_derivatives_pass_through_the_relevance_of_a_loop():
    def total(w, scan):
        step = lambda h, x: (jnp.tanh(x @ w + h @ WH + B),) * 2
        f = lambda x: scan(step, start(x), x)[0] @ W2
        return (jrlrp.relevance(f, rules=jrlrp.epsilon(1e-2))(X) ** 2).sum()

    expected = jax.grad(total)(jnp.asarray(WX), unrolled_scan)
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(WX), jax.lax.scan), expected, rtol=1e-6)


def test_rule_parameters_map_into_a_loop():
    explain = lambda e: jrlrp.relevance(lambda x: forward(x, jax.lax.scan), rules=jrlrp.Epsilon(e))(X)
    epsilons = jnp.asarray([0.0, 1e-3, 1.0])
    np.testing.assert_allclose(jax.vmap(explain)(epsilons), jnp.stack([explain(e) for e in epsilons]), rtol=1e-9)


def test_values_and_their_derivatives_come_out_of_a_loop():
    def f(x):
        h, hs = jax.lax.scan(lambda h, x: (cell(h, x), h * h), start(x), x)
        return h @ W2, hs.sum()

    both = lambda x: jrlrp.value_and_relevance(f, has_aux=True)(x)[0][1]
    np.testing.assert_allclose(jax.grad(both)(X), jax.grad(lambda x: f(x)[1])(X), rtol=1e-9)


def test_the_first_layer_is_found_inside_a_loop():
    f = lambda x: forward(x, jax.lax.scan)
    dense = [n for n in jrlrp.plan(f, X).nodes if n.kind == "dense"]
    assert [n.first for n in dense] == [True, True, False, False, False]
    assert [n.last for n in dense] == [False, False, False, True, True]


@pytest.mark.optimised
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rules", MAIN)
def test_a_thousand_turns_stay_finite(rules, dtype):
    x = jnp.asarray(RNG.normal(size=(1000, D)), dtype)
    wx, wh, b, w2 = (jnp.asarray(w, dtype) for w in (WX, WH, B, W2))

    def f(x):
        step = lambda h, v: (jnp.tanh(v @ wx + h @ wh + b),) * 2
        return jax.lax.scan(step, jnp.zeros(H, dtype), x)[0] @ w2

    r = jax.jit(jrlrp.relevance(f, rules=RULES[rules]))(x)
    assert r.dtype == dtype and r.shape == x.shape
    assert np.isfinite(np.asarray(r, np.float32)).all() and np.abs(np.asarray(r, np.float32)).max() > 0


MESH = Mesh(np.asarray(jax.devices()[:2]), ("data",)) if jax.device_count() > 1 else None
needs_two_devices = pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")


def sharded(f, in_spec=("data",), out_spec=("data",)):
    return jax.shard_map(f, mesh=MESH, in_specs=PartitionSpec(*in_spec), out_specs=PartitionSpec(*out_spec))


@needs_two_devices
@pytest.mark.parametrize("rules", MAIN)
def test_a_function_with_shards_of_its_batch(rules):
    f = lambda x: jax.nn.relu(sharded(batched)(2 * x) + 1.0) @ WX[:2]
    plain = lambda x: jax.nn.relu(batched(2 * x) + 1.0) @ WX[:2]
    explain = functools.partial(jrlrp.relevance, rules=RULES[rules])
    np.testing.assert_allclose(jax.jit(explain(f))(BATCH), explain(plain)(BATCH), rtol=1e-9, atol=1e-12)


@needs_two_devices
@pytest.mark.parametrize("rules", ["zero", "epsilon", "gradient"])
def test_a_function_with_shards_of_its_features(rules):
    def f(x):  # each device has half of the hidden units
        def part(x, w1, w2):
            return jax.lax.psum(jax.nn.relu(x @ w1) @ w2, "data")

        in_specs = PartitionSpec(), PartitionSpec(None, "data"), PartitionSpec("data")
        return jax.shard_map(part, mesh=MESH, in_specs=in_specs, out_specs=PartitionSpec())(x, WX, W2)

    plain = lambda x: jax.nn.relu(x @ WX) @ W2
    explain = functools.partial(jrlrp.relevance, rules=RULES[rules])
    np.testing.assert_allclose(jax.jit(explain(f))(X), explain(plain)(X), rtol=1e-4, atol=1e-9)
    audit = jrlrp.audit(f, X, rules=RULES[rules])
    if rules != "gradient":
        assert abs(audit.gap) < 1e-9


@needs_two_devices
@pytest.mark.parametrize("rules", [None, jrlrp.relative(), jrlrp.epsilon_plus(), jrlrp.epsilon(1e-12)])
def test_a_sum_over_devices_shares_as_a_sum(rules):
    weights = RNG.normal(size=(2, 3, 3, 1, 3))
    images = RNG.normal(size=(2, 5, 5, 3))

    def part(x, w):
        dims = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 3}
        return jax.nn.relu(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", **dims))

    def f(x):
        over = jax.shard_map(
            lambda x, w: jax.lax.psum(part(x, w[0]), "data"),
            mesh=MESH,
            in_specs=(PartitionSpec(), PartitionSpec("data")),
            out_specs=PartitionSpec(),
        )
        return over(x, weights).mean((1, 2))

    # One layer, whose units are spread over devices.
    kernel = np.moveaxis(weights, 0, -1).reshape(3, 3, 1, 6)
    plain = lambda x: part(x, kernel).reshape(2, 5, 5, 3, 2).sum(-1).mean((1, 2))
    found, expected = (jax.jit(jrlrp.relevance(g, rules=rules))(images) for g in (f, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@needs_two_devices
def test_ids_in_shards():
    f = lambda ids: sharded(lambda ids: jax.nn.relu(jnp.asarray(TABLE)[ids] @ WX))(ids).max(1) @ W2
    plain = lambda ids: jax.nn.relu(jnp.asarray(TABLE)[ids] @ WX).max(1) @ W2
    ids = RNG.integers(0, 7, (4, 5))
    np.testing.assert_allclose(jrlrp.relevance(f)(ids), jrlrp.relevance(plain)(ids), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("rules", MAIN)
def test_branches_under_vmap(rules):
    def f(x):
        h = jax.lax.cond(x.sum() > 0, lambda x: jax.nn.relu(x @ WX + B), lambda x: jnp.tanh(x @ -WX), x)
        return jax.checkpoint(lambda h: jax.nn.relu(h @ WH) @ W2)(h)

    rows = BATCH[:, 0]
    assert 0 < (rows.sum(1) > 0).sum() < len(rows)
    explain = jax.jit(jrlrp.relevance(f, rules=RULES[rules]))
    expected = jnp.stack([explain(row) for row in rows])
    np.testing.assert_allclose(jax.vmap(explain)(rows), expected, rtol=1e-9, atol=1e-12)
    inside = jrlrp.relevance(jax.vmap(f), rules=RULES[rules])
    np.testing.assert_allclose(inside(rows), expected, rtol=1e-9, atol=1e-12)


def test_a_rule_for_a_loop_is_the_loops(monkeypatch):
    monkeypatch.setattr(register, "_REGISTERED", {})
    half = lambda operands, outputs, relevances: [None if k else 0.5 * x for k, x in enumerate(operands)]
    f = lambda x: jax.lax.scan(lambda h, w: (h * w, None), start(x), jnp.asarray(WX))[0]
    for options in ({"primitives": {"scan": half}}, {}):
        plan = jrlrp.plan(f, X, **options)
        assert [node.kind for node in plan.nodes].count("custom" if options else "scan") == 1
    jrlrp.register_rule("scan", half)
    found = [node.kind for node in jrlrp.plan(f, X).nodes]
    assert found.count("custom") == 1 and "scan" not in found
    assert np.abs(jrlrp.relevance(f, target="all")(X)).sum() > 0


def test_a_loop_itself_has_nothing_to_capture():
    with pytest.raises(jrlrp.ArgumentError, match="matches no node"):
        jrlrp.relevance(lambda x: forward(x, jax.lax.scan), capture=jrlrp.match("scan"))(X)


@needs_two_devices
def test_what_ends_inside_a_shard_map_is_looked_up_there():
    """`searchsorted` casts types of meshes, whose primitive is looked for while the function is traced."""
    weights = np.random.default_rng(0).normal(size=(3, 2))
    part = lambda x: (x + jnp.searchsorted(jnp.asarray([1.0, 2.0]), x)) @ weights
    x, along = np.random.default_rng(1).uniform(0.5, 2.5, size=(4, 3)), PartitionSpec("data")
    sharded = jax.shard_map(part, mesh=MESH, in_specs=along, out_specs=along)
    expected = jrlrp.relevance(part)(x)
    np.testing.assert_allclose(jax.jit(jrlrp.relevance(sharded))(x), expected, rtol=1e-12)
