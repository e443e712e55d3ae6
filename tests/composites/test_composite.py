"""Which rule a node gets, and how composites print."""

import jax
import jax.numpy as jnp
import numpy as np

import jrlrp
from jrlrp import Composite, match

W = np.random.default_rng(0).normal(size=(4, 4))
X = np.random.default_rng(1).normal(size=(2, 4))


def net(x):
    with jax.named_scope("Net/Block_0"):
        x = jax.nn.relu(x @ W)
    with jax.named_scope("Net/Block_1"):
        x = jax.nn.relu(x @ W)
    with jax.named_scope("Net/Head"):
        return x @ W


def rules_of(composite):
    return {node.path: node.rule for node in jrlrp.plan(net, X, rules=composite).nodes if node.kind == "dense"}


def test_the_last_match_wins():
    composite = Composite(
        [
            (match("dense"), jrlrp.ZPlus()),
            (match(path="*/Block_*"), jrlrp.AlphaBeta()),
            (match(path="*/Block_1"), jrlrp.Relative()),
        ],
        base=jrlrp.epsilon(),
    )
    assert rules_of(composite) == {
        "Net/Block_0": jrlrp.AlphaBeta(),
        "Net/Block_1": jrlrp.Relative(),
        "Net/Head": jrlrp.ZPlus(),
    }


def test_first_last_and_predicate():
    composite = Composite(
        [
            (match(first=True), jrlrp.ZPlus()),
            (match(last=True), jrlrp.Zero()),
            (match(where=lambda node: node.path.endswith("_1")), jrlrp.AlphaBeta()),
        ],
        base=jrlrp.epsilon(),
    )
    assert list(rules_of(composite).values()) == [jrlrp.ZPlus(), jrlrp.AlphaBeta(), jrlrp.Zero()]


def test_a_rule_is_given_only_to_kinds_that_it_serves():
    composite = Composite([(match(), jrlrp.ZPlus())], base=jrlrp.epsilon())
    kinds = {node.kind: node.rule for node in jrlrp.plan(net, X, rules=composite).nodes}
    assert kinds == {"dense": jrlrp.ZPlus(), "activation": jrlrp.Pass()}


def test_a_mixed_composite_is_its_rules_applied_in_turn():
    composite = Composite([(match(path="*/Head"), jrlrp.Zero())], base=jrlrp.relative())
    hidden = jax.nn.relu(jax.nn.relu(X @ W) @ W)
    top = jrlrp.relevance(lambda h: h @ W, rules=jrlrp.Zero())(hidden)
    below = jrlrp.relevance(lambda x: jax.nn.relu(jax.nn.relu(x @ W) @ W), target=lambda out: top)(X)
    np.testing.assert_allclose(jrlrp.relevance(net, rules=composite)(X), below, rtol=1e-9)


def test_presets():
    kernel = np.ones((3, 3, 2, 4))

    def mixed(x):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y = (y + y[:, ::-1]) * np.ones(4) + np.ones(4)
        return y.mean((1, 2)) @ W

    def of(rules):
        plan = jrlrp.plan(mixed, jnp.ones((1, 4, 4, 2)), rules=rules)
        return {node.kind: node.rule for node in plan.nodes if node.rule is not None}

    epsilon, ratio = jrlrp.Epsilon(), jrlrp.ShareRatio()
    shared = {"scale": epsilon, "average_pool": epsilon, "sum": ratio}
    assert of(jrlrp.epsilon()) == {"conv": epsilon, "dense": epsilon, **shared}
    assert of(jrlrp.epsilon(0.5))["dense"] == jrlrp.Epsilon(0.5)
    assert of(jrlrp.epsilon_plus()) == {"conv": jrlrp.ZPlus(), "dense": epsilon, **shared}
    assert of(jrlrp.AlphaBeta())["average_pool"] == epsilon
    relative = jrlrp.Relative()
    assert of(None) == {
        "conv": relative,
        "dense": relative,
        "scale": relative,
        "average_pool": relative,
        "sum": jrlrp.ShareAbsolute(),
    }


def test_printing():
    composite = Composite([(match("conv", "*/Block_*", first=True), jrlrp.Epsilon(0.1))], base=jrlrp.epsilon_plus())
    assert (
        repr(jrlrp.Epsilon()) == "Epsilon()" and repr(jrlrp.AlphaBeta(1.5, -0.5)) == "AlphaBeta(alpha=1.5, beta=-0.5)"
    )
    lines = repr(composite).splitlines()
    assert lines[0] == "Composite(" and lines[-1] == ")"
    assert lines[-2].split("⇒")[0].strip() == "conv, */Block_*, first"
    assert lines[-2].endswith("⇒  Epsilon(epsilon=0.1)")
