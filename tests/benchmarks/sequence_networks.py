"""The transformers and the LSTM of the benchmark, with random weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from networks import Network, Shapes, network

WIDTH, STEPS = 256, 128


def dense(n: int, m: int) -> Shapes:
    return {"kernel": (n, m), "bias": (m,)}


def linear(p: Any, x: jax.Array) -> jax.Array:
    return x @ p["kernel"] + p["bias"] if "bias" in p else x @ p["kernel"]


def layer_norm(x: jax.Array, p: Any) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def rms_norm(x: jax.Array, p: Any) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * p["scale"]


def attention(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    """Softmax attention of (batch, steps, heads, size)."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(*q.shape[:2], -1)


def rotated(x: jax.Array) -> jax.Array:
    """Return (batch, steps, heads, size) with rotary positions."""
    rates = 1e4 ** (-np.arange(0, x.shape[-1], 2, dtype=np.float32) / x.shape[-1])
    angles = np.arange(x.shape[1], dtype=np.float32)[:, None, None] * np.concatenate([rates, rates])
    a, b = jnp.split(x, 2, -1)
    return x * np.cos(angles) + jnp.concatenate([-b, a], -1) * np.sin(angles)


def transformer(width: int, steps: int, layers: int, heads: int, batch: int, causal: bool) -> Network:
    """Norms first, GELU: an encoder read at the mean, or, if causal, GPT-2's architecture read at the last position."""
    norm = {"scale": (width,), "bias": (width,)}
    block = {name: dense(width, width) for name in ("q", "k", "v", "out")}
    block |= {"up": dense(width, 4 * width), "down": dense(4 * width, width), "norm1": norm, "norm2": norm}
    words = 1000 if causal else 2
    shapes: Shapes = {f"block_{k}": block for k in range(layers)} | {"norm": norm, "head": dense(width, words)}

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        for k in range(layers):
            p = weights[f"block_{k}"]
            n = layer_norm(x, p["norm1"])
            q, key, v = (linear(p[name], n).reshape(*x.shape[:2], heads, -1) for name in "qkv")
            x = x + linear(p["out"], attention(q, key, v, causal))
            x = x + linear(p["down"], jax.nn.gelu(linear(p["up"], layer_norm(x, p["norm2"]))))
        x = layer_norm(x, weights["norm"])
        return linear(weights["head"], x[:, -1] if causal else x.mean(1))

    return network(apply, shapes, batch, steps, width)


def llama(width: int = 512, steps: int = 256, layers: int = 8, heads: int = 8, groups: int = 4) -> Network:
    """Llama's architecture: RMS norms, rotary positions, grouped queries, gated feed-forward layers."""
    size = width // heads
    norm, hidden = {"scale": (width,)}, 8 * width // 3
    block: Shapes = {"norm1": norm, "norm2": norm}
    sizes = {"q": (width, width), "k": (width, groups * size), "v": (width, groups * size), "out": (width, width)}
    sizes |= {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    block |= {name: {"kernel": kernel} for name, kernel in sizes.items()}
    shapes: Shapes = {f"block_{k}": block for k in range(layers)} | {"norm": norm, "head": {"kernel": (width, 1000)}}

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        for k in range(layers):
            p = weights[f"block_{k}"]
            n = rms_norm(x, p["norm1"])
            q, key, v = (linear(p[name], n).reshape(*x.shape[:2], -1, size) for name in "qkv")
            key, v = (jnp.repeat(part, heads // groups, 2) for part in (rotated(key), v))
            x = x + linear(p["out"], attention(rotated(q), key, v, causal=True))
            n = rms_norm(x, p["norm2"])
            x = x + linear(p["down"], jax.nn.silu(linear(p["gate"], n)) * linear(p["up"], n))
        return linear(weights["head"], rms_norm(x, weights["norm"])[:, -1])

    return network(apply, shapes, 1, steps, width)


def lstm(batch: int = 16, steps: int = STEPS) -> Network:
    """An LSTM over time, by `jax.lax.scan`."""
    shapes: Shapes = {
        "input": dense(WIDTH, 4 * WIDTH),
        "state": {"kernel": (WIDTH, 4 * WIDTH)},
        "head": dense(WIDTH, 2),
    }

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        def step(state: Any, x: jax.Array) -> tuple[Any, None]:
            h, c = state
            i, f, o, g = jnp.split(linear(weights["input"], x) + linear(weights["state"], h), 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zeros = jnp.zeros((x.shape[0], WIDTH))
        (h, _), _ = jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))
        return linear(weights["head"], h)

    return network(apply, shapes, batch, steps, WIDTH)


SEQUENCE_NETWORKS: dict[str, Callable[[], Network]] = {
    "transformer, 4 × 256, T 128": lambda: transformer(WIDTH, STEPS, 4, 4, batch=4, causal=False),
    "GPT-2, 12 × 768, T 256": lambda: transformer(768, 256, 12, 12, batch=1, causal=True),
    "Llama-like, 8 × 512, T 256": llama,
    "LSTM, 256, T 128": lstm,
}
