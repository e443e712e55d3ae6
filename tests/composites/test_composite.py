"""Which rule a node gets, and how composites print."""

import re
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import Composite, match
from jrlrp.composites.composite import without_effect
from jrlrp.transform import options, trace_function

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
    "attn": (jrlrp.attn_lrp(), [jrlrp.Epsilon(0.0)] * 4),
    "cp": (jrlrp.cp_lrp(), [jrlrp.Epsilon(0.0)] * 4),
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
    lower = lambda x: jax.nn.relu(jax.nn.relu(x @ W) @ W)
    below = jrlrp.relevance(lower, rules=jrlrp.relative(), target=lambda out: top)(X)
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
    assert of(jrlrp.relative_plus()) == {"conv": jrlrp.RelativePlus(), **others}
    zero = jrlrp.Epsilon(0.0)
    others = {"scale": zero, "average_pool": zero, "sum": jrlrp.ShareRatio(0.0)}
    assert of(None) == {"conv": jrlrp.RelativePlus(), "dense": relative, **others}


def test_printing():
    composite = Composite([(match("conv", "*/Block_*", first=True), jrlrp.Epsilon(0.1))], base=jrlrp.epsilon_plus())
    assert (
        repr(jrlrp.Epsilon()) == "Epsilon()" and repr(jrlrp.AlphaBeta(1.5, -0.5)) == "AlphaBeta(alpha=1.5, beta=-0.5)"
    )
    lines = repr(composite).splitlines()
    assert lines[0] == "Composite(" and lines[-1] == ")"
    assert lines[-2].split("⇒")[0].strip() == "conv, */Block_*, first"
    assert lines[-2].endswith("⇒  Epsilon(epsilon=0.1)")


RULE, BASE = jrlrp.ZPlus(), jrlrp.epsilon()
IDLE = {  # entries of a user's own, and what is said of those that are in vain
    "a typo": ([(match(path="*/Blok_*"), RULE)], [r"\*/Blok_\*  ⇒  ZPlus\(\): matches no node"]),
    "a kind that is not there": ([(match("conv"), RULE)], [r"conv  ⇒  ZPlus\(\): matches no node"]),
    "a kind that the rule does not serve": (
        [(match("activation"), RULE)],
        [r"activation  ⇒  ZPlus\(\): matches only nodes of kind activation, and ZPlus serves conv, dense, linear"],
    ),
    "overridden": (
        [(match(path="*/Head"), RULE), (match("dense"), jrlrp.Zero())],
        [r"\*/Head  ⇒  ZPlus\(\): later entries match all of its nodes"],
    ),
    "overridden by several": (
        [(match("dense"), RULE), (match(last=False), jrlrp.Zero()), (match(last=True), jrlrp.Epsilon())],
        [r"dense  ⇒  ZPlus\(\): later entries"],
    ),
    "overridden by an optional one": (
        [(match("dense"), RULE), (match("affine", optional=True), jrlrp.Zero())],
        [r"dense  ⇒  ZPlus\(\): later entries"],
    ),
    "a predicate": ([(lambda node: node.path == "Net", RULE)], [r"<lambda>  ⇒  ZPlus\(\): matches no node"]),
    "a predicate without a value": ([(match(where=lambda node: None), RULE)], ["matches no node"]),
    "several": ([(match("conv"), RULE), (match("softmax"), jrlrp.Block())], ["2 entries of", "conv  ⇒", "softmax  ⇒"]),
}


@pytest.mark.parametrize("case", IDLE)
def test_an_entry_in_vain_is_an_error_before_anything_runs(case):
    entries, said = IDLE[case]

    def loud(x):
        jax.debug.callback(lambda x: pytest.fail("the function ran"), x)
        return net(x)

    for call in (
        lambda f, rules: jrlrp.relevance(f, rules=rules)(X),
        lambda f, rules: jax.jit(jax.vmap(jrlrp.relevance(f, rules=rules)))(X),
        lambda f, rules: jrlrp.pullback(f, X, rules=rules),
        lambda f, rules: jrlrp.audit(f, X, rules=rules),
    ):
        with pytest.raises(jrlrp.RuleError) as caught:
            call(loud, Composite(entries, base=BASE))
        for part in (*said, r"plan\(\) prints the nodes; some are: Net/Block_0", r"optional=True\) allows"):
            assert re.search(part, str(caught.value))
    idle = effects(Composite(entries, base=BASE))
    assert len(idle) == len(said[1:] or said) and all(re.search(part, "\n".join(idle)) for part in said[-len(idle) :])


def effects(composite):
    """Return what is said of a composite's entries for the network of this file."""
    chosen = options(net, composite)
    return without_effect(composite, trace_function(net, (X,), {}, chosen).graph.nodes)


def test_entries_of_a_base_and_optional_ones_may_be_in_vain():
    idle = (match("conv"), RULE)
    expected = jrlrp.relevance(net, rules=BASE)(X)
    for rules in (
        Composite([(match("conv", optional=True), RULE)], base=BASE),
        Composite([(match(path="Nut", optional=True), RULE)], base=BASE),
        Composite([], base=Composite([idle], base=BASE)),
        Composite([(match("dense"), jrlrp.Epsilon())], base=Composite([idle], base=BASE)),
        Composite(BASE.entries),
        Composite([(match("dense", optional=True), RULE), (match("dense"), jrlrp.Epsilon())], base=BASE),
    ):
        assert effects(rules) == []
        np.testing.assert_allclose(jrlrp.relevance(net, rules=rules)(X), expected)
    with pytest.raises(jrlrp.RuleError, match="1 entry of the composite has no effect"):
        jrlrp.relevance(net, rules=Composite([idle], base=BASE))(X)


@pytest.mark.parametrize("preset", [*PLACED, "gradient"])
def test_no_preset_has_to_have_an_effect(preset):
    composite = jrlrp.gradient_times_input() if preset == "gradient" else PLACED[preset][0]
    for f in (lambda x: x, jnp.tanh, lambda x: jax.nn.softmax(x) * x):
        assert np.isfinite(jrlrp.relevance(f, rules=composite)(X)).all()


def test_one_rule_for_all_affine_layers_need_not_find_one():
    for rule in (jrlrp.Epsilon(0.1), RULE, jrlrp.Relative()):
        np.testing.assert_allclose(jrlrp.relevance(jnp.tanh, rules=rule, target="all")(X), np.tanh(X))
    # Zero says of all else that it has no stabiliser.
    np.testing.assert_allclose(jrlrp.relevance(lambda x: x + x**2, rules=jrlrp.Zero(), target="all")(X), X + X**2)


def test_faults_and_entries_in_vain_are_told_together():
    with pytest.raises(jrlrp.RuleError) as caught:
        jrlrp.relevance(net, rules=Composite([(match(path="Hed"), RULE)]))(X)
    assert "no rule for 3 node(s)" in str(caught.value) and "Hed  ⇒  ZPlus(): matches no node" in str(caught.value)


def test_what_has_a_rule_of_its_own_takes_no_other():
    f = jrlrp.custom_relevance(net).defrule(lambda inputs, output, relevance: (inputs[0],))
    np.testing.assert_allclose(jrlrp.relevance(f)(X), X)
    with pytest.raises(jrlrp.RuleError, match=r"custom  ⇒  Pass\(\): all that it matches has rules of its own"):
        jrlrp.relevance(f, rules=Composite([(match("custom"), jrlrp.Pass())]))(X)


@dataclass(frozen=True)
class Named:
    """What a matcher asks of a node."""

    path: str = ""
    name: str = ""
    kind: str = "dense"
    first: bool = False
    last: bool = False


@pytest.mark.parametrize(
    ("path", "node", "found"),
    [
        ("dense#1", Named("", "dense#1"), True),
        ("dense#1", Named("", "dense#10"), False),
        ("dense#*", Named("", "dense#10"), True),
        ("Net:dense#0", Named("Net", "Net:dense#0"), True),
        ("Net", Named("Net", "Net:dense#0"), True),
        ("layers[0]/Dense", Named("layers[0]/Dense", "layers[0]/Dense"), True),
        ("layers[0]:dense#0", Named("layers[0]", "layers[0]:dense#0"), True),
        ("layers[0]*", Named("layers0", "layers0"), True),
        ("*/Dense", Named("layers[0]/Dense", ""), True),
        ("dense", Named("Net", ""), False),
        ("", Named("Net", ""), False),
        ("", Named("", "dense#0"), True),
    ],
)
def test_a_path_is_a_module_path_a_name_or_a_glob_of_either(path, node, found):
    assert match(path=path)(node) is found


def test_predicates_that_cannot_be_told():
    explain = lambda *entries: jrlrp.relevance(net, rules=Composite(list(entries), base=BASE))(X)
    place = r"for the dense dot_general in Net/Block_0, at .*test_composite.py"
    with pytest.raises(jrlrp.ArgumentError, match="raised IndexError: .*index out of range, " + place):
        explain((match("dense", where=lambda node: node.shape[3] > 2), RULE))
    with pytest.raises(jrlrp.ArgumentError, match=r"returned an array of shape \(2,\) " + place):
        explain((lambda node: np.asarray(node.shape) > 2, RULE))
    everywhere = explain((match("dense", where=lambda node: np.bool_(True)), jrlrp.Epsilon(0.1)))
    np.testing.assert_allclose(everywhere, jrlrp.relevance(net, rules=jrlrp.Epsilon(0.1))(X))
    # A later entry has taken what the predicate was not written for.
    later = [(lambda node: node.shape[3] > 2, RULE), (match(("dense", "activation")), jrlrp.Block())]
    with pytest.raises(jrlrp.RuleError, match=r"<lambda>  ⇒  ZPlus\(\): matches no node"):
        explain(*later)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: match(()), jrlrp.ArgumentError, r"match\(kind=\(\)\): expected one of conv"),
        (lambda: match([["conv"]]), jrlrp.ArgumentError, r"match\(kind=\['conv'\]\): expected one of conv"),
        (lambda: match(path=Path("Net")), jrlrp.ArgumentError, "expected str or None"),
        (lambda: match(optional=1), jrlrp.ArgumentError, "expected True or False"),
        (lambda: Composite([(match, RULE)]), jrlrp.ArgumentError, r"call match\(...\)"),
        (lambda: Composite([(match("dense"), jrlrp.ZPlus)]), jrlrp.ArgumentError, r"call ZPlus\(...\)"),
        (lambda: Composite([(RULE, match("dense"))]), jrlrp.ArgumentError, r"expected a pair \(match"),
        (
            lambda: jrlrp.relevance(net, rules=[(match("dense"), RULE)]),
            jrlrp.ArgumentError,
            r"write Composite\(\[...\], base=...\)",
        ),
    ],
)
def test_wrong_entries(call, error, message):
    with pytest.raises(error, match=message):
        call()
