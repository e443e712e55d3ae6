"""Which rule a node gets, and how composites print."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def two_inputs(x, y):
    dims = ("NHWC", "HWIO", "NHWC")
    image = jax.lax.conv_general_dilated(x, np.ones((2, 2, 1, 3)), (1, 1), "VALID", dimension_numbers=dims)
    image = jax.nn.relu((image * np.full(3, 2.0)).reshape(2, -1)) @ np.ones((12, 4))
    return jax.nn.relu(image + (y - 0.5) @ W) @ W


PLACED = {  # the rules of conv, first dense and last dense layer
    "epsilon": (jrlrp.epsilon(0.1), [jrlrp.Epsilon(0.1)] * 4),
    "relative plus": (jrlrp.relative_plus(), [jrlrp.RelativePlus(), *[jrlrp.Relative()] * 3]),
    "epsilon plus": (jrlrp.epsilon_plus(), [jrlrp.ZPlus(), *[jrlrp.Epsilon()] * 3]),
    "epsilon plus flat": (jrlrp.epsilon_plus_flat(), [jrlrp.Flat(), jrlrp.Epsilon(), jrlrp.Flat(), jrlrp.Epsilon()]),
    "epsilon gamma box": (
        jrlrp.epsilon_gamma_box(-1.0, 1.0, 0.5),
        [jrlrp.ZBox(-1.0, 1.0), jrlrp.Epsilon(), jrlrp.ZBox(-1.0, 1.0), jrlrp.Epsilon()],
    ),
    "alpha2 beta1": (jrlrp.epsilon_alpha2_beta1(), [jrlrp.AlphaBeta(), *[jrlrp.Epsilon()] * 3]),
    "alpha2 beta1 flat": (
        jrlrp.epsilon_alpha2_beta1_flat(),
        [jrlrp.Flat(), jrlrp.Epsilon(), jrlrp.Flat(), jrlrp.Epsilon()],
    ),
    "excitation backprop": (jrlrp.excitation_backprop(), [jrlrp.ZPlus()] * 4),
    "deep taylor": (jrlrp.deep_taylor(), [jrlrp.WSquare(), jrlrp.ZPlus(), jrlrp.WSquare(), jrlrp.ZPlus()]),
    "deep taylor, bounded": (
        jrlrp.deep_taylor(0.0, 1.0),
        [jrlrp.ZBox(0.0, 1.0), jrlrp.ZPlus(), jrlrp.ZBox(0.0, 1.0), jrlrp.ZPlus()],
    ),
    "attn": (jrlrp.attn_lrp(), [jrlrp.Epsilon()] * 4),
    "cp": (jrlrp.cp_lrp(), [jrlrp.Epsilon()] * 4),
}


@pytest.mark.parametrize("preset", PLACED)
def test_presets_give_each_layer_of_each_branch_its_rule(preset):
    composite, expected = PLACED[preset]
    x, y = jnp.ones((2, 3, 3, 1)), jnp.ones((2, 4))
    nodes = jrlrp.plan(two_inputs, x, y, argnums=(0, 1), rules=composite).nodes
    assert [node.rule for node in nodes if node.kind in ("conv", "dense")] == expected
    rx, ry = jax.jit(jrlrp.relevance(two_inputs, (0, 1), rules=composite))(x, y)
    assert np.isfinite(rx).all() and np.isfinite(ry).all() and np.any(rx) and np.any(ry)


def test_a_last_convolution_keeps_evidence_against_its_classes():
    k, dims = np.random.default_rng(4).normal(size=(2, 3, 3, 6, 6)), ("NHWC", "HWIO", "NHWC")
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=dims)
    net = lambda x: jax.nn.relu(conv(jax.nn.relu(conv(x, k[0])), k[1])).mean((1, 2))
    x = jnp.asarray(np.random.default_rng(5).uniform(size=(1, 5, 5, 6)))
    nodes = jrlrp.plan(net, x, rules=jrlrp.relative_plus()).nodes
    assert [node.rule for node in nodes if node.kind == "conv"] == [jrlrp.RelativePlus(), jrlrp.Relative()]
    r = jrlrp.relevance(net, rules=jrlrp.relative_plus())(x)
    assert r.min() < -0.01 * r.max() < 0
    all_plus = jrlrp.Composite([(jrlrp.match("conv"), jrlrp.RelativePlus())], base=jrlrp.relative())
    r = jrlrp.relevance(net, rules=all_plus)(x)
    assert r.min() > -1e-12 * r.max()


def test_normalisation_before_the_first_layer_passes_its_relevance_on():
    x, w = jnp.asarray(np.random.default_rng(2).uniform(size=(2, 4))), np.random.default_rng(3).normal(size=(4, 3))
    net = lambda x: jax.nn.relu(x @ w) @ np.ones((3, 2))
    for rules in (jrlrp.epsilon_plus_flat(), jrlrp.deep_taylor(), jrlrp.epsilon_gamma_box(-1.0, 1.0)):
        inside = jrlrp.relevance(lambda x: net((x - 0.5) / 0.5), rules=rules)(x)
        np.testing.assert_allclose(inside, jrlrp.relevance(net, rules=rules)(2 * x - 1), rtol=1e-9)


def test_gradient_times_input_takes_no_entries():
    with pytest.raises(jrlrp.ArgumentError, match="beside gradient × input"):
        Composite([(match("dense"), jrlrp.ZPlus())], base=jrlrp.gradient_times_input())


def test_a_plan_shows_what_does_not_fit():
    plan = jrlrp.plan(net, X, rules=Composite([]))
    assert "3 without a fitting rule" in str(plan) and "no entry fits" in str(plan)
    plan = jrlrp.plan(net, X, rules=jrlrp.ZBox(np.zeros(7), 1.0))
    assert [node.fault is not None for node in plan.nodes if node.kind == "dense"] == [True] * 3


def test_gamma_is_for_hidden_convolutions():
    w = np.ones((2, 2, 1, 1))
    conv = lambda x: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    nodes = jrlrp.plan(
        lambda x: conv(jax.nn.relu(conv(x))), jnp.ones((1, 3, 3, 1)), rules=jrlrp.epsilon_gamma_box(0, 1)
    )
    assert [node.rule for node in nodes.nodes if node.kind == "conv"] == [jrlrp.ZBox(0, 1), jrlrp.Gamma(0.25)]


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
    others = {"dense": relative, "scale": jrlrp.Pass(), "average_pool": relative, "sum": jrlrp.ShareAbsolute()}
    assert of(jrlrp.relative()) == {"conv": relative, **others}
    assert of(None) == {"conv": jrlrp.RelativePlus(), **others}


def test_printing():
    composite = Composite([(match("conv", "*/Block_*", first=True), jrlrp.Epsilon(0.1))], base=jrlrp.epsilon_plus())
    assert (
        repr(jrlrp.Epsilon()) == "Epsilon()" and repr(jrlrp.AlphaBeta(1.5, -0.5)) == "AlphaBeta(alpha=1.5, beta=-0.5)"
    )
    lines = repr(composite).splitlines()
    assert lines[0] == "Composite(" and lines[-1] == ")"
    assert lines[-2].split("⇒")[0].strip() == "conv, */Block_*, first"
    assert lines[-2].endswith("⇒  Epsilon(epsilon=0.1)")
