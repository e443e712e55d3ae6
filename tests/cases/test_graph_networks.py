"""Attention over the edges of graphs, its softmax by segments: one graph, and several under vmap, get the same maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stabilisers import refined

import jrlrp

RNG = np.random.default_rng(0)
W, V = RNG.normal(size=(4, 4)), RNG.normal(size=(4, 3))
X = jnp.asarray(RNG.normal(size=(3, 5, 4)))
SOURCES, TARGETS = (jnp.asarray(RNG.integers(0, n, size=(3, 7))) for n in (5, 3))


def exponentials(e, targets):
    return jnp.exp(e - jax.lax.stop_gradient(jax.ops.segment_max(e, targets, 3))[targets])


def total(p, targets):
    return jax.ops.segment_sum(p, targets, 3)


def divided_first(x, sources, targets):
    h = x @ W
    p = exponentials(jax.nn.leaky_relu(h.sum(-1)[sources] + h[:, 0][targets]), targets)
    return total((p / total(p, targets)[targets])[:, None] * h[sources], targets).sum(0) @ V


def divided_last(x, sources, targets, added=1e-16):
    h = x @ W
    p = exponentials(jax.nn.leaky_relu(h.sum(-1)[sources] + h[:, 0][targets]), targets)
    return (total(p[:, None] * h[sources], targets) / (total(p, targets)[:, None] + added)).sum(0) @ V


def of_features(x, sources, targets):
    h = (x @ W)[sources]
    p = exponentials(h, targets)
    return total(p / total(p, targets)[targets] * h, targets).sum(0) @ V


NETS = {"divided first": divided_first, "divided last": divided_last, "of features": of_features}
RULES = {
    "epsilon": refined(jrlrp.epsilon()),
    "default": None,
    "attn_lrp": jrlrp.attn_lrp(),
    "gradient × input": jrlrp.gradient_times_input(),
}


@pytest.mark.filterwarnings("ignore:it is not known whether examples stay apart:jrlrp.JrlrpWarning")
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", NETS)
def test_maps_of_several_graphs_are_those_of_each(name, rules):
    net, chosen = NETS[name], RULES[rules]
    wanted = jax.vmap(jrlrp.relevance(net, rules=chosen))(X, SOURCES, TARGETS)
    together = jax.jit(jrlrp.relevance(jax.vmap(net), rules=chosen))(X, SOURCES, TARGETS)
    np.testing.assert_allclose(together, wanted, atol=1e-8 * np.abs(wanted).max())
    same = lambda x: net(x, SOURCES[0], TARGETS[0])
    wanted = jax.vmap(jrlrp.relevance(same, rules=chosen))(X)
    together = jrlrp.relevance(jax.vmap(same), rules=chosen)(X)
    np.testing.assert_allclose(together, wanted, atol=1e-8 * np.abs(wanted).max())


@pytest.mark.parametrize("name", NETS)
def test_the_softmax_is_one(name):
    for f, x in ((NETS[name], X[0]), (jax.vmap(NETS[name]), X)):
        own = (SOURCES[0], TARGETS[0]) if x.ndim == 2 else (SOURCES, TARGETS)
        assert [node.kind for node in jrlrp.plan(f, x, *own).nodes].count("softmax") == 1


@pytest.mark.parametrize("rules", RULES)
def test_where_it_is_divided_makes_no_difference(rules):
    explain = lambda net: jrlrp.relevance(net, rules=RULES[rules])(X[0], SOURCES[0], TARGETS[0])
    wanted = explain(divided_first)
    np.testing.assert_allclose(explain(divided_last), wanted, atol=1e-6 * np.abs(wanted).max())
