"""Normalisations, scales and products of active values, in many spellings."""

import jax
import jax.numpy as jnp
from fuzz.table import F, operation
from jax import lax

EPS = 1e-5


def mean(h):
    return jnp.mean(h, axis=-1, keepdims=True)


def centred(h):
    return h - mean(h)


def deviation(h):
    return jnp.sqrt(jnp.var(h, axis=-1, keepdims=True) + EPS)


def square_of_reused(h, p):
    d = h - mean(h)
    return d / jnp.sqrt(mean(d * d) + EPS) * p.g + p.b


def as_flax(h, p):
    m = mean(h)
    factor = lax.rsqrt(mean(h * h) - m * m + EPS) * p.g
    return (h - m) * factor + p.b


def as_keras(h, p):
    factor = lax.rsqrt(jnp.var(h, axis=-1, keepdims=True) + EPS) * p.g
    return h * factor + (p.b - mean(h) * factor)


def by_sums(h, p):
    d = h - jnp.sum(h, axis=-1, keepdims=True) / F
    return d * (jnp.sum(d**2, axis=-1, keepdims=True) / F + EPS) ** -0.5 * p.g + p.b


def by_dot(h, p):
    d = h - h @ jnp.full((F, 1), 1 / F, h.dtype)
    return d / jnp.sqrt(jnp.einsum("npf,npf->np", d, d)[..., None] / F + EPS) * p.g + p.b


operation(
    "layer norm",
    {
        "var": lambda h, p: centred(h) / deviation(h) * p.g + p.b,
        "centred reused": square_of_reused,
        "rsqrt": lambda h, p: centred(h) * lax.rsqrt(jnp.var(h, axis=-1, keepdims=True) + EPS) * p.g + p.b,
        "power -0.5": lambda h, p: p.g * (centred(h) * (jnp.var(h, axis=-1, keepdims=True) + EPS) ** -0.5) + p.b,
        "gain first": lambda h, p: centred(h) * p.g / deviation(h) + p.b,
        "gain over deviation": lambda h, p: centred(h) * (p.g / deviation(h)) + p.b,
        "standardize": lambda h, p: jax.nn.standardize(h, axis=-1, epsilon=EPS) * p.g + p.b,
        "mean of squares": as_flax,
        "shift folded": as_keras,
        "sums": by_sums,
        "dots": by_dot,
        "difference divided": lambda h, p: (h / deviation(h) - mean(h) / deviation(h)) * p.g + p.b,
        "vmap": lambda h, p: jax.vmap(jax.vmap(lambda v: square_of_reused(v, p)))(h),
    },
    holds="norm",
    g=(F,),
    b=(F,),
)


def root(h):
    return jnp.sqrt(mean(h * h) + EPS)


operation(
    "rms norm",
    {
        "divided": lambda h, p: h / root(h) * p.g,
        "rsqrt": lambda h, p: h * lax.rsqrt(mean(jnp.square(h)) + EPS) * p.g,
        "power": lambda h, p: h * (mean(h**2) + EPS) ** -0.5 * p.g,
        "gain first": lambda h, p: (h * p.g) / root(h),
        "reciprocal": lambda h, p: p.g * (h * (1 / root(h))),
        "exp of log": lambda h, p: h * jnp.exp(-0.5 * jnp.log(mean(h * h) + EPS)) * p.g,
        "in float32": lambda h, p: (h.astype(jnp.float32) / root(h.astype(jnp.float32))).astype(h.dtype) * p.g,
    },
    holds="norm",
    rounded=["in float32"],
    g=(F,),
)
operation(
    "rms norm and dense",
    {
        "divided first": lambda h, p: (h / root(h)) @ p.w,
        "divided last": lambda h, p: (h @ p.w) / root(h),
        "times reciprocal last": lambda h, p: (h @ p.w) * lax.reciprocal(root(h)),
    },
    holds="norm",
    w=(F, F),
)


def length(h):
    return jnp.linalg.norm(h, axis=-1, keepdims=True)


operation(
    "unit length",
    {
        "norm": lambda h, p: h / length(h) * p.g,
        "sqrt of sum": lambda h, p: h / jnp.sqrt(jnp.sum(h * h, axis=-1, keepdims=True)) * p.g,
        "rsqrt": lambda h, p: h * lax.rsqrt(jnp.sum(h**2, axis=-1, keepdims=True)) * p.g,
    },
    holds="norm",
    g=(F,),
)
operation(
    "scaled and scaled back",
    {
        "not at all": lambda h, p: h @ p.w,
        "length": lambda h, p: ((h / length(h)) * length(h)) @ p.w,
        "root mean square": lambda h, p: ((h * lax.rsqrt(mean(h * h) + EPS)) * root(h)) @ p.w,
        "deviation": lambda h, p: ((h / deviation(h)) @ p.w) * deviation(h),
    },
    holds="norm",
    w=(F, F),
)


def group_norm(h, p):
    groups = h.reshape(*h.shape[:2], 2, F // 2)
    d = groups - groups.mean((1, 3), keepdims=True)
    return (d / jnp.sqrt(groups.var((1, 3), keepdims=True) + EPS)).reshape(h.shape) * p.g + p.b


def group_norm_of_parts(h, p):
    parts = [(t - t.mean((1, 2), keepdims=True), t) for t in jnp.split(h, 2, axis=-1)]
    scaled = [d * lax.rsqrt(jnp.mean(d * d, (1, 2), keepdims=True) + EPS) for d, _ in parts]
    return jnp.concatenate(scaled, axis=-1) * p.g + p.b


def group_norm_flat(h, p):
    groups = h.reshape(h.shape[0], -1, 2, F // 2).swapaxes(1, 2).reshape(h.shape[0], 2, -1)
    d = groups - jnp.mean(groups, axis=-1, keepdims=True)
    d = d / jnp.sqrt(jnp.mean(d**2, axis=-1, keepdims=True) + EPS)
    return d.reshape(h.shape[0], 2, -1, F // 2).swapaxes(1, 2).reshape(h.shape) * p.g + p.b


operation(
    "group norm",
    {"var": group_norm, "parts": group_norm_of_parts, "flat": group_norm_flat},
    holds="norm",
    g=(F,),
    b=(F,),
)


def instance_norm(h, p):
    return (h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + EPS) * p.g


operation(
    "instance norm",
    {
        "var": instance_norm,
        "std": lambda h, p: (h - h.mean(1, keepdims=True)) / jnp.hypot(h.std(1, keepdims=True), EPS**0.5) * p.g,
        "turned": lambda h, p: jax.nn.standardize(h.swapaxes(1, 2), axis=-1, epsilon=EPS).swapaxes(1, 2) * p.g,
    },
    holds="norm",
    g=(F,),
)
operation(
    "batch norm",
    {
        "unfolded": lambda h, p: (h - p.b) / p.s * p.g + p.bias,
        "rsqrt": lambda h, p: (h - p.b) * lax.rsqrt(p.s * p.s) * p.g + p.bias,
        "folded": lambda h, p: h * (p.g / p.s) + (p.bias - p.b * p.g / p.s),
        "shift after": lambda h, p: h * (p.g / p.s) - p.b * (p.g / p.s) + p.bias,
    },
    b=(F,),
    s=(F,),
    g=(F,),
    bias=(F,),
)

SIGMOID = {
    "jax.nn": jax.nn.sigmoid,
    "by exp": lambda z: 1 / (1 + jnp.exp(-z)),
    "reciprocal": lambda z: lax.reciprocal(1 + jnp.exp(-z)),
    "tanh": lambda z: 0.5 * (jnp.tanh(0.5 * z) + 1),
    "exp of log_sigmoid": lambda z: jnp.exp(jax.nn.log_sigmoid(z)),
    "softmax of two": lambda z: jax.nn.softmax(jnp.stack([z, jnp.zeros_like(z)]), axis=0)[0],
}
operation(
    "gate",
    {
        **{name: lambda h, p, s=s: s(h @ p.w) * (h @ p.wv) for name, s in SIGMOID.items()},
        "gate last": lambda h, p: (h @ p.wv) * jax.nn.sigmoid(h @ p.w),
        "divided": lambda h, p: (h @ p.wv) / (1 + jnp.exp(-(h @ p.w))),
        "glu": lambda h, p: jax.nn.glu(h @ jnp.concatenate([p.wv, p.w], axis=1), axis=-1),
    },
    holds="product",
    w=(F, F),
    wv=(F, F),
)
operation(
    "swiglu",
    {
        "silu": lambda h, p: jax.nn.silu(h @ p.w) * (h @ p.wv),
        "values first": lambda h, p: (h @ p.wv) * jax.nn.swish(h @ p.w),
        "by exp": lambda h, p: (lambda z: z / (1 + jnp.exp(-z)))(h @ p.w) * (h @ p.wv),
    },
    holds="product",
    w=(F, F),
    wv=(F, F),
)
operation(
    "bilinear",
    {
        "product": lambda h, p: (h @ p.w) * (h @ p.wv),
        "turned": lambda h, p: (h @ p.wv) * (h @ p.w),
        "einsum": lambda h, p: jnp.einsum("npf,npf->npf", h @ p.w, h @ p.wv),
        "divided": lambda h, p: (h @ p.w) / (1 / (h @ p.wv)),
    },
    holds="product",
    w=(F, F),
    wv=(F, F),
)
operation(
    "three factors",
    {
        "left": lambda h, p: ((h @ p.w) * (h @ p.wu)) * (h @ p.wv),
        "right": lambda h, p: (h @ p.w) * ((h @ p.wu) * (h @ p.wv)),
        "outer first": lambda h, p: ((h @ p.w) * (h @ p.wv)) * (h @ p.wu),
        "prod": lambda h, p: jnp.prod(jnp.stack([h @ p.w, h @ p.wu, h @ p.wv]), axis=0),
    },
    holds="product",
    w=(F, F),
    wu=(F, F),
    wv=(F, F),
)


def lerp(blend):
    return lambda h, p: blend(jax.nn.sigmoid(h @ p.w), jnp.tanh(h @ p.wv), h)


operation(
    "lerp",
    {
        "two products": lerp(lambda z, n, h: (1 - z) * n + z * h),
        "difference": lerp(lambda z, n, h: n + z * (h - n)),
        "other difference": lerp(lambda z, n, h: h + (1 - z) * (n - h)),
        "multiplied out": lerp(lambda z, n, h: n - z * n + z * h),
    },
    holds="product",
    w=(F, F),
    wv=(F, F),
)


def shares_of(p):
    return p / (jnp.sum(p, axis=-1, keepdims=True) + 1)


operation(
    "share of a total",
    {
        "divided": lambda h, p: shares_of(jax.nn.relu(h @ p.w)) * h,
        "reciprocal": lambda h, p: (
            jax.nn.relu(h @ p.w) * (1 / (jnp.sum(jax.nn.relu(h @ p.w), -1, keepdims=True) + 1)) * h
        ),
        "divided last": lambda h, p: jax.nn.relu(h @ p.w) * h / (jnp.sum(jax.nn.relu(h @ p.w), -1, keepdims=True) + 1),
    },
    holds="product",
    w=(F, F),
)


def weighted_mean(mean):
    def pool(h, p):
        weights = jax.nn.sigmoid(h @ p.w)
        return jnp.broadcast_to(mean(weights, h), h.shape) * p.g

    return pool


operation(
    "weighted mean",
    {
        "divided first": weighted_mean(lambda w, h: (w / w.sum(1, keepdims=True) * h).sum(1, keepdims=True)),
        "divided last": weighted_mean(lambda w, h: (w * h).sum(1, keepdims=True) / w.sum(1, keepdims=True)),
        "means": weighted_mean(lambda w, h: (w * h).mean(1, keepdims=True) / w.mean(1, keepdims=True)),
        "times reciprocal": weighted_mean(lambda w, h: (1 / w.sum(1, keepdims=True)) * (h * w).sum(1, keepdims=True)),
        "average": weighted_mean(lambda w, h: jax.vmap(lambda w, h: jnp.average(h, 0, w))(w, h)[:, None]),
        "einsum": weighted_mean(lambda w, h: jnp.einsum("npf,npf->nf", w, h)[:, None] / w.sum(1, keepdims=True)),
    },
    holds="product",
    w=(F, F),
    g=(F,),
)
