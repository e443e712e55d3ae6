"""Softmaxes, log-sum-exps, attention and mixtures of experts, in many spellings."""

import jax
import jax.numpy as jnp
import numpy as np
from fuzz.table import F, operation
from jax import lax

held = lax.stop_gradient
MASK = np.asarray([True, True, False, True, True, False])


def top(e):
    return jnp.max(e, axis=-1, keepdims=True)


def total(e):
    return jnp.sum(e, axis=-1, keepdims=True)


def shares(p):
    return p / total(p)


def written_twice(e):
    return jnp.exp(e - held(top(e))) / total(jnp.exp(e - held(top(e))))


def by_reciprocal(e):
    p = jnp.exp(e - held(top(e)))
    return p * (1 / total(p))


def by_lax_reciprocal(e):
    p = jnp.exp(e - held(top(e)))
    return p * lax.reciprocal(total(p))


def by_power(e):
    p = jnp.exp(e - top(e))
    return p * total(p) ** -1


def by_product_with_ones(e):
    p = jnp.exp(e - held(top(e)))
    return p / (p @ jnp.ones((e.shape[-1], 1), e.dtype))


def by_einsum(e):
    p = jnp.exp(e - held(top(e)))
    return p / jnp.einsum("...i->...", p)[..., None]


def by_mean(e):
    p = jnp.exp(e - held(top(e)))
    return p / (jnp.mean(p, axis=-1, keepdims=True) * p.shape[-1])


def by_window(e):
    p = jnp.exp(e - held(top(e)))
    full = (1,) * (e.ndim - 1) + (e.shape[-1],)
    return p / lax.reduce_window(p, np.zeros((), e.dtype), lax.add, full, (1,) * e.ndim, "VALID")


def by_segments(e):
    count = e.size // e.shape[-1]
    ids = np.repeat(np.arange(count), e.shape[-1])
    flat = e.reshape(-1)
    p = jnp.exp(flat - held(jax.ops.segment_max(flat, ids, count)[ids]))
    return (p / jax.ops.segment_sum(p, ids, count)[ids]).reshape(e.shape)


def stabilised(e):
    p = jnp.exp(e - held(top(e)))
    return p / (total(p) + 1e-9)


SOFTMAX = {
    "jax.nn": lambda e: jax.nn.softmax(e, axis=-1),
    "maximum held": lambda e: shares(jnp.exp(e - held(top(e)))),
    "maximum": lambda e: shares(jnp.exp(e - top(e))),
    "no maximum": lambda e: shares(jnp.exp(e)),
    "shift by a number": lambda e: shares(jnp.exp(e - 1.5)),
    "shift by a mean": lambda e: shares(jnp.exp(e - jnp.mean(e, axis=-1, keepdims=True))),
    "twice maximum": lambda e: jax.nn.softmax(e - top(e), axis=-1),
    "written twice": written_twice,
    "reciprocal": by_reciprocal,
    "lax.reciprocal": by_lax_reciprocal,
    "power -1": by_power,
    "exp2": lambda e: shares(jnp.exp2((e - held(top(e))) * np.log2(np.e))),
    "power of e": lambda e: shares(jnp.power(np.e, e - held(top(e)))),
    "exp of log_softmax": lambda e: jnp.exp(jax.nn.log_softmax(e, axis=-1)),
    "exp of e - logsumexp": lambda e: jnp.exp(e - jax.nn.logsumexp(e, axis=-1, keepdims=True)),
    "where": lambda e: jax.nn.softmax(e, axis=-1, where=jnp.ones(e.shape, bool)),
    "sum as product": by_product_with_ones,
    "sum as einsum": by_einsum,
    "sum as mean": by_mean,
    "sum as window": by_window,
    "segments": by_segments,
    "stabilised": stabilised,
    "first axis": lambda e: jnp.moveaxis(jax.nn.softmax(jnp.moveaxis(e, -1, 0), axis=0), 0, -1),
    "renormalised": lambda e: shares(jax.nn.softmax(e, axis=-1)),
    "vmap": lambda e: jax.vmap(jax.nn.softmax)(e),
    "in float32": lambda e: jax.nn.softmax(e.astype(jnp.float32), axis=-1).astype(e.dtype),
}
ROUNDED = ["in float32", "stabilised"]

operation(
    "softmax",
    {name: lambda h, p, s=s: s(h) * p.g for name, s in SOFTMAX.items()},
    holds="softmax",
    rounded=ROUNDED,
    g=(F,),
)

MASKED = {
    "where=": lambda e: jax.nn.softmax(e, axis=-1, where=MASK),
    "where after": lambda e: shares(jnp.where(MASK, jnp.exp(e - held(top(e))), 0)),
    "product after": lambda e: shares(jnp.exp(e - held(top(e))) * MASK.astype(e.dtype)),
    "-inf before": lambda e: jax.nn.softmax(jnp.where(MASK, e, -jnp.inf), axis=-1),
    "-1e30 before": lambda e: jax.nn.softmax(jnp.where(MASK, e, -1e30), axis=-1),
    "-1e30 added": lambda e: jax.nn.softmax(e + np.where(MASK, 0.0, -1e30).astype(e.dtype), axis=-1),
    "softmax, then masked": lambda e: shares(jnp.where(MASK, jax.nn.softmax(e, axis=-1), 0)),
}
operation("masked softmax", {name: lambda h, p, s=s: s(h) * p.g for name, s in MASKED.items()}, holds="softmax", g=(F,))


def lse_shifted(e):
    return top(e) + jnp.log(total(jnp.exp(e - top(e))))


def lse_held(e):
    m = held(top(e))
    return jnp.log(total(jnp.exp(e - m))) + m


LOGSUMEXP = {
    "jax.nn": lambda e: jax.nn.logsumexp(e, axis=-1, keepdims=True),
    "plain": lambda e: jnp.log(total(jnp.exp(e))),
    "maximum": lse_shifted,
    "maximum held": lse_held,
    "shift by a number": lambda e: jnp.log(total(jnp.exp(e - 2.0))) + 2.0,
    "logaddexp": lambda e: jnp.logaddexp(
        jax.nn.logsumexp(e[..., :2], axis=-1, keepdims=True), jax.nn.logsumexp(e[..., 2:], axis=-1, keepdims=True)
    ),
}
operation(
    "logsumexp",
    {name: lambda h, p, s=s: h * p.g + s(h) for name, s in LOGSUMEXP.items()},
    holds="softmax",
    g=(F,),
)
operation(
    "logsumexp pooling",
    {
        name: lambda h, p, s=s: jnp.broadcast_to(s(h.swapaxes(1, 2)).swapaxes(1, 2), h.shape) * p.g
        for name, s in LOGSUMEXP.items()
    },
    holds="softmax",
    g=(F,),
)


def shifted_twice(e):
    d = e - held(top(e))
    return d - jnp.log(total(jnp.exp(d)))


operation(
    "log_softmax",
    {
        "jax.nn": lambda h, p: jax.nn.log_softmax(h, axis=-1) @ p.w,
        "log of softmax": lambda h, p: jnp.log(jax.nn.softmax(h, axis=-1)) @ p.w,
        "h - logsumexp": lambda h, p: (h - jax.nn.logsumexp(h, axis=-1, keepdims=True)) @ p.w,
        "shifted": lambda h, p: shifted_twice(h) @ p.w,
        "plain": lambda h, p: (h - jnp.log(total(jnp.exp(h)))) @ p.w,
    },
    holds="softmax",
    w=(F, F),
)


def attention(softmax):
    def attend(h, p):
        scores = (h @ p.wq) @ (h @ p.wk).swapaxes(1, 2) / np.sqrt(F)
        return softmax(scores) @ (h @ p.wv)

    return attend


def attention_divided_late(divide):
    """Attention of exponentials alone, and what divides their product with the values by their sum."""

    def attend(h, p):
        scores = (h @ p.wq) @ (h @ p.wk).swapaxes(1, 2) / np.sqrt(F)
        parts = jnp.exp(scores - held(top(scores)))
        return divide(parts, h @ p.wv)

    return attend


LATE = {
    "divided last": lambda e, v: (e @ v) / total(e),
    "divided last by einsum": lambda e, v: jnp.einsum("nqk,nkf->nqf", e, v) / e.sum(-1)[..., None],
    "times reciprocal last": lambda e, v: (e @ v) * (1 / total(e)),
    "stabilised last": lambda e, v: (e @ v) / (total(e) + 1e-9),
    "guarded last": lambda e, v: (e @ v) / jnp.where(total(e) == 0, 1, total(e)),
    "sum of products": lambda e, v: (e[..., None] * v[:, None]).sum(2) / total(e),
    "transposed": lambda e, v: (v.swapaxes(1, 2) @ e.swapaxes(1, 2) / e.sum(-1)[:, None]).swapaxes(1, 2),
}


def attention_by_einsum(h, p):
    q, k, v = jnp.einsum("npf,cfg->cnpg", h, jnp.stack([p.wq, p.wk, p.wv]))
    weights = jax.nn.softmax(jnp.einsum("nqf,nkf->nqk", q / np.sqrt(F), k), axis=-1)
    return jnp.einsum("nqk,nkf->nqf", weights, v)


def attention_of_keys_first(h, p):
    scores = lax.dot_general(h @ p.wk, h @ p.wq, (((2,), (2,)), ((0,), (0,)))) * (F**-0.5)
    return jnp.einsum("nkq,nkf->nqf", jax.nn.softmax(scores, axis=1), h @ p.wv)


def attention_of_jax(h, p):
    heads = [(h @ w)[:, :, None] for w in (p.wq, p.wk, p.wv)]
    return jax.nn.dot_product_attention(*heads, implementation="xla")[:, :, 0]


operation(
    "attention",
    {
        **{name: attention(s) for name, s in SOFTMAX.items()},
        "einsum": attention_by_einsum,
        "keys first": attention_of_keys_first,
        "dot_product_attention": attention_of_jax,
        **{name: attention_divided_late(divide) for name, divide in LATE.items()},
        "vmap": lambda h, p: jax.vmap(lambda t: attention(SOFTMAX["jax.nn"])(t[None], p)[0])(h),
    },
    holds="softmax",
    rounded=[*ROUNDED, "dot_product_attention", "stabilised last"],
    **dict.fromkeys(("wq", "wk", "wv"), (F, F)),
)


def softmax_of_top_k(h, p):
    values, chosen = lax.top_k(h @ p.w, 2)
    return jax.nn.softmax(values, axis=-1), chosen


def top_k_of_softmax(h, p):
    values, chosen = lax.top_k(jax.nn.softmax(h @ p.w, axis=-1), 2)
    return shares(values), chosen


def mixture(route):
    def mix(h, p):
        weights, chosen = route(h, p)
        outputs = jnp.einsum("npf,fge->npeg", h, p.wexperts)
        return (jnp.take_along_axis(outputs, chosen[..., None], axis=2) * weights[..., None]).sum(2)

    return mix


operation(
    "mixture of experts",
    {"softmax of top_k": mixture(softmax_of_top_k), "top_k of softmax": mixture(top_k_of_softmax)},
    holds="softmax",
    w=(F, 4),
    wexperts=(F, F, 4),
)
