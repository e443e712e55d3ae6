"""Maxima of values that XLA computes anew to compare them: whoever wins gets the relevance, compiled or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp

RNG = np.random.default_rng(0)
WEIGHTS, X = RNG.normal(size=(6, 5)), RNG.normal(size=(3, 4, 6))


def normed(x):
    h = jax.nn.silu(x)
    gain = jnp.linspace(0.8, 1.2, 6, dtype=x.dtype)
    return (h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + 1e-5) * gain


def scanned(x):
    turn = lambda c, k: (c + normed(x * k).max(1), None)
    return jax.lax.scan(turn, jnp.zeros_like(x[:, 0]), jnp.arange(1, 3, dtype=x.dtype))[0]


EXTREMES = {
    "max": lambda x: normed(x).max(1),
    "min": lambda x: normed(x).min(1),
    "axes": lambda x: (normed(x)[..., None] * WEIGHTS.astype(x.dtype)).max((1, 3)),
    "of two": lambda x: jnp.maximum(normed(x), jnp.tanh(x)).sum(1),
    "halves": lambda x: jnp.minimum(normed(x)[:, :2], normed(x)[:, 2:]).sum(1),
    "relu": lambda x: jnp.maximum(normed(x), 0).sum(1),
    "cummax": lambda x: jax.lax.cummax(normed(x), 1).sum(1),
    "vmap": jax.vmap(lambda x: normed(x[None])[0].max(0)),
    "scan": scanned,
}
RULES = {
    "epsilon": jrlrp.epsilon,
    "attn_lrp": jrlrp.attn_lrp,
    "relative": jrlrp.relative,
    "gradient × input": jrlrp.gradient_times_input,
}


@pytest.mark.parametrize(("rules", "dtype"), [*((rules, "float32") for rules in RULES), ("epsilon", "float64")])
@pytest.mark.parametrize("name", EXTREMES)
def test_compiled_maps_are_those_of_single_steps(name, rules, dtype):
    explain = jrlrp.relevance(lambda x: EXTREMES[name](x) @ WEIGHTS.astype(dtype), rules=RULES[rules]())
    x = jnp.asarray(X, dtype)
    wanted = np.asarray(explain(x))
    np.testing.assert_allclose(jax.jit(explain)(x), wanted, atol=3e3 * jnp.finfo(dtype).eps * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["max", "min", "maximum", "minimum"])
def test_equal_entries_share_as_in_the_derivative(name):
    of_two = lambda x: getattr(jnp, name)(x[:, 0], x[:, 1])
    f = (lambda x: getattr(x, name)(1)) if name in ("max", "min") else of_two
    x = jnp.asarray([[2.0, 2.0], [1.0, 3.0], [-1.0, -1.0]])
    found = jax.jit(jrlrp.relevance(f, target="all", rules=jrlrp.gradient_times_input()))(x)
    np.testing.assert_allclose(found, x * jax.grad(lambda x: f(x).sum())(x), rtol=1e-12)
    np.testing.assert_allclose(jrlrp.relevance(f, target="all")(x).sum(1), f(x), rtol=1e-12)


def test_a_row_that_a_mask_blanks_out_gets_no_more_than_numbers():
    mask = np.array([[True, True, False], [False, False, False]])
    f = lambda x: jnp.exp(jnp.where(mask, x, -jnp.inf).max(1)) + x[:, 1]
    r = jax.jit(jrlrp.relevance(f, target="all"))(jnp.asarray([[3.0, 1.0, 2.0], [1.0, -2.0, 0.5]]))
    assert np.isfinite(np.asarray(r)).all()


def test_a_maximum_of_nothing_is_its_initial_value():
    f = lambda x: jnp.max(x[:, :0], axis=1, initial=2.0) + x.sum(1)
    x = jnp.ones((2, 3))
    value, r = jrlrp.value_and_relevance(f, target="all", rules=jrlrp.gradient_times_input())(x)
    np.testing.assert_array_equal(value, [5, 5])
    np.testing.assert_array_equal(r, x)
