"""Rules that users write: what is taken as it is meant, and what is said of the rest."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import Composite, LinearRule, Part, Portion, Rule, match

W, X = np.random.default_rng(0).normal(size=(4, 3)), np.random.default_rng(1).normal(size=(2, 4))


def net(x):
    return jax.nn.relu(x @ W) @ W.T


def explain(rule, f=net):
    return jrlrp.relevance(f, rules=Composite([(match("dense"), rule)], base=jrlrp.epsilon()))(X)


def linear(body, served=("dense",)):
    class Own(LinearRule):
        kinds = served

        def portions(self, layer, x, output):
            return body(layer, x, output)

    return Own()


def expected():
    return explain(jrlrp.Epsilon(0.1))


@pytest.mark.parametrize("kinds", [("dense",), ["dense", "conv"], {"dense"}, frozenset({"dense"}), "dense"])
def test_kinds_are_any_kinds(kinds):
    rule = linear(lambda layer, x, output: [Portion([Part(x)], output, 0.1)], kinds)
    assert "dense" in rule.kinds and isinstance(type(rule).kinds, frozenset)
    np.testing.assert_allclose(explain(rule), expected())


@pytest.mark.parametrize("kinds", [("dens",), (), 3, ("affine",), None, (1,)])
def test_kinds_that_do_not_exist_are_an_error(kinds):
    rule = linear(lambda layer, x, output: [Portion([Part(x)], output, 0.1)], kinds)
    for use in (lambda: Composite([(match("dense"), rule)]), lambda: jrlrp.relevance(net, rules=rule)):
        with pytest.raises(jrlrp.RuleError, match=r'Own.kinds is .*: expected .* frozenset\(\{"dense"\}\) say'):
            use()


def test_one_rule_may_have_a_tuple_of_kinds():
    rule = linear(lambda layer, x, output: [Portion([Part(x)], output, 0.1)], ("dense", "conv"))
    np.testing.assert_allclose(jrlrp.relevance(net, rules=rule)(X), expected())


def test_portions_may_be_written_loosely():
    for body in (
        lambda layer, x, output: [Portion([Part(x)], output, 0.1)],
        lambda layer, x, output: [Portion((Part(x) for _ in range(1)), output, 0.1)],
        lambda layer, x, output: iter((Portion([Part(x, factor=0.5)] * 2, output, np.float64(0.1)),)),
    ):
        np.testing.assert_allclose(explain(linear(body)), expected())
    halved = linear(lambda layer, x, output: [Portion([Part(x)], 2, 0.0)])
    z = X @ W
    r = np.where(z == z.max(1, keepdims=True), z, 0)
    np.testing.assert_allclose(explain(halved, lambda x: x @ W), X * (r @ W.T) / 2)


SOMETHING = "expected an array or a number"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda layer, x, o: None, r"Own.portions returned None; yield each Portion, or return a list"),
        (lambda layer, x, o: Portion([Part(x)], o, 0.1), r"Own.portions returned a Portion; yield each Portion"),
        (lambda layer, x, o: x, r"Own.portions gave an array of shape \(\d,\); expected a Portion"),
        (
            lambda layer, x, o: [Part(x)],
            r"Own.portions gave a Part; expected a Portion\(\[Part\(x\)\], total, epsilon\)",
        ),
        (lambda layer, x, o: [([Part(x)], o)], r"Own.portions gave a tuple; expected a Portion"),
        (lambda layer, x, o: [Portion(x, o, 0.1)], r"Portion got an array of shape \(\d,\) among its parts; .* Parts"),
        (lambda layer, x, o: [Portion([x], o, 0.1)], r"Portion got an array of shape \(2, \d\) among its parts"),
        (lambda layer, x, o: [Portion(None, o, 0.1)], "Portion got None among its parts"),
        (lambda layer, x, o: [Portion([Part(x)], None, 0.1)], f"Portion got None for its total; {SOMETHING}"),
        (lambda layer, x, o: [Portion([Part(x)], o, "tiny")], f"Portion got a str for its epsilon; {SOMETHING}"),
        (lambda layer, x, o: [Portion([Part(x)], o, 0.1, [1])], "Portion got a list for its bias; .*, or None"),
        (lambda layer, x, o: [Portion([Part(x)], o, 0.1, None, None)], f"Portion got None for its factor; {SOMETHING}"),
        (lambda layer, x, o: [Portion([Part(None)], o, 0.1)], f"Part got None for its value; {SOMETHING}"),
        (lambda layer, x, o: [Portion([Part(x, "w")], o, 0.1)], "Part got a str for its weight"),
        (
            lambda layer, x, o: [Portion([Part(x)], o[:, :2], 0.1)],
            r"the total of a Portion has shape \(2, 2\); .* output",
        ),
        (lambda layer, x, o: [Portion([Part(x)], o, np.ones(7))], r"the epsilon of a Portion has shape \(7,\)"),
        (lambda layer, x, o: [Portion([Part(x)], o, 0.1, np.ones(7))], r"the bias of a Portion has shape \(7,\)"),
        (lambda layer, x, o: [Portion([Part(x)], o, 0.1, factor=np.ones(7))], r"the factor of a Portion has shape"),
        (lambda layer, x, o: [Portion([Part(x.T)], o, 0.1)], r"the value of a Part has shape .*; .* input, \(2, "),
        (lambda layer, x, o: [Portion([Part(x, factor=x.T)], o, 0.1)], r"the factor of a Part has shape"),
        (lambda layer, x, o: [Portion([Part(x, layer.weight[:2])], o, 0.1)], r"the weight of a Part .* weights', \("),
    ],
)
def test_portions_that_are_none_are_an_error(body, said):
    with pytest.raises(jrlrp.RuleError, match=said):
        explain(linear(body))


def test_a_map_without_weights_takes_none():
    class Own(LinearRule):
        def portions(self, layer, x, output):
            yield Portion([Part(x, jnp.ones(()))], output, 0.1)

    norm = lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    rules = Composite([(match("normalisation"), Own())], base=jrlrp.epsilon())
    with pytest.raises(jrlrp.RuleError, match="expected none, as the layer has no weights"):
        jrlrp.relevance(lambda x: norm(x) @ W, rules=rules)(X)


class Kept(LinearRule):
    """A rule that is no dataclass and keeps its parameter by itself."""

    def __init__(self, epsilon):
        self.epsilon = epsilon

    def portions(self, layer, x, output):
        yield Portion([Part(x)], output, self.epsilon)


class Undecorated(LinearRule):
    epsilon: Any = 0.1

    def portions(self, layer, x, output):
        yield Portion([Part(x)], output, self.epsilon)


@dataclass(frozen=True, repr=False)
class Decorated(Undecorated):
    epsilon: Any = 0.2


def test_a_rule_that_is_no_dataclass_serves():
    np.testing.assert_allclose(explain(Kept(0.1)), expected())
    np.testing.assert_allclose(explain(Undecorated()), expected())
    np.testing.assert_allclose(explain(Decorated(epsilon=0.1)), expected())
    stacked = jax.vmap(lambda e: explain(Kept(e)))(jnp.asarray([0.1, 0.3]))
    np.testing.assert_allclose(stacked, [expected(), explain(jrlrp.Epsilon(0.3))])
    through_a_scan = lambda x: jax.lax.scan(lambda c, _: (jnp.tanh(c @ W @ W.T), None), x, None, 2)[0]
    turned = jax.jit(lambda e: explain(Kept(e), through_a_scan))(0.1)
    np.testing.assert_allclose(turned, explain(jrlrp.Epsilon(0.1), through_a_scan))


def test_parameters_without_fields_say_what_to_write():
    for make in (lambda: Undecorated(epsilon=0.2), lambda: Undecorated(0.2)):
        with pytest.raises(
            jrlrp.RuleError, match=r"Undecorated: .* write @dataclass\(frozen=True, .*class Undecorated"
        ):
            make()


def test_a_rule_has_to_say_what_it_does():
    with pytest.raises(jrlrp.RuleError, match=r"Empty defines no portions\(layer, x, output\)"):
        explain(type("Empty", (LinearRule,), {})())
    with pytest.raises(jrlrp.RuleError, match=r"Empty defines no __call__\(layer, inputs, output, relevance\)"):
        explain(type("Empty", (Rule,), {"kinds": ("dense",)})())


def test_the_linear_rule_of_a_product_returns_a_tuple():
    class Bare(LinearRule):
        def __call__(self, layer, inputs, output, relevance):
            return inputs[0]

    rules = Composite([(match("product"), jrlrp.Uniform(Bare()))], base=jrlrp.epsilon())
    with pytest.raises(jrlrp.RuleError, match=r"Bare\(\) returned an array of shape \(2, 4\); expected a tuple"):
        jrlrp.relevance(lambda x: x @ x.T, rules=rules)(X)
