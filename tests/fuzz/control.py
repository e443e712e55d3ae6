"""Operations that hold others: residual sums, control flow, products and mixtures of two paths."""

import jax
import jax.numpy as jnp
from fuzz.table import F, P, operation
from jax import lax

operation(
    "residual",
    {
        "h + f(h)": lambda h, p, f: h + f(h),
        "f(h) + h": lambda h, p, f: f(h) + h,
        "sum of a stack": lambda h, p, f: jnp.stack([h, f(h)]).sum(0),
        "minus minus": lambda h, p, f: h - (-f(h)),
        "twice the mean": lambda h, p, f: jnp.mean(jnp.stack([h, f(h)]), axis=0) * 2,
        "add_any": lambda h, p, f: sum([f(h)], start=h),
    },
    inner=1,
)
operation(
    "three summands",
    {
        "left": lambda h, p, f, g: (h + f(h)) + g(h),
        "right": lambda h, p, f, g: h + (f(h) + g(h)),
        "outer first": lambda h, p, f, g: (h + g(h)) + f(h),
        "minus": lambda h, p, f, g: h - (-f(h) - g(h)),
    },
    inner=2,
)
operation(
    "product of two paths",
    {
        "f * g": lambda h, p, f, g: f(h) * g(h),
        "g * f": lambda h, p, f, g: g(h) * f(h),
        "einsum": lambda h, p, f, g: jnp.einsum("npf,npf->npf", f(h), g(h)),
        "prod": lambda h, p, f, g: jnp.prod(jnp.stack([f(h), g(h)]), axis=0),
    },
    holds="product",
    inner=2,
)
operation(
    "concatenate and dense",
    {
        "@": lambda h, p, f, g: jnp.concatenate([f(h), g(h)], axis=-1) @ p.w,
        "set": lambda h, p, f, g: (
            jnp.zeros((*h.shape[:2], 2 * F), h.dtype).at[..., :F].set(f(h)).at[..., F:].set(g(h)) @ p.w
        ),
        "stack": lambda h, p, f, g: jnp.stack([f(h), g(h)], axis=2).reshape(*h.shape[:2], 2 * F) @ p.w,
    },
    inner=2,
    w=(2 * F, F),
)


def custom(f):
    @jax.custom_jvp
    def call(h):
        return f(h)

    call.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return call


def custom_back(f):
    @jax.custom_vjp
    def call(h):
        return f(h)

    call.defvjp(lambda h: jax.vjp(f, h), lambda back, cotangent: back(cotangent))
    return call


operation(
    "call",
    {
        "plain": lambda h, p, f: f(h),
        "jit": lambda h, p, f: jax.jit(f)(h),
        "remat": lambda h, p, f: jax.checkpoint(f)(h),
        "cond": lambda h, p, f: lax.cond(True, f, jnp.zeros_like, h),
        "cond of a number": lambda h, p, f: lax.cond(p.s[0] > 0, f, jnp.zeros_like, h),
        "switch": lambda h, p, f: lax.switch(1, [jnp.zeros_like, f], h),
        "scan of one turn": lambda h, p, f: lax.scan(lambda c, _: (f(c), None), h, length=1)[0],
        "custom_jvp": lambda h, p, f: custom(f)(h),
        "custom_vjp": lambda h, p, f: custom_back(f)(h),
        "vmap of examples": lambda h, p, f: jax.vmap(lambda t: f(t[None])[0])(h),
        "map of examples": lambda h, p, f: lax.map(lambda t: f(t[None])[0], h),
        "batch reversed": lambda h, p, f: f(h[::-1])[::-1],
        "batch padded": lambda h, p, f: f(jnp.pad(h, ((0, 1), (0, 0), (0, 0)), mode="edge"))[: h.shape[0]],
    },
    inner=1,
    s=(1,),
)


def in_python(h, f):
    for _ in range(2):
        h = f(h)
    return h


operation(
    "repeat",
    {
        "loop": lambda h, p, f: in_python(h, f),
        "scan": lambda h, p, f: lax.scan(lambda c, _: (f(c), None), h, length=2)[0],
        "scan, unrolled": lambda h, p, f: lax.scan(lambda c, _: (f(c), None), h, length=2, unroll=2)[0],
        "fori_loop": lambda h, p, f: lax.fori_loop(0, 2, lambda _, c: f(c), h),
        "scan of remat": lambda h, p, f: lax.scan(lambda c, _: (jax.checkpoint(f)(c), None), h, length=2)[0],
    },
    inner=1,
)


def step(p):
    return lambda c, t: jnp.tanh(t @ p.w + c @ p.wstate)


def recurrence(h, p):
    states = [h[:, 0]]
    for k in range(1, P):
        states.append(step(p)(states[-1], h[:, k]))
    return jnp.stack(states, axis=1)


def recurrence_in_scan(h, p):
    turn = lambda c, t: (step(p)(c, t),) * 2
    _, states = lax.scan(turn, h[:, 0], h[:, 1:].swapaxes(0, 1))
    return jnp.concatenate([h[:, :1], states.swapaxes(0, 1)], axis=1)


def recurrence_of_examples(h, p):
    return jax.vmap(lambda t: recurrence_in_scan(t[None], p)[0])(h)


def gru(h, c, p):
    z = jax.nn.sigmoid(h @ p.w + c @ p.wstate)
    return z, jnp.tanh(h @ p.wnew + c @ p.wold)


def recurrent_gates(blend, scan):
    def run(h, p):
        turn = lambda c, t: (blend(c, *gru(t, c, p)),) * 2
        c, states = h[:, 0], [h[:, 0]]
        if scan:
            return jnp.concatenate([h[:, :1], lax.scan(turn, c, h[:, 1:].swapaxes(0, 1))[1].swapaxes(0, 1)], axis=1)
        for k in range(1, P):
            c, _ = turn(c, h[:, k])
            states.append(c)
        return jnp.stack(states, axis=1)

    return run


operation(
    "recurrence",
    {"loop": recurrence, "scan": recurrence_in_scan, "vmap of a scan": recurrence_of_examples},
    w=(F, F),
    wstate=(F, F),
)
operation(
    "gated recurrence",
    {
        "loop": recurrent_gates(lambda c, z, n: (1 - z) * n + z * c, scan=False),
        "scan": recurrent_gates(lambda c, z, n: (1 - z) * n + z * c, scan=True),
        "loop, difference": recurrent_gates(lambda c, z, n: n + z * (c - n), scan=False),
        "scan, difference": recurrent_gates(lambda c, z, n: n + z * (c - n), scan=True),
    },
    holds="product",
    **dict.fromkeys(("w", "wstate", "wnew", "wold"), (F, F)),
)
