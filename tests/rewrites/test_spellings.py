"""Two equal formulas written differently are the same nodes and give equal relevance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp

W1, W2 = np.random.default_rng(0).normal(size=(5, 6)), np.random.default_rng(1).normal(size=(6, 3))
B = np.random.default_rng(2).normal(size=6)
SLOPE = np.random.default_rng(3).uniform(size=6)


@jax.custom_jvp
def custom_relu(x):
    return jnp.maximum(x, 0)


custom_relu.defjvp(lambda primals, tangents: (custom_relu(*primals), tangents[0] * (primals[0] > 0)))


@jax.custom_vjp
def custom_silu(x):
    return x * jax.nn.sigmoid(x)


custom_silu.defvjp(lambda x: (custom_silu(x), x), lambda x, g: (g,))

ACTIVATIONS = {
    "relu": [
        jax.nn.relu,
        lambda x: jnp.maximum(x, 0),
        lambda x: jnp.maximum(0.0, x),
        lambda x: jnp.where(x > 0, x, 0.0),
        lambda x: jnp.where(x <= 0, 0.0, x),
        lambda x: x * (x > 0),
        lambda x: (x + jnp.abs(x)) / 2,
        lambda x: jnp.clip(x, 0, None),
        custom_relu,
        jax.checkpoint(jax.nn.relu),
    ],
    "relu6": [jax.nn.relu6, lambda x: jnp.minimum(jnp.maximum(x, 0), 6), lambda x: jax.lax.clamp(0.0, x, 6.0)],
    "leaky relu": [
        lambda x: jax.nn.leaky_relu(x, 0.1),
        lambda x: jnp.where(x > 0, x, 0.1 * x),
        lambda x: jnp.maximum(x, 0.1 * x),
    ],
    "prelu": [lambda x: jnp.where(x > 0, x, SLOPE * x), lambda x: jnp.maximum(x, 0) + SLOPE * jnp.minimum(x, 0)],
    "elu": [jax.nn.elu, lambda x: jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0)) - 1)],
    "gelu": [
        lambda x: jax.nn.gelu(x, approximate=False),
        lambda x: 0.5 * x * (1 + jax.lax.erf(x / jnp.sqrt(2.0))),
        lambda x: x * jax.scipy.stats.norm.cdf(x),
    ],
    "gelu, tanh": [
        lambda x: jax.nn.gelu(x, approximate=True),
        lambda x: 0.5 * x * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        lambda x: 0.5 * x * (1 + jnp.tanh(np.sqrt(2 / np.pi) * x * (1 + 0.044715 * x * x))),
    ],
    "silu": [
        jax.nn.silu,
        lambda x: x * jax.nn.sigmoid(x),
        lambda x: x / (1 + jnp.exp(-x)),
        lambda x: x * (0.5 * jnp.tanh(0.5 * x) + 0.5),
        custom_silu,
    ],
    "sigmoid": [jax.nn.sigmoid, lambda x: 1 / (1 + jnp.exp(-x)), lambda x: 0.5 * jnp.tanh(x / 2) + 0.5],
    "softplus": [jax.nn.softplus, lambda x: jnp.log1p(jnp.exp(x)), lambda x: jnp.logaddexp(x, 0.0)],
    "hard swish": [jax.nn.hard_swish, lambda x: x * jax.nn.relu6(x + 3) / 6, lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1)],
    "squared relu": [lambda x: jnp.maximum(x, 0) ** 2, lambda x: jax.nn.relu(x) * jax.nn.relu(x)],
    "tanh": [jnp.tanh, lambda x: 2 * jax.nn.sigmoid(2 * x) - 1],
    "mish": [lambda x: x * jnp.tanh(jax.nn.softplus(x)), jax.nn.mish],
}
CASES = [(name, k) for name, spellings in ACTIVATIONS.items() for k in range(len(spellings))]


@pytest.mark.parametrize(("name", "k"), CASES)
@pytest.mark.parametrize("rules", [jrlrp.relative(), jrlrp.AlphaBeta()], ids=["relative", "alpha beta"])
def test_an_activation_is_one_node_and_passes_relevance_on(name, k, rules):
    x = jnp.asarray(np.random.default_rng(4).normal(size=(4, 5)))
    net = lambda act: lambda x: act(x @ W1 + B) @ W2
    kinds = [node.kind for node in jrlrp.plan(net(ACTIVATIONS[name][k]), x).nodes]
    assert kinds == ["dense", "activation", "dense"]
    expected = jrlrp.relevance(net(ACTIVATIONS[name][0]), rules=rules)(x)
    actual = jrlrp.relevance(net(ACTIVATIONS[name][k]), rules=rules)(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)  # some spellings know √2 in float32


def test_a_mask_that_is_used_elsewhere_stays_within_the_activation():
    def f(x):
        z = x @ W1
        mask = z > 0
        return jnp.where(mask, z, 0.0) @ W2, mask

    x = jnp.asarray(np.random.default_rng(4).normal(size=(4, 5)))
    r, mask = jrlrp.relevance(f, has_aux=True)(x)
    np.testing.assert_allclose(r, jrlrp.relevance(lambda x: jax.nn.relu(x @ W1) @ W2)(x))
    np.testing.assert_array_equal(mask, x @ W1 > 0)


def test_aux_of_inner_values_does_not_change_relevance():
    def f(x):
        z = x @ W1
        y = jax.nn.silu(z + B)
        return y @ W2, (z, jax.nn.sigmoid(z + B))

    x = jnp.asarray(np.random.default_rng(4).normal(size=(4, 5)))
    r, (z, s) = jrlrp.relevance(f, has_aux=True)(x)
    np.testing.assert_allclose(r, jrlrp.relevance(lambda x: jax.nn.silu(x @ W1 + B) @ W2)(x))
    np.testing.assert_allclose(z, x @ W1)
    np.testing.assert_allclose(s, jax.nn.sigmoid(x @ W1 + B))


BATCH_NORMS = [
    lambda x, mean, var, gain, bias: (x - mean) / jnp.sqrt(var + 1e-5) * gain + bias,
    lambda x, mean, var, gain, bias: (x - mean) * (jax.lax.rsqrt(var + 1e-5) * gain) + bias,
    lambda x, mean, var, gain, bias: x * (gain / jnp.sqrt(var + 1e-5)) + (bias - mean * gain / jnp.sqrt(var + 1e-5)),
    lambda x, mean, var, gain, bias: bias - (mean - x) * gain * jax.lax.rsqrt(var + 1e-5),
    lambda x, mean, var, gain, bias: gain * ((x - mean) / jnp.sqrt(var + 1e-5)) + bias,
]


@pytest.mark.parametrize("k", range(len(BATCH_NORMS)))
@pytest.mark.parametrize("place", ["after", "alone"])
@pytest.mark.parametrize("rules", [jrlrp.relative(), jrlrp.epsilon_plus()], ids=["relative", "epsilon plus"])
def test_batch_norm_in_any_spelling(k, place, rules):
    rng = np.random.default_rng(5)
    mean, var, gain, bias = rng.normal(size=6), rng.uniform(1, 2, size=6), rng.normal(size=6), rng.normal(size=6)
    x = jnp.asarray(rng.normal(size=(2, 5, 5, 6)))
    kernel = rng.normal(size=(3, 3, 6, 6))

    def net(norm):
        def f(x):
            if place == "after":
                x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jax.nn.relu(norm(x, mean, var, gain, bias)).mean((1, 2)) @ W2

        return f

    assert [node.kind for node in jrlrp.plan(net(BATCH_NORMS[k]), x).nodes] == [
        "conv" if place == "after" else "scale",
        "activation",
        "average_pool",
        "dense",
    ]
    expected = jrlrp.relevance(net(BATCH_NORMS[0]), rules=rules)(x)
    actual = jrlrp.relevance(net(BATCH_NORMS[k]), rules=rules)(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def _plain_softmax(x):
    e = jnp.exp(x)
    return e / e.sum(-1, keepdims=True)


def _shifted_softmax(x):
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return e * (1 / e.sum(-1)[:, None])


SOFTMAXES = [
    jax.nn.softmax,
    _plain_softmax,
    _shifted_softmax,
    lambda x: jnp.exp(jax.nn.log_softmax(x)),
    lambda x: jnp.exp(x - jax.nn.logsumexp(x, axis=-1, keepdims=True)),
    jax.nn.log_softmax,
    lambda x: x - jax.nn.logsumexp(x, axis=-1, keepdims=True),
]


@pytest.mark.parametrize("k", range(len(SOFTMAXES)))
def test_a_final_softmax_is_explained_at_its_logits(k):
    x = jnp.asarray(np.random.default_rng(4).normal(size=(4, 5)))
    logits = lambda x: jnp.tanh(x @ W1) @ W2
    value, r = jrlrp.value_and_relevance(lambda x: SOFTMAXES[k](logits(x)))(x)
    np.testing.assert_allclose(value, SOFTMAXES[k](logits(x)))
    np.testing.assert_allclose(r, jrlrp.relevance(logits)(x), rtol=1e-10)
    picked = jrlrp.relevance(lambda x: SOFTMAXES[k](logits(x))[:, 1], target="all")(x)
    np.testing.assert_allclose(picked, jrlrp.relevance(logits, target=1)(x), rtol=1e-10)
