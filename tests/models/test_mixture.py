"""A mixture of experts with a router by top_k, in the ways that people write it: the same relevance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp

TOKENS, WIDTH, HIDDEN, EXPERTS, CHOSEN = 5, 6, 8, 4, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(TOKENS, WIDTH))
ROUTER = RNG.normal(size=(WIDTH, EXPERTS))
UP, DOWN = RNG.normal(size=(EXPERTS, WIDTH, HIDDEN)), RNG.normal(size=(EXPERTS, HIDDEN, WIDTH))


def route(x):
    weights, chosen = jax.lax.top_k(jax.nn.softmax(x @ ROUTER), CHOSEN)
    return weights, chosen


def all_experts(x):
    return jnp.einsum("teh,ehd->ted", jax.nn.gelu(jnp.einsum("td,edh->teh", x, UP)), DOWN)


def by_one_hot(x):
    weights, chosen = route(x)
    gates = (jax.nn.one_hot(chosen, EXPERTS) * weights[..., None]).sum(1)
    return x + jnp.einsum("te,ted->td", gates, all_experts(x))


def by_scatter(x):
    weights, chosen = route(x)
    gates = jnp.zeros((TOKENS, EXPERTS)).at[jnp.arange(TOKENS)[:, None], chosen].set(weights)
    return x + (gates[..., None] * all_experts(x)).sum(1)


def by_picking_outputs(x):
    weights, chosen = route(x)
    return x + (jnp.take_along_axis(all_experts(x), chosen[..., None], 1) * weights[..., None]).sum(1)


def by_picking_parameters(x):
    weights, chosen = route(x)
    h = jax.nn.gelu(jnp.einsum("td,tkdh->tkh", x, jnp.asarray(UP)[chosen]))
    return x + (weights[..., None] * jnp.einsum("tkh,tkhd->tkd", h, jnp.asarray(DOWN)[chosen])).sum(1)


def by_branches(x):
    def expert(e, x):
        return jax.nn.gelu(x @ UP[e]) @ DOWN[e]

    def token(slices):
        x, weights, chosen = slices
        branches = [functools.partial(expert, e) for e in range(EXPERTS)]
        return sum(weights[k] * jax.lax.switch(chosen[k], branches, x) for k in range(CHOSEN))

    return x + jax.lax.map(token, (x, *route(x)))


SPELLINGS = [by_scatter, by_picking_outputs, by_picking_parameters, by_branches]
# That gates which are sums lie in [0, 1] is not known, so that they are no gates for SignalTakesAll.
CASES = [(f, rules) for f in (by_one_hot, *SPELLINGS) for rules in ("zero", "attn_lrp", "cp_lrp")]
CASES.remove((by_one_hot, "zero"))


def without_stabilisers(base, product):
    zero = jrlrp.Zero()
    linear = jrlrp.match(("affine", "average_pool", "normalisation"))
    entries = [(linear, zero), (jrlrp.match("sum"), jrlrp.ShareRatio(0.0)), (jrlrp.match("product"), product(zero))]
    return jrlrp.Composite(entries, base=base)


RULES = {
    "zero": jrlrp.Zero(),
    "attn_lrp": without_stabilisers(jrlrp.attn_lrp(), jrlrp.Uniform),
    "cp_lrp": without_stabilisers(jrlrp.cp_lrp(), jrlrp.ValuesOnly),
}


@pytest.mark.parametrize(("f", "rules"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_experts_share_alike_in_any_spelling(f, rules):
    np.testing.assert_allclose(f(X), by_scatter(X))
    assert jrlrp.plan(f, X).unsupported == []
    expected = jrlrp.relevance(by_scatter, rules=RULES[rules], target="all")(X)
    actual = jax.jit(jrlrp.relevance(f, rules=RULES[rules], target="all"))(X)
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("f", SPELLINGS, ids=lambda f: f.__name__)
def test_the_router_is_a_gate_and_gets_nothing_from_r_lrp(f):
    from jrlrp.transform import options, trace_function

    graph = trace_function(f, (X,), {}, options(f)).graph
    products = [node for node in graph.nodes if node.kind == "product"]
    assert products and all(sum(node.gates) == 1 for node in products)
    router = next(node for node in jrlrp.plan(f, X).nodes if node.kind == "softmax")
    _, captured = jrlrp.relevance(f, rules=jrlrp.relative(), capture=router.name)(X)
    np.testing.assert_array_equal(captured[router.name], 0)
