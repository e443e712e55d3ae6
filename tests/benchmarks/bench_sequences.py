"""How much dearer relevance is than one gradient in a transformer and an LSTM, and what a long loop takes to compile.

`make bench` runs this beside `bench_speed.py`, in whose way everything is measured.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_speed import add_rows, compiled, measure
from networks import Network, Shapes, network
from rich import box
from rich.console import Console
from rich.table import Table

import jrlrp

WIDTH, STEPS, LAYERS, HEADS = 256, 128, 4, 4
RULES = {
    "AttnLRP": jrlrp.attn_lrp(),
    "CP-LRP": jrlrp.cp_lrp(),
    "R-LRP": jrlrp.relative(),
    "ε": jrlrp.epsilon(),
}


def layer_norm(x: jax.Array, p: Any) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def encoder(batch: int = 4) -> Network:
    """A transformer encoder: norms first, softmax attention, GELU."""
    norm = {"scale": (WIDTH,), "bias": (WIDTH,)}
    dense = lambda n, m: {"kernel": (n, m), "bias": (m,)}
    block = {name: dense(WIDTH, WIDTH) for name in ("q", "k", "v", "out")}
    block |= {"up": dense(WIDTH, 4 * WIDTH), "down": dense(4 * WIDTH, WIDTH), "norm1": norm, "norm2": norm}
    shapes: Shapes = {f"block_{k}": block for k in range(LAYERS)} | {"head": dense(WIDTH, 2)}

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        for k in range(LAYERS):
            p = weights[f"block_{k}"]
            linear = lambda name, x, p=p: x @ p[name]["kernel"] + p[name]["bias"]
            n = layer_norm(x, p["norm1"])
            q, key, v = (linear(name, n).reshape(*x.shape[:2], HEADS, -1) for name in "qkv")
            weights_ = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, key) / np.sqrt(WIDTH / HEADS))
            x = x + linear("out", jnp.einsum("bhqk,bkhd->bqhd", weights_, v).reshape(x.shape))
            x = x + linear("down", jax.nn.gelu(linear("up", layer_norm(x, p["norm2"]))))
        return x.mean(1) @ weights["head"]["kernel"] + weights["head"]["bias"]

    return network(apply, shapes, batch, STEPS, WIDTH)


def lstm(batch: int = 16, steps: int = STEPS) -> Network:
    """An LSTM over time, by `jax.lax.scan`."""
    shapes: Shapes = {
        "input": {"kernel": (WIDTH, 4 * WIDTH), "bias": (4 * WIDTH,)},
        "state": {"kernel": (WIDTH, 4 * WIDTH)},
        "head": {"kernel": (WIDTH, 2), "bias": (2,)},
    }

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        def step(state: Any, x: jax.Array) -> tuple[Any, None]:
            h, c = state
            z = x @ weights["input"]["kernel"] + h @ weights["state"]["kernel"] + weights["input"]["bias"]
            i, f, o, g = jnp.split(z, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zeros = jnp.zeros((x.shape[0], WIDTH))
        (h, _), _ = jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))
        return h @ weights["head"]["kernel"] + weights["head"]["bias"]

    return network(apply, shapes, batch, steps, WIDTH)


def seconds_to_compile(steps: int) -> float:
    """Return what it takes to compile the relevance of an LSTM over so many steps: the shorter of two times."""
    net = lstm(1, steps)
    explain = lambda weights, x: jrlrp.relevance(lambda x: net.apply(weights, x))(x)
    return min(compiled(explain, net.weights, net.x).compile_seconds for _ in range(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each, after one to warm up")
    options, _ = parser.parse_known_args()  # those of bench_speed.py may be there too
    table = Table("network", "rules", "time", "compilation", "temporary memory", box=box.MARKDOWN)
    for name, net in (("transformer encoder", encoder()), ("LSTM", lstm())):
        add_rows(table, name, measure(name, net, options.rounds, RULES))
    console = Console()
    console.print(f"{WIDTH} features, {STEPS} steps, float32, jax {jax.__version__}")
    console.print(table)
    short, long = seconds_to_compile(10), seconds_to_compile(1000)
    console.print(f"compiling R-LRP of an LSTM: {short:.2f} s for 10 steps, {long:.2f} s for 1,000")


if __name__ == "__main__":
    main()
