"""Captured relevance and the audit: what probes read of the relevance that passes each node."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import jrlrp
from jrlrp import Composite, match

RNG = np.random.default_rng(0)
K, W, V, B = (RNG.normal(size=shape) for shape in ((3, 3, 2, 4), (36, 5), (5, 3), 5))
X = RNG.normal(size=(4, 6, 6, 2))
PRESETS = {
    "relative": jrlrp.relative(),
    "epsilon": jrlrp.epsilon(0.1),
    "zero": jrlrp.Zero(),
    "alpha2 beta1 flat": jrlrp.epsilon_alpha2_beta1_flat(),
    "gamma box": jrlrp.epsilon_gamma_box(-4.0, 4.0),
    "distribute": jrlrp.Epsilon(0.1, "distribute"),
    "gradient": jrlrp.gradient_times_input(),
}


def net(x):
    with jax.named_scope("Net"):
        with jax.named_scope("Conv_0"):
            y = jax.lax.conv_general_dilated(x, K, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y = y + jnp.tanh(jnp.roll(y, 1, axis=1))
        y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        with jax.named_scope("Dense_0"):
            y = jax.nn.relu(y.reshape(-1, 36) @ W + B)
        with jax.named_scope("Dense_1"):
            return y @ V


@pytest.fixture(params=PRESETS)
def rules(request):
    return PRESETS[request.param]


def test_captured_relevance_is_the_pullback_of_the_rest(rules):
    """Relevance at the hidden units is the relevance of a network that begins there."""
    r, captured = jrlrp.relevance(net, rules=rules, capture="Net/Dense_0:dense")(X)
    np.testing.assert_allclose(r, jrlrp.relevance(net, rules=rules)(X), rtol=1e-9)
    if rules is PRESETS["gradient"]:
        return  # it has no rules to choose
    rest = lambda z: jax.nn.relu(z) @ V
    hidden = jnp.asarray(RNG.normal(size=(4, 5)))
    base = rules if isinstance(rules, Composite) else jrlrp.epsilon()
    everywhere = Composite([(match("dense"), jrlrp.Epsilon())], base=base)  # whichever layer is the first
    _, captured = jrlrp.relevance(lambda z: rest(z @ np.eye(5)), rules=everywhere, capture="dense#0")(hidden)
    np.testing.assert_allclose(captured["dense#0"], jrlrp.relevance(rest, rules=everywhere)(hidden), rtol=1e-9)


def test_names_globs_and_matchers(rules):
    names = {node.name for node in jrlrp.plan(net, X, rules=rules).nodes} - {""}
    assert {"Net/Conv_0", "Net:sum", "Net:max_pool", "Net/Dense_0:dense", "Net/Dense_1"} <= names
    for capture, expected in (
        ("*/Conv_*", {"Net/Conv_0"}),
        (("*/Dense_1", match("max_pool")), {"Net/Dense_1", "Net:max_pool"}),
        ([match("sum"), lambda node: node.kind == "conv"], {"Net:sum", "Net/Conv_0"}),
        ("*", names),
    ):
        _, captured = jrlrp.relevance(net, rules=rules, capture=capture)(X)
        assert set(captured) == expected


def test_nodes_of_one_kind_and_place_are_numbered():
    f = lambda x: jnp.tanh(jnp.tanh(x @ np.eye(4)) @ np.eye(4))
    _, captured = jrlrp.relevance(f, capture="*")(jnp.ones(4))
    assert list(captured) == ["dense#0", "activation#0", "dense#1", "activation#1"]


def test_names_are_unique_whatever_modules_are_called():
    def f(x):
        with jax.named_scope("dense"):
            x = jax.nn.relu(x @ np.eye(4))
        return x @ np.eye(4)

    with_path = jax.named_scope("dense")(lambda x: x @ np.eye(4))
    g = lambda x: jax.nn.relu(with_path(x)) @ np.eye(4)
    for function in (f, g):
        _, captured = jrlrp.relevance(function, capture="*")(jnp.ones(4))
        assert len(captured) == 3


def test_captured_relevance_composes(rules):
    explain = lambda x: jrlrp.relevance(net, rules=rules, capture="*/Conv_0")(x)
    r, captured = explain(X)
    jitted = jax.jit(explain)(X)
    np.testing.assert_allclose(jitted[1]["Net/Conv_0"], captured["Net/Conv_0"], rtol=1e-9, atol=1e-12)
    one = jax.vmap(jrlrp.relevance(lambda x: net(x[None])[0], rules=rules, capture="*/Conv_0"))(X)
    np.testing.assert_allclose(one[1]["Net/Conv_0"][:, 0], captured["Net/Conv_0"], rtol=1e-9, atol=1e-12)
    value, (_, also) = jrlrp.value_and_relevance(net, rules=rules, capture="*/Conv_0")(X)
    np.testing.assert_allclose(value, net(X), rtol=1e-9)
    np.testing.assert_allclose(also["Net/Conv_0"], captured["Net/Conv_0"])
    (with_aux, _), aux = jrlrp.relevance(lambda x: (net(x), 7), rules=rules, capture="*/Conv_0", has_aux=True)(X)
    np.testing.assert_allclose(with_aux, r)
    assert aux == 7


@pytest.mark.optimised
def test_captured_relevance_has_the_dtype_of_its_values():
    x = jnp.asarray(X, jnp.bfloat16)
    low = lambda x: jnp.tanh(x.reshape(4, -1) @ jnp.ones((72, 3), jnp.bfloat16))
    for rules in (jrlrp.relative(), jrlrp.epsilon(), jrlrp.gradient_times_input()):
        _, captured = jrlrp.relevance(low, rules=rules, capture="*")(x)
        assert {r.dtype for r in captured.values()} == {jnp.dtype(jnp.bfloat16)}


def test_relevance_of_embeddings_may_be_captured():
    table = RNG.normal(size=(7, 4))
    f = lambda ids: jnp.tanh(jnp.asarray(table)[ids]).sum(0) @ V[:4]
    ids = jnp.asarray([3, 1, 3])
    for rules in (jrlrp.relative(), jrlrp.gradient_times_input()):
        r, captured = jrlrp.relevance(f, rules=rules, capture=match("embedding"))(ids)
        (features,) = captured.values()
        np.testing.assert_allclose(features.sum(-1), r, rtol=1e-6)


@pytest.mark.parametrize(
    ("capture", "message"),
    [
        ("*/Block_9", "matches no node; plan.. prints their names"),
        ("", "matches no node"),
        ((3,), "expected globs"),
        (None, "expected globs"),
    ],
)
def test_captures_that_name_nothing_are_errors(capture, message):
    with pytest.raises(jrlrp.ArgumentError, match=message):
        jrlrp.relevance(net, capture=capture)(X)


def test_the_audit_accounts_for_all_relevance(rules):
    audit = jrlrp.audit(net, X, rules=rules)
    assert abs(float(audit.gap)) < 1e-9 * float(audit.size_received.max())
    np.testing.assert_allclose(audit.inputs, jrlrp.relevance(net, rules=rules)(X).sum())
    np.testing.assert_allclose(audit.output, net(X).max(-1).sum())
    _, captured = jrlrp.relevance(net, rules=rules, capture="*")(X)
    received = dict(zip(audit.names, audit.received, strict=True))
    for name, r in captured.items():
        np.testing.assert_allclose(received[name], r.sum(), atol=1e-9)


def test_the_audit_says_what_bias_and_stabiliser_keep():
    x, w, b = jnp.asarray(RNG.normal(size=5)), RNG.normal(size=(5, 3)), RNG.normal(size=3)
    z, (r,) = x @ w + b, np.diag([0.0, 0.0, 1.0])[[2]]
    f = lambda x: x @ w + b
    kept = lambda rules: jrlrp.audit(f, x, rules=rules, target=lambda out: r)
    share = r[2] / (z[2] + 0.3 * np.sign(z[2]))
    audit = kept(jrlrp.Epsilon(0.3))
    np.testing.assert_allclose((audit.bias, audit.stabilizer), [[b[2] * share], [0.3 * np.sign(z[2]) * share]])
    np.testing.assert_allclose(audit.other, 0.0, atol=1e-12)
    conserving = kept(jrlrp.Epsilon(0.0, "distribute"))
    np.testing.assert_allclose((conserving.absorbed, conserving.bias), 0.0, atol=1e-12)
    beside = lambda x: (x @ w + b) + x[:3]  # so that something is reached
    blocked = jrlrp.audit(beside, x, rules=jrlrp.Block(), target=lambda out: r)
    k = blocked.kinds.index("dense")
    assert blocked.received[k] != 0
    np.testing.assert_allclose((blocked.other[k], blocked.growth[k]), (blocked.received[k], 0.0))
    both = jrlrp.audit(lambda x: (x @ w + jnp.tanh(x @ w)) + b, x, rules=jrlrp.Zero(), target=lambda out: r)
    total = (x @ w + np.tanh(x @ w) + b)[2]
    np.testing.assert_allclose(both.bias[both.kinds.index("sum")], b[2] / total)


def test_relevance_lost_to_constants_is_seen():
    x = jnp.asarray([1.0, 2.0])
    audit = jrlrp.audit(lambda x: jnp.concatenate([x, jnp.asarray([5.0, 1.0])]).sum(), x, rules=jrlrp.Zero())
    np.testing.assert_allclose(
        (audit.output, audit.inputs, audit.other.sum(), audit.gap), (9.0, 3.0, 6.0, 0.0), atol=1e-12
    )
    assert "most is absorbed at - (movement, " in str(audit)


@pytest.mark.optimised
def test_the_audit_shows_where_relevance_saturates():
    with jax.enable_x64(False):
        x = jnp.asarray([1.0, -1.0 + 1e-7], jnp.float32)
        f = lambda x: jnp.tile(x, 50).reshape(50, 2) @ jnp.ones(2, jnp.float32)
        audit = jrlrp.audit(f, x, rules=jrlrp.Zero(), target=lambda out: jnp.full(50, 1e15, jnp.float32))
    assert np.isfinite(np.asarray(audit.received)).all()
    assert bool(audit.saturated.any()) and "relevance saturates at" in str(audit)


def test_audits_under_jit_and_vmap(rules):
    audit = jrlrp.audit(net, X, rules=rules)
    jitted = jax.jit(lambda x: jrlrp.audit(net, x, rules=rules))(X)
    np.testing.assert_allclose(jitted.passed, audit.passed, rtol=1e-9, atol=1e-12)
    assert jitted.names == audit.names and str(jitted).splitlines()[:-4] == str(audit).splitlines()[:-4]
    single = jax.vmap(lambda x: jrlrp.audit(lambda x: net(x[None])[0], x, rules=rules))(X)
    assert single.received.shape == (4, len(single.names))
    np.testing.assert_allclose(single.inputs.sum(), audit.inputs)
    assert "output" in str(single)


def test_the_audit_of_ids_and_of_outputs_that_depend_on_nothing(rules):
    table, ids = jnp.asarray(RNG.normal(size=(7, 5))), jnp.asarray([3, 1, 3])
    audit = jrlrp.audit(lambda ids: jnp.tanh(table[ids]).sum(0) @ V, ids, rules=rules)
    assert abs(float(audit.gap)) < 1e-5 and abs(float(audit.inputs)) > 1e-3
    audit = jrlrp.audit(lambda x: (jnp.tanh(x) @ V, jnp.full(3, 2.0)), jnp.ones(5), rules=rules, target="all")
    np.testing.assert_allclose((audit.ended, audit.gap), (6.0, 0.0), atol=1e-9)
    assert "depends on no explained input" in str(audit)


def test_probes_inside_shard_map():
    mesh, along = Mesh(jax.devices()[:4], ("data",)), PartitionSpec("data")
    explain = lambda x: jrlrp.relevance(net, rules=jrlrp.epsilon_plus_flat(), capture="*/Conv_0")(x)
    mapped = jax.jit(jax.shard_map(explain, mesh=mesh, in_specs=along, out_specs=along))(X)
    for part, expected in zip(jax.tree.leaves(mapped), jax.tree.leaves(explain(X)), strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-9, atol=1e-12)


def test_ids_inside_shard_map():
    table, mesh, along = RNG.normal(size=(9, 5)), Mesh(jax.devices()[:4], ("data",)), PartitionSpec("data")
    ids = np.array([[1], [2], [3], [4]], np.int32)
    explain = lambda ids: jrlrp.relevance(lambda i: (jax.nn.one_hot(i, 9) @ table).sum(1) @ V, rules=jrlrp.epsilon())(
        ids
    )
    mapped = jax.jit(jax.shard_map(explain, mesh=mesh, in_specs=along, out_specs=along))(ids)
    np.testing.assert_allclose(mapped, explain(ids), rtol=1e-5)


def test_an_audit_of_nothing():
    audit = jrlrp.audit(lambda x: x, jnp.ones(3))
    assert audit.names == () and "output 1 = inputs 1" in str(audit)


@pytest.mark.parametrize(
    ("fun", "x", "rules", "sentence"),
    [
        (lambda x: x @ WEIGHT, [1.0, 2.0], jrlrp.epsilon(), "R may be read as parts of the score"),
        (lambda x: x @ WEIGHT + 9, [1.0, 2.0], jrlrp.epsilon(), "Biases keep much of the score"),
        (lambda x: x @ WEIGHT, [1.0, 2.0], jrlrp.epsilon(1.0), "Stabilisers keep much of the score"),
        (lambda x: x @ WEIGHT, [1.0, -2.0], jrlrp.relative(), "Rules keep or add much"),
        (lambda x: x @ WEIGHT, [1.0, np.nan], jrlrp.epsilon(), "A score that is NaN has no map"),
    ],
)
def test_an_audit_ends_with_a_sentence(fun, x, rules, sentence):
    audit = jrlrp.audit(fun, jnp.asarray(x), rules=rules, target=0)
    assert sentence in str(audit).splitlines()[-1]
    both = jax.vmap(lambda x: jrlrp.audit(fun, x, rules=rules, target=0))(jnp.asarray([x, x]))
    assert sentence in str(both).splitlines()[-1]


WEIGHT = jnp.asarray([[1.0, 2.0], [1.5, -1.0]])
