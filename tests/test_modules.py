"""Modules of NNX and Equinox: names of submodules, weights that change, what a module that changes itself is told."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jrlrp
from jrlrp.modules import _PATHS


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.hidden = nnx.LayerNorm(4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return x + jax.nn.relu(self.hidden(self.norm(x)))


class Net(nnx.Module):
    def __init__(self, rngs=None):
        rngs = rngs or nnx.Rngs(0)
        self.layers = nnx.List([Block(rngs) for _ in range(2)])
        self.parts = nnx.Dict(first=nnx.Linear(4, 4, rngs=rngs))
        self.rest = nnx.Sequential(jax.nn.relu, nnx.Linear(4, 3, rngs=rngs))

    def encode(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.parts["first"](x)

    def __call__(self, x):
        return self.rest(self.encode(x))


class Equinox(eqx.Module):
    blocks: list
    named: dict
    pair: tuple
    mlp: eqx.nn.MLP

    def __init__(self):
        keys = jax.random.split(jax.random.key(0), 5)
        self.blocks = [eqx.nn.Linear(4, 4, key=keys[0]), eqx.nn.LayerNorm(4)]
        self.named = {"a": eqx.nn.Linear(4, 4, key=keys[1])}
        self.pair = (jax.nn.relu, eqx.nn.Linear(4, 4, key=keys[2]))
        self.mlp = eqx.nn.MLP(4, 3, 5, 1, key=keys[3])

    def __call__(self, x):
        for layer in (*self.blocks, self.named["a"], *self.pair):
            x = layer(x)
        return self.mlp(x)


X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)), jnp.float32)
NNX_PATHS = [f"layers/{n}/{part}" for n in range(2) for part in ("norm", "hidden")] + ["parts/first", "rest/layers/1"]
EQUINOX_PATHS = ["blocks/0", "blocks/1", "named/a", "pair/1", "mlp/layers/0", "mlp/layers/1"]


def with_weights(plan):
    return [node.name for node in plan.nodes if node.kind in ("dense", "normalisation")]


def test_an_nnx_module_has_names_by_itself():
    assert with_weights(jrlrp.plan(Net(), X)) == NNX_PATHS


def test_names_are_given_once():
    assert with_weights(jrlrp.plan(jrlrp.named(Net()), X)) == NNX_PATHS
    assert with_weights(jrlrp.plan(jrlrp.named(jrlrp.named(Equinox())), X[0])) == EQUINOX_PATHS


def test_a_method_of_a_module_has_names_too():
    assert with_weights(jrlrp.plan(Net().encode, X)) == NNX_PATHS[:-1]


def test_an_equinox_module_has_names_by_itself_and_named_gives_them_to_vmap():
    net = Equinox()
    assert with_weights(jrlrp.plan(net, X[0])) == EQUINOX_PATHS
    assert with_weights(jrlrp.plan(jax.vmap(jrlrp.named(net)), X)) == EQUINOX_PATHS


@pytest.mark.parametrize("net", [Net(), jax.vmap(Equinox())], ids=["nnx", "equinox"])
def test_names_change_no_map(net):
    plain = (lambda x: nnx.merge(*nnx.split(net))(x)) if isinstance(net, Net) else net
    np.testing.assert_array_equal(jrlrp.relevance(net)(X), jrlrp.relevance(plain)(X))


def test_capture_conditions_and_composites_take_the_names():
    net = Net()
    _, captured = jrlrp.relevance(net, capture="layers/*/hidden")(X)
    assert list(captured) == ["layers/0/hidden", "layers/1/hidden"]
    parts = [
        jrlrp.relevance(net, rules=jrlrp.epsilon(), conditions={"parts/first": jnp.arange(4) == k})(X) for k in range(4)
    ]
    np.testing.assert_allclose(sum(parts), jrlrp.relevance(net, rules=jrlrp.epsilon())(X), rtol=1e-4, atol=1e-6)
    rules = jrlrp.Composite([(jrlrp.match(path="parts/*"), jrlrp.ZPlus())], jrlrp.epsilon())
    assert not np.allclose(jrlrp.relevance(net, rules=rules)(X), jrlrp.relevance(net, rules=jrlrp.epsilon())(X))


def test_a_module_that_lies_in_two_places_has_the_first_ones_name():
    class Tied(nnx.Module):
        def __init__(self):
            self.a = self.b = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.b(jax.nn.relu(self.a(x)))

    assert with_weights(jrlrp.plan(Tied(), X)) == ["a:dense#0", "a:dense#1"]


def test_modules_that_know_each_other_are_walked_through_once():
    class Child(nnx.Module):
        def __init__(self, parent):
            self.parent, self.own = parent, nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.own(x)

    class Parent(nnx.Module):
        def __init__(self):
            self.child = Child(self)

        def __call__(self, x):
            return self.child(x)

    assert with_weights(jrlrp.plan(Parent(), X)) == ["child/own"]


def test_state_of_equinox_is_found():
    class Normed(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm

        def __init__(self):
            self.conv = eqx.nn.Conv2d(1, 3, 3, key=jax.random.key(0))
            self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="batch")

        def __call__(self, x, state):
            x, state = self.norm(self.conv(x), state)
            return jax.nn.relu(x).sum((1, 2)), state

    net, state = eqx.nn.make_with_state(Normed)()
    net = jax.vmap(jrlrp.named(eqx.nn.inference_mode(net)), axis_name="batch", in_axes=(0, None))
    x = jnp.ones((2, 1, 6, 6))
    names = [node.name for node in jrlrp.plan(lambda x: net(x, state)[0], x).nodes]
    assert [name for name in names if name] == ["conv", "activation", "average_pool"]  # the norm is part of it


def test_nothing_is_left_behind():
    jrlrp.relevance(Net())(X)
    import gc

    gc.collect()
    before = len(_PATHS)
    for _ in range(3):
        jrlrp.relevance(Net())(X)
    gc.collect()
    assert len(_PATHS) <= before


def doubled(net):
    net.parts["first"].kernel[...] = 2 * net.parts["first"].kernel[...]


def test_weights_that_change_are_seen():
    net = Net()
    explain = jrlrp.relevance(net)
    before, by_batches = explain(X), jrlrp.in_batches(explain, X)
    doubled(net)
    expected = jrlrp.relevance(lambda x: nnx.merge(*nnx.split(net))(x))(X)
    assert not np.allclose(before, expected)
    np.testing.assert_allclose(explain(X), expected, rtol=1e-5)
    np.testing.assert_allclose(jrlrp.in_batches(explain, X), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_batches, before, rtol=1e-4, atol=1e-6)


def test_a_module_that_is_an_argument_of_jit_has_its_weights_of_that_call():
    net, explain = Net(), jax.jit(lambda net, x: jrlrp.relevance(net)(x))
    before = explain(net, X)
    doubled(net)
    assert explain._cache_size() == 1
    assert not np.allclose(explain(net, X), before)
    np.testing.assert_allclose(explain(net, X), jrlrp.relevance(net)(X), rtol=1e-4, atol=1e-6)


def test_weights_that_become_constants_are_warned_of():
    net = Net()
    with pytest.warns(jrlrp.JrlrpWarning, match=r"weights of Net become constants.*lambda model, x: jrlrp.relevance"):
        jax.jit(jrlrp.relevance(net))(X)
    with pytest.warns(jrlrp.JrlrpWarning, match="weights of Net"):
        jax.jit(jrlrp.relevance(net.encode))(X)


def test_references_to_weights_are_seen_through_jit():
    with nnx.var_defaults(ref=True):
        net = Net()
    explain = jax.jit(jrlrp.relevance(net))
    before = explain(X)
    doubled(net)
    assert not np.allclose(explain(X), before)
    np.testing.assert_allclose(explain(X), jrlrp.relevance(net)(X), rtol=1e-4, atol=1e-6)


def test_a_module_that_changes_itself_is_told_the_way_out():
    net = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1)))
    with pytest.raises(Exception, match="trace level") as caught:
        jrlrp.relevance(net)(X)
    assert any("model.eval()" in note and "copy=True" in note for note in caught.value.__notes__)
    assert np.isfinite(jrlrp.relevance(lambda x: nnx.merge(*nnx.split(net), copy=True)(x))(X)).all()
    net.eval()
    assert np.isfinite(jrlrp.relevance(net)(X)).all()


def test_a_random_key_may_be_closed_over():
    key, w = jax.random.key(3), jnp.ones((4, 3))
    dropped = lambda x: jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * x, 0) @ w
    r = jrlrp.relevance(dropped, rules=jrlrp.epsilon())(X)
    np.testing.assert_allclose(r.sum(-1), dropped(X).max(-1), rtol=1e-5)


def test_booleans_and_keys_are_left_out():
    tree = {"x": X[0], "mask": jnp.array([True, False, True, True]), "key": jax.random.key(0)}
    score = lambda d: jnp.where(d["mask"], d["x"] + 0 * jax.random.normal(d["key"], (4,)), 0).sum()
    for explain in (jrlrp.relevance(score), jax.jit(jrlrp.relevance(score))):
        r = explain(tree)
        assert r["mask"] is None and r["key"] is None
        np.testing.assert_allclose(r["x"], X[0] * tree["mask"], rtol=1e-6)
    (r,) = jrlrp.pullback(score, tree)[1](jnp.float32(1))
    assert r["mask"] is None and r["x"].shape == (4,)


def test_named_takes_modules_alone():
    with pytest.raises(jrlrp.ArgumentError, match="expected a module of Flax NNX, Equinox or PyTorch"):
        jrlrp.named(lambda x: x)
