"""CASES.md G and issue 13, item 6: maps that a program computes from literals are no layers, nor is standardisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 1, size=(2, 6, 6, 3))
KERNEL, CLASSES = RNG.normal(size=(3, 3, 3, 4)), RNG.normal(size=(1, 1, 4, 3))
MIDDLE = RNG.normal(size=(3, 3, 4, 4))
PRESETS = {
    "relative plus": jrlrp.relative_plus(),
    "relative": jrlrp.relative(),
    "epsilon": jrlrp.epsilon(),
    "epsilon_plus": jrlrp.epsilon_plus(),
    "epsilon_plus_flat": jrlrp.epsilon_plus_flat(),
    "epsilon_gamma_box": jrlrp.epsilon_gamma_box(-2.0, 3.0),
    "epsilon_alpha2_beta1": jrlrp.epsilon_alpha2_beta1(),
    "epsilon_alpha2_beta1_flat": jrlrp.epsilon_alpha2_beta1_flat(),
    "excitation_backprop": jrlrp.excitation_backprop(),
    "deep_taylor": jrlrp.deep_taylor(),
    "deep_taylor, box": jrlrp.deep_taylor(-2.0, 3.0),
    "attn_lrp": jrlrp.attn_lrp(),
    "cp_lrp": jrlrp.cp_lrp(),
    "z plus": jrlrp.ZPlus(),
    "zero": jrlrp.Zero(),
}


def close(actual, expected, bound=1e-6):
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * np.abs(expected).max())


def conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def segment(x):
    """Return scores of each position, by a class convolution."""
    return conv(jax.nn.relu(conv(jax.nn.relu(conv(x, KERNEL)), MIDDLE)), CLASSES)


def resized(method, size):
    return lambda x: jax.image.resize(x, (x.shape[0], size, size, x.shape[-1]), method)


def blur(x):
    """Blur each channel by a Gaussian that is computed in the program."""
    line = jnp.exp(-0.5 * jnp.arange(-1.0, 2.0) ** 2)
    line = line / line.sum()
    kernel = jnp.broadcast_to((line[:, None] * line)[:, :, None, None], (3, 3, 1, x.shape[-1]))
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )


FIXED = {
    "bilinear, up": resized("bilinear", 9),
    "bilinear, down": resized("bilinear", 4),
    "bicubic": resized("bicubic", 8),
    "lanczos": resized("lanczos3", 8),
    "nearest": resized("nearest", 12),
    "scale_and_translate": lambda x: jax.image.scale_and_translate(
        x, (x.shape[0], 8, 8, x.shape[-1]), (1, 2), 1.3 + jnp.zeros(2), 0.1 * jnp.arange(1, 3), "linear"
    ),
    "blur": blur,
    "a colour matrix": lambda x: x @ (0.7 * jnp.eye(3) + 0.1),
    "a matrix of means": lambda x: jnp.einsum("nhwc,hk->nkwc", x, 0.8 * jnp.eye(6) + 0.2 / 6),
    "under jit": jax.jit(resized("bilinear", 9)),
}


def layers(f, rules=None):
    return [node for node in jrlrp.plan(f, IMAGES, rules=rules).nodes if node.kind == "conv" and node.rule is not None]


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_map_takes_no_first_and_no_last(name):
    before = [node for node in layers(lambda x: segment(FIXED[name](x))) if "conv" in node.kind and node.shape[-1] > 3]
    assert before[0].first
    head = layers(lambda x: FIXED[name](segment(x)))
    (last,) = [node for node in head if node.last and node.shape[-1] == 3 and node.shape[1] == 6][:1]
    assert last.rule == jrlrp.Relative()
    assert not last.first


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        *((name, "epsilon_plus_flat") for name in FIXED),
        *((name, "relative plus") for name in ("bicubic", "lanczos", "blur")),
        ("bilinear, up", "deep_taylor, box"),
    ],
)
def test_a_fixed_map_before_a_network_conserves(name, rules):
    """And the network's layers share as they would without it."""
    x, net = IMAGES, lambda x: segment(x).mean((1, 2))
    explain = lambda f, x: jax.jit(jrlrp.relevance(f, rules=PRESETS[rules]))(x)
    found, outside = explain(lambda x: net(FIXED[name](x)), x), explain(net, FIXED[name](x))
    np.testing.assert_allclose(
        found.sum((1, 2, 3)), outside.sum((1, 2, 3)), rtol=1e-4, atol=1e-5 * np.abs(outside).sum()
    )


@pytest.mark.parametrize(
    ("name", "rules"),
    [("bilinear, up", "relative plus"), ("bilinear, down", "epsilon_plus"), ("nearest", "relative plus")],
)
def test_a_fixed_map_after_a_network_leaves_its_last_layer_to_it(name, rules):
    """The relevance of the class convolution's scores, were they the output, explains them as before."""
    target = lambda out: out * (jnp.arange(3) == 1)
    whole = lambda x: FIXED[name](segment(x))
    explain = jax.jit(
        jrlrp.relevance(whole, rules=PRESETS[rules], target=target, capture=jrlrp.match("conv", last=True))
    )
    r, captured = explain(IMAGES)
    (scores,) = [v for v in captured.values() if v.shape == (2, 6, 6, 3)]
    np.testing.assert_allclose(scores.sum(), FIXED[name](segment(IMAGES))[..., 1].sum(), rtol=1e-4)
    close(r, jax.jit(jrlrp.relevance(segment, rules=PRESETS[rules], target=lambda out: scores))(IMAGES))


MEAN, DEVIATION = np.array([0.4, 0.5, 0.45]), np.array([0.2, 0.25, 0.3])
STANDARDISED = {
    "less mean, by deviation": lambda x: (x - MEAN) / DEVIATION,
    "by reciprocal": lambda x: (x - MEAN) * (1 / DEVIATION),
    "scaled and shifted": lambda x: x * (1 / DEVIATION) - MEAN / DEVIATION,
    "negated": lambda x: -(MEAN - x) / DEVIATION,
    "numbers": lambda x: (x - 0.45) / 0.25,
    "to ±1": lambda x: 2.0 * x - 1.0,
    "from bytes": lambda x: (x / 255.0 - 0.001) / 0.002,
    "channels first and back": lambda x: jnp.moveaxis(
        (jnp.moveaxis(x, -1, 1) - MEAN[:, None, None]) / DEVIATION[:, None, None], 1, -1
    ),
    "clipped before": lambda x: (jnp.clip(x, 0, 1) - MEAN) / DEVIATION,
    "batch norm": lambda x: (x - MEAN) * jax.lax.rsqrt(DEVIATION**2 + 1e-3) * 1.5 + 0.2,
    "per channel": lambda x: jnp.stack([(x[..., k] - MEAN[k]) / DEVIATION[k] for k in range(3)], -1),
    "in two steps": lambda x: (x * 255.0 - MEAN * 255) / (DEVIATION * 255),
}


def net(x):
    return jax.nn.relu(conv(jax.nn.relu(conv(x, KERNEL)), MIDDLE)).mean((1, 2)) @ CLASSES[0, 0]


def mlp(x):
    x = x.reshape(x.shape[0], -1)
    return jax.nn.relu(x @ np.resize(KERNEL, (108, 5))) @ np.resize(CLASSES, (5, 3))


@functools.cache
def explained(f, rules):
    return jax.jit(jrlrp.relevance(f, rules=PRESETS[rules]))


CHOSEN = [
    *((name, rules) for name in STANDARDISED for rules in ("epsilon",)),
    *(("less mean, by deviation", rules) for rules in PRESETS if rules not in ("epsilon", "zero")),
    ("by reciprocal", "epsilon_plus_flat"),
]


@pytest.mark.parametrize(("name", "rules"), CHOSEN)
def test_standardisation_first_passes_relevance_on(name, rules):
    f = mlp if rules == "epsilon" else net
    inside = jax.jit(jrlrp.relevance(lambda x: f(STANDARDISED[name](x)), rules=PRESETS[rules]))(IMAGES)
    close(inside, explained(f, rules)(STANDARDISED[name](IMAGES)), 1e-5)


def test_standardisation_by_arguments():
    f = lambda x, mean, deviation: mlp((x - mean) / deviation)
    inside = jax.jit(jrlrp.relevance(f, rules=jrlrp.epsilon()))(IMAGES, MEAN, DEVIATION)
    close(inside, explained(mlp, "epsilon")((IMAGES - MEAN) / DEVIATION), 1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("rules", ["epsilon", "attn_lrp"])
def test_a_position_embedding_keeps_its_share(rules, scale):
    positions = np.random.default_rng(5).normal(size=IMAGES.shape[1:])
    embedded = scale * IMAGES + positions
    chosen = {"epsilon": jrlrp.epsilon(1e-12), "attn_lrp": jrlrp.attn_lrp()}[rules]
    inside = jrlrp.relevance(lambda x: mlp(scale * x + positions), rules=chosen)(IMAGES)
    close(inside, scale * IMAGES / embedded * jrlrp.relevance(mlp, rules=chosen)(embedded), 1e-6)


def test_gradient_times_input_sees_standardisation():
    f = lambda x: net((x - MEAN) / DEVIATION)
    expected = IMAGES * jax.grad(lambda x: f(x).max(-1).sum())(IMAGES)
    close(jrlrp.relevance(f, rules=jrlrp.gradient_times_input())(IMAGES), expected)
