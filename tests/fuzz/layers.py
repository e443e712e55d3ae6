"""Layers, activations, pools, movements and control flow, in many spellings."""

import jax
import jax.numpy as jnp
import numpy as np
from fuzz.table import F, P, operation
from jax import lax

operation(
    "dense",
    {
        "@": lambda h, p: h @ p.w + p.b,
        "einsum": lambda h, p: jnp.einsum("npf,fg->npg", h, p.w) + p.b,
        "dot_general": lambda h, p: lax.dot_general(h, p.w, (((2,), (0,)), ((), ()))) + p.b,
        "tensordot": lambda h, p: p.b + jnp.tensordot(h, p.w, axes=1),
        "weights first": lambda h, p: jnp.einsum("gf,npf->npg", p.w.T, h) + p.b,
        "flat": lambda h, p: (h.reshape(-1, F) @ p.w + p.b).reshape(h.shape),
        "vmap": lambda h, p: jax.vmap(jax.vmap(lambda v: p.w.T @ v + p.b))(h),
        "positions first": lambda h, p: (h.swapaxes(0, 1) @ p.w + p.b).swapaxes(0, 1),
    },
    w=(F, F),
    b=(F,),
)
operation(
    "mix positions",
    {
        "einsum": lambda h, p: jnp.einsum("npf,pq->nqf", h, p.w),
        "@": lambda h, p: (h.swapaxes(1, 2) @ p.w).swapaxes(1, 2),
        "weights first": lambda h, p: p.w.T @ h,
        "vmap": lambda h, p: jax.vmap(lambda t: p.w.T @ t)(h),
    },
    w=(P, P),
)


def conv(h, w, layout=("NWC", "WIO", "NWC"), padding="SAME"):
    return lax.conv_general_dilated(h, w, (1,), padding, dimension_numbers=layout)


def conv_of_channels_first(h, p):
    return conv(h.swapaxes(1, 2), p.w, ("NCW", "WIO", "NCW")).swapaxes(1, 2) + p.b


def conv_in_two_dimensions(h, p):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(h[:, None], p.w[None], (1, 1), "SAME", dimension_numbers=layout)[:, 0] + p.b


operation(
    "conv",
    {
        "NWC": lambda h, p: conv(h, p.w) + p.b,
        "NCW": conv_of_channels_first,
        "2-D": conv_in_two_dimensions,
        "padded before": lambda h, p: conv(jnp.pad(h, ((0, 0), (1, 1), (0, 0))), p.w, padding="VALID") + p.b,
        "vmap": lambda h, p: jax.vmap(lambda t: conv(t[None], p.w)[0])(h) + p.b,
        "reversed": lambda h, p: conv(h[:, ::-1], p.w[::-1])[:, ::-1] + p.b,
        "batch reversed": lambda h, p: (conv(h[::-1], p.w) + p.b)[::-1],
        "batch padded": lambda h, p: (conv(jnp.pad(h, ((0, 1), (0, 0), (0, 0))), p.w) + p.b)[: h.shape[0]],
        "WNC": lambda h, p: conv(h.swapaxes(0, 1), p.w, ("WNC", "WIO", "WNC")).swapaxes(0, 1) + p.b,
    },
    w=(3, F, F),
    b=(F,),
)
operation(
    "scale and shift",
    {
        "product": lambda h, p: h * p.g + p.b,
        "turned": lambda h, p: p.b + p.g * h,
        "divided": lambda h, p: h / (1 / p.g) + p.b,
        "difference": lambda h, p: p.g * h - (-p.b),
        "einsum": lambda h, p: jnp.einsum("npf,f->npf", h, p.g) + p.b,
        "vmap": lambda h, p: jax.vmap(lambda t: t * p.g + p.b)(h),
    },
    g=(F,),
    b=(F,),
)

ACTIVATIONS = {
    "relu": {
        "jax.nn": jax.nn.relu,
        "maximum": lambda h: jnp.maximum(h, 0),
        "where": lambda h: jnp.where(h > 0, h, 0),
        "times a mask": lambda h: h * (h > 0),
        "absolute": lambda h: (h + jnp.abs(h)) / 2,
        "clip": lambda h: jnp.clip(h, 0),
        "minus minimum": lambda h: -jnp.minimum(-h, 0),
        "vmap": lambda h: jax.vmap(jax.nn.relu)(h),
    },
    "leaky relu": {
        "jax.nn": lambda h: jax.nn.leaky_relu(h, 0.1),
        "maximum": lambda h: jnp.maximum(h, 0.1 * h),
        "where": lambda h: jnp.where(h > 0, h, 0.1 * h),
        "times a choice": lambda h: h * jnp.where(h > 0, 1.0, 0.1).astype(h.dtype),
    },
    "gelu": {
        "jax.nn": lambda h: jax.nn.gelu(h, approximate=False),
        "erf": lambda h: 0.5 * h * (1 + lax.erf(h / np.sqrt(2))),
        "erfc": lambda h: h * (0.5 * lax.erfc(-h * np.sqrt(0.5))),
        "minus erf": lambda h: 0.5 * (1 - lax.erf(-h / np.sqrt(2))) * h,
    },
    "silu": {
        "jax.nn": jax.nn.silu,
        "product": lambda h: h * jax.nn.sigmoid(h),
        "divided": lambda h: h / (1 + jnp.exp(-h)),
        "tanh": lambda h: h * 0.5 * (1 + jnp.tanh(h / 2)),
    },
    "tanh": {
        "jnp": jnp.tanh,
        "sigmoid": lambda h: 2 * jax.nn.sigmoid(2 * h) - 1,
        "by exp": lambda h: (jnp.exp(h) - jnp.exp(-h)) / (jnp.exp(h) + jnp.exp(-h)),
        "sinh over cosh": lambda h: jnp.sinh(h) / jnp.cosh(h),
    },
    "softplus": {
        "jax.nn": jax.nn.softplus,
        "log1p": lambda h: jnp.log1p(jnp.exp(h)),
        "log": lambda h: jnp.log(1 + jnp.exp(h)),
        "logaddexp": lambda h: jnp.logaddexp(h, 0),
        "log_sigmoid": lambda h: -jax.nn.log_sigmoid(-h),
        "stable": lambda h: jnp.maximum(h, 0) + jnp.log1p(jnp.exp(-jnp.abs(h))),
    },
    "elu": {
        "jax.nn": jax.nn.elu,
        "where": lambda h: jnp.where(h > 0, h, jnp.exp(jnp.minimum(h, 0)) - 1),
        "sum of two": lambda h: jnp.maximum(h, 0) + jnp.expm1(jnp.minimum(h, 0)),
    },
    "square": {
        "jnp": jnp.square,
        "power": lambda h: h**2,
        "product": lambda h: h * h,
        "integer_pow": lambda h: lax.integer_pow(h, 2),
        "float power": lambda h: jnp.abs(h) ** 2.0,
    },
}
for name, spellings in ACTIVATIONS.items():
    operation(name, {key: lambda h, p, f=f: f(h) for key, f in spellings.items()})


def window(h, initial, function, size, stride):
    return lax.reduce_window(h, np.asarray(initial, h.dtype), function, (1, size, 1), (1, stride, 1), "VALID")


def halves(h):
    return h.reshape(h.shape[0], P // 2, 2, F)


operation(
    "mean over positions",
    {
        "mean": lambda h, p: jnp.broadcast_to(h.mean(1, keepdims=True), h.shape) * p.g,
        "sum divided": lambda h, p: jnp.broadcast_to(h.sum(1, keepdims=True) / P, h.shape) * p.g,
        "sum times": lambda h, p: jnp.broadcast_to(h.sum(1, keepdims=True) * (1 / P), h.shape) * p.g,
        "einsum": lambda h, p: jnp.broadcast_to(jnp.einsum("npf->nf", h)[:, None] / P, h.shape) * p.g,
        "product with ones": lambda h, p: jnp.broadcast_to(jnp.ones((1, P), h.dtype) @ h / P, h.shape) * p.g,
        "window": lambda h, p: jnp.broadcast_to(window(h, 0, lax.add, P, 1) / P, h.shape) * p.g,
        "repeat": lambda h, p: jnp.repeat(h.mean(1, keepdims=True), P, axis=1) * p.g,
        "divided first": lambda h, p: jnp.broadcast_to((h / P).sum(1, keepdims=True), h.shape) * p.g,
    },
    g=(F,),
)
operation(
    "average pool",
    {
        "window": lambda h, p: jnp.repeat(window(h, 0, lax.add, 2, 2) / 2, 2, axis=1),
        "window times": lambda h, p: jnp.repeat(0.5 * window(h, 0, lax.add, 2, 2), 2, axis=1),
        "mean": lambda h, p: jnp.repeat(halves(h).mean(2), 2, axis=1),
        "sum": lambda h, p: jnp.repeat(halves(h).sum(2) / 2, 2, axis=1),
    },
)
operation(
    "max pool",
    {
        "window": lambda h, p: jnp.repeat(window(h, -jnp.inf, lax.max, 2, 2), 2, axis=1),
        "max": lambda h, p: jnp.repeat(halves(h).max(2), 2, axis=1),
        "maximum": lambda h, p: jnp.repeat(jnp.maximum(h[:, ::2], h[:, 1::2]), 2, axis=1),
        "minus min": lambda h, p: jnp.repeat(-halves(-h).min(2), 2, axis=1),
        "top_k": lambda h, p: jnp.repeat(lax.top_k(halves(h).swapaxes(2, 3), 1)[0][..., 0], 2, axis=1),
        "where": lambda h, p: jnp.repeat(jnp.where(h[:, ::2] > h[:, 1::2], h[:, ::2], h[:, 1::2]), 2, axis=1),
    },
)
operation(
    "sort",
    {
        "jnp": lambda h, p: jnp.sort(h, axis=-1)[..., ::-1],
        "top_k": lambda h, p: lax.top_k(h, F)[0],
        "minus": lambda h, p: -jnp.sort(-h, axis=-1),
        "argsort": lambda h, p: jnp.take_along_axis(h, jnp.argsort(-h, axis=-1), axis=-1),
    },
)
operation(
    "reverse",
    {
        "slice": lambda h, p: h[:, ::-1],
        "flip": lambda h, p: jnp.flip(h, 1),
        "gather": lambda h, p: h[:, np.arange(P)[::-1]],
        "take": lambda h, p: jnp.take(h, jnp.arange(P)[::-1], axis=1),
        "stack": lambda h, p: jnp.stack([h[:, k] for k in reversed(range(P))], axis=1),
        "dynamic": lambda h, p: jnp.concatenate([lax.dynamic_slice_in_dim(h, k, 1, 1) for k in (3, 2, 1, 0)], axis=1),
    },
)
operation(
    "roll",
    {
        "roll": lambda h, p: jnp.roll(h, 1, axis=2),
        "concatenate": lambda h, p: jnp.concatenate([h[..., -1:], h[..., :-1]], axis=2),
        "padded": lambda h, p: jnp.pad(h, ((0, 0), (0, 0), (1, 0)), mode="wrap")[..., :-1],
        "tiled": lambda h, p: jnp.tile(h, (1, 1, 2))[..., F - 1 : -1],
    },
)
operation(
    "shift",
    {
        "pad": lambda h, p: jnp.pad(h, ((0, 0), (1, 0), (0, 0)))[:, :-1],
        "concatenate": lambda h, p: jnp.concatenate([jnp.zeros_like(h[:, :1]), h[:, :-1]], axis=1),
        "scatter": lambda h, p: jnp.zeros_like(h).at[:, 1:].set(h[:, :-1]),
        "where": lambda h, p: jnp.where(np.arange(P)[:, None] > 0, jnp.roll(h, 1, axis=1), 0),
        "times mask": lambda h, p: jnp.roll(h, 1, axis=1) * (jnp.arange(P) > 0)[:, None],
    },
)
operation(
    "widen and dense",
    {
        "concatenate": lambda h, p: jnp.concatenate([h, h], axis=-1) @ p.w,
        "tile": lambda h, p: jnp.tile(h, (1, 1, 2)) @ p.w,
        "stack": lambda h, p: jnp.stack([h, h], axis=2).reshape(*h.shape[:2], 2 * F) @ p.w,
        "broadcast": lambda h, p: jnp.broadcast_to(h[:, :, None], (*h.shape[:2], 2, F)).reshape(*h.shape[:2], -1) @ p.w,
    },
    w=(2 * F, F),
)
operation(
    "edges and conv",
    {
        "edge": lambda h, p: conv(jnp.pad(h, ((0, 0), (1, 1), (0, 0)), mode="edge"), p.w, padding="VALID"),
        "concatenate": lambda h, p: conv(jnp.concatenate([h[:, :1], h, h[:, -1:]], axis=1), p.w, padding="VALID"),
        "gather": lambda h, p: conv(h[:, np.clip(np.arange(-1, P + 1), 0, P - 1)], p.w, padding="VALID"),
    },
    w=(3, F, F),
)
