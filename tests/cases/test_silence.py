"""CASES.md F and issue 13, item 5: what has no effect, or reaches no input, is said before anything runs."""

import warnings
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import match

RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(2, 4)), RNG.normal(size=(4, 3))


UNREACHED = {
    "stop_gradient": lambda x: jax.lax.stop_gradient(x) @ W,
    "not used": lambda x: jnp.ones((2, 4)) @ W,
    "cast to int8": lambda x: x.astype(jnp.int8).astype(float) @ W,
    "compared": lambda x: (x > 0).astype(float) @ W,
    "rounded": lambda x: jnp.asarray(x, int) * 1.0 @ W,
    "argmax": lambda x: jax.nn.one_hot(jnp.argmax(x, -1), 4, dtype=float) @ W,
    "floor": lambda x: jnp.floor(x).astype(int).astype(float) @ W,
    "stopped in a jit": jax.jit(lambda x: jax.lax.stop_gradient(x) @ W),
    "stopped in a scan": lambda x: jax.lax.scan(lambda c, t: (c + jax.lax.stop_gradient(t) @ W, None), jnp.ones(3), x)[
        0
    ],
    "stopped in a cond": lambda x: jax.lax.cond(True, *[lambda x: jax.lax.stop_gradient(x) @ W] * 2, x),
}


@pytest.mark.parametrize("rules", [None, jrlrp.epsilon()], ids=["default", "epsilon"])
@pytest.mark.parametrize("name", UNREACHED)
def test_no_input_that_can_be_reached_is_an_error(name, rules):
    with pytest.raises(jrlrp.JrlrpError):
        jax.eval_shape(jrlrp.relevance(UNREACHED[name], rules=rules), X)


def test_such_an_error_says_where_each_path_ends():
    def f(x):
        a = jax.lax.stop_gradient(x) @ W
        return a + (x > 0).astype(float) @ W

    with pytest.raises(jrlrp.JrlrpError, match=r"(?s)stop_gradient.*gt|gt.*stop_gradient") as caught:
        jrlrp.relevance(f)(X)
    assert "test_silence.py" in str(caught.value)


def test_a_blocked_path_is_no_way():
    """The whole of this network's relevance goes through a softmax, which R-LRP blocks."""
    constant = RNG.normal(size=(4, 3))
    f = lambda x: jnp.tanh(jax.nn.softmax(x) @ constant) @ np.eye(3)
    with pytest.raises(jrlrp.JrlrpError, match="softmax"):
        jrlrp.relevance(f, rules=jrlrp.relative())(X)
    assert np.abs(jrlrp.relevance(f)(X)).max() > 0
    rules = jrlrp.Composite([(match("dense"), jrlrp.Block())], base=jrlrp.epsilon())
    with pytest.raises(jrlrp.JrlrpError, match="dense"):
        jrlrp.relevance(lambda x: x @ W, rules=rules)(X)


PARTLY = {
    "not used": lambda x, y: x @ W,
    "stopped": lambda x, y: x @ W + jax.lax.stop_gradient(y) @ W,
    "compared": lambda x, y: jnp.where(y @ W > 0, x @ W, 0.0),
}


@pytest.mark.parametrize("name", PARTLY)
def test_an_input_that_cannot_be_reached_beside_one_that_can_is_named(name):
    f = PARTLY[name]
    with pytest.warns(jrlrp.JrlrpWarning, match=r"\by\b|1"):
        r, none = jrlrp.relevance(f, (0, 1))(X, X)
    np.testing.assert_array_equal(none, 0)
    assert np.abs(r).max() > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jrlrp.relevance(f)(X, X)  # of what can be reached
    with pytest.warns(jrlrp.JrlrpWarning, match="unused"):
        found = jrlrp.relevance(lambda d: d["used"] @ W)({"used": X, "unused": X})
    np.testing.assert_array_equal(found["unused"], 0)


@pytest.mark.parametrize("wrap", [lambda g: g, jax.jit, jax.vmap, lambda g: jax.jit(jax.vmap(g))], ids=range(4))
def test_a_warning_shows_the_user_s_line(wrap):
    explain = wrap(jrlrp.relevance(lambda d: d["used"] @ W))
    with pytest.warns(jrlrp.JrlrpWarning, match=r"\['a'\]\[1\].*\['b'\]") as caught:
        explain({"used": X, "a": [X, X], "b": X})
    assert [warning.filename for warning in caught] == [__file__]


def test_an_argument_without_leaves_reaches_all_that_it_has():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jrlrp.relevance(lambda d, x: x @ W)({}, X) == {}
        none, r = jrlrp.relevance(lambda d, x: x @ W, (0, 1))(None, X)
    assert none is None and np.abs(r).max() > 0


@pytest.mark.parametrize("rules", ["default", "gradient_times_input"])
def test_ids_that_cannot_be_reached_are_named(rules):
    rules = None if rules == "default" else jrlrp.gradient_times_input()
    ids = np.array([[0, 1], [2, 3]])
    with pytest.warns(jrlrp.JrlrpWarning, match="argument 1 "):
        r, none, _ = jrlrp.relevance(lambda i, j, x: jnp.eye(4)[i].mean(1) @ W + x @ W, (0, 1, 2), rules=rules)(
            ids, ids, X
        )
    assert np.abs(r).max() > 0 and none.shape == ids.shape
    np.testing.assert_array_equal(none, 0)
    with pytest.raises(jrlrp.UnreachedError, match="sort"):
        jrlrp.relevance(lambda i: (jnp.sort(i) > 1) @ np.ones((2, 3)), rules=rules)(ids)


@pytest.mark.parametrize("name", ["not used", "stopped"])
def test_a_plan_names_what_cannot_be_reached(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone, both = (str(jrlrp.plan(PARTLY[name], X, X, argnums=n)) for n in (0, (0, 1)))
    assert len(both.splitlines()) > len(alone.splitlines())


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Dense(4)(x))
        with jax.named_scope("dense"):
            x = jnp.tanh(x @ W)
        return nn.Dense(2)(x)


NET = Net()
PARAMETERS = NET.init(jax.random.key(0), X)
model = lambda x: NET.apply(PARAMETERS, x)

NO_EFFECT = {
    "a typo in a path": [(match(path="*/Dens_0"), jrlrp.ZPlus())],
    "a kind that is not there": [(match("conv"), jrlrp.ZPlus())],
    "a rule that serves no such node": [(match("activation"), jrlrp.ZPlus())],
    "a predicate that is never true": [(match(where=lambda node: node.shape == (99,)), jrlrp.ZPlus())],
    "first and last": [(match(first=True, last=True), jrlrp.ZPlus())],
    "wholly overridden": [(match("dense"), jrlrp.ZPlus()), (match("affine"), jrlrp.AlphaBeta())],
    "overridden one by one": [
        (match("dense", first=True), jrlrp.ZPlus()),
        (match(path="*Dense_0*"), jrlrp.AlphaBeta()),
    ],
    "a softmax rule": [(match("dense"), jrlrp.SoftmaxTaylor())],
    "of one of two": [(match("dense"), jrlrp.ZPlus()), (match("sum"), jrlrp.ShareEqual())],
}


@pytest.mark.parametrize("name", NO_EFFECT)
def test_an_entry_without_effect_is_an_error(name):
    entries = NO_EFFECT[name]
    rules = jrlrp.Composite(entries, base=jrlrp.epsilon())
    with pytest.raises(jrlrp.RuleError) as caught:
        jrlrp.relevance(model, rules=rules)(X)
    assert "optional" in str(caught.value)
    with pytest.raises(jrlrp.RuleError):
        jax.eval_shape(jrlrp.relevance(model, rules=rules), X)


def test_an_error_of_a_path_shows_what_there_is():
    rules = jrlrp.Composite([(match(path="*/Dens_0"), jrlrp.ZPlus())], base=jrlrp.epsilon())
    with pytest.raises(jrlrp.RuleError, match=r"(?s)Dens_0.*Dense_0"):
        jrlrp.relevance(model, rules=rules)(X)


def test_optional_entries_may_have_none():
    entries = [
        (match("conv", optional=True), jrlrp.ZPlus()),
        (match(path="*/Dens_0", optional=True), jrlrp.ZPlus()),
        (match("dense", optional=True), jrlrp.ZPlus()),
        (match("dense"), jrlrp.AlphaBeta()),
    ]
    found = jrlrp.relevance(model, rules=jrlrp.Composite(entries, base=jrlrp.epsilon()))(X)
    np.testing.assert_array_equal(found, jrlrp.relevance(model, rules=jrlrp.AlphaBeta())(X))


PRESETS = {
    name: getattr(jrlrp, name)()
    for name in (
        *("relative", "relative_plus", "epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1"),
        *("excitation_backprop", "deep_taylor", "attn_lrp", "cp_lrp", "gradient_times_input"),
    )
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_base_s_entries_may_have_none(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(jrlrp.relevance(model, rules=PRESETS[name])(X)).all()
        assert np.isfinite(jrlrp.relevance(jnp.tanh, rules=PRESETS[name])(X)).all()
        if name != "gradient_times_input":
            rules = jrlrp.Composite([(match("dense", first=True), jrlrp.WSquare())], base=PRESETS[name])
            assert np.isfinite(jrlrp.relevance(model, rules=rules)(X)).all()


def test_a_rule_for_all_layers_serves_what_has_none():
    np.testing.assert_allclose(jrlrp.relevance(jnp.tanh, rules=jrlrp.ZPlus(), target="all")(X), np.tanh(X))


def scoped(x):
    with jax.named_scope("dense"):
        x = x @ W
        x = jnp.tanh(x) @ W.T
    return x @ W


@pytest.mark.parametrize("f", [model, scoped], ids=["flax", "scopes"])
def test_a_path_takes_every_name_that_plan_prints(f):
    named = [node for node in jrlrp.plan(f, X).nodes if node.kind == "dense" and node.name]
    assert len({node.name for node in named}) == len(named) > 2
    for node in named:
        by_name = jrlrp.Composite([(match(path=node.name), jrlrp.ZPlus())], base=jrlrp.epsilon())
        chosen = [other.name for other in jrlrp.plan(f, X, rules=by_name).nodes if other.rule == jrlrp.ZPlus()]
        assert chosen == [node.name]
        by_where = [(match(where=lambda n, name=node.name: n.name == name), jrlrp.ZPlus())]
        where = jrlrp.relevance(f, rules=jrlrp.Composite(by_where, base=jrlrp.epsilon()))(X)
        np.testing.assert_array_equal(jrlrp.relevance(f, rules=by_name)(X), where)
        jrlrp.relevance(f, capture=(node.name,))(X)


def test_a_name_with_a_number_is_one_node_and_a_path_all_of_its_nodes():
    f = lambda x: (x @ W) @ W.T @ W
    names = [node.name for node in jrlrp.plan(f, X).nodes]
    assert "dense#0" in names or "dense#1" in names
    picked = next(name for name in names if "#" in name)
    rules = jrlrp.Composite([(match(path=picked), jrlrp.Flat())], base=jrlrp.epsilon())
    flat = [node.name for node in jrlrp.plan(f, X, rules=rules).nodes if node.rule == jrlrp.Flat()]
    assert flat == [picked]


def test_relevance_of_a_function_and_an_array_says_what_to_write():
    for wrong in (lambda: jrlrp.relevance(model, X), lambda: jrlrp.relevance(model, jnp.asarray(X))):
        with pytest.raises(jrlrp.JrlrpError, match=r"relevance\(.*\)\("):
            wrong()
    with pytest.raises(jrlrp.JrlrpError):
        jrlrp.value_and_relevance(model, X)


@dataclass(frozen=True, repr=False)
class Returns(jrlrp.LinearRule):
    """A rule whose portions are returned and not yielded."""

    what: str = "portion"

    def portions(self, layer, x, output):
        part = jrlrp.Part(x, layer.weight)
        return {"portion": jrlrp.Portion([part], output, 0.0), "part": part, "none": None}[self.what]


@dataclass(frozen=True, repr=False)
class YieldsParts(jrlrp.LinearRule):
    """A rule that yields a Part in place of a Portion."""

    def portions(self, layer, x, output):
        yield jrlrp.Part(x, layer.weight)


@dataclass(frozen=True, repr=False)
class PartsOutside(jrlrp.LinearRule):
    """A rule whose Portion has a Part and not a list of them."""

    def portions(self, layer, x, output):
        yield jrlrp.Portion(jrlrp.Part(x, layer.weight), output, 0.0)


@pytest.mark.parametrize(
    "rule", [Returns("portion"), Returns("part"), Returns("none"), YieldsParts(), PartsOutside()], ids=str
)
def test_portions_that_are_none_get_a_message(rule):
    with pytest.raises(jrlrp.JrlrpError, match=r"[Pp]ortion"):
        jrlrp.relevance(model, rules=jrlrp.Composite([(match("dense"), rule)], base=jrlrp.epsilon()))(X)


def test_kinds_that_are_a_tuple_get_a_message_or_work():
    @dataclass(frozen=True, repr=False)
    class Own(jrlrp.Rule):
        kinds = ("dense",)

        def __call__(self, layer, inputs, output, relevance):
            return tuple(jnp.zeros_like(x) + 1.0 for x in inputs)

    try:
        rules = jrlrp.Composite([(match("dense"), Own())], base=jrlrp.epsilon())
        r = jrlrp.relevance(lambda x: x @ W, rules=rules)(X)
    except jrlrp.JrlrpError as error:
        assert "kinds" in str(error)
    else:
        np.testing.assert_array_equal(r, 1)
    try:
        jrlrp.relevance(lambda x: x @ W, rules=Own())(X)
    except jrlrp.JrlrpError as error:
        assert str(error)


def test_an_audit_says_where_relevance_grows_a_thousandfold():
    cancels = np.array([[1.0, 1.0], [-1.0, 1.0]])
    x = np.array([[1.0, 1.0 - 1e-5]])
    f = lambda x: jnp.tanh(x @ cancels) @ np.array([[1e5], [0.0]])
    text = str(jrlrp.audit(f, x, rules=jrlrp.Zero()))
    name = jrlrp.plan(f, x).nodes[0].name
    calm = str(jrlrp.audit(f, np.array([[1.0, 0.5]]), rules=jrlrp.Zero()))
    added = [line for line in text.splitlines() if name in line]
    assert len(text.splitlines()) > len(calm.splitlines())
    assert len(added) > len([line for line in calm.splitlines() if name in line])


def test_a_warning_is_a_user_warning():
    assert issubclass(jrlrp.JrlrpWarning, UserWarning)
    assert "JrlrpWarning" in jrlrp.__all__
