"""A Llama-like model over a mesh of eight devices, and what its compiled programs send between them."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jrlrp

WIDTH, STEPS, LAYERS, HEADS = 64, 32, 2, 4
rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape) / shape[-2] ** 0.5, jnp.float32)


SHAPES = {"q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "out": (WIDTH, WIDTH)}
SHAPES |= {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}


def compiled(f, *args):
    return jax.jit(lambda *args: f(*args)).lower(*args).compile()


def pair(network, x, p, rules):
    """Return the compiled gradient of a score and the compiled relevance of it."""
    gradient = jax.grad(lambda x, p: network(x, p)[:, 0].sum())
    relevance = lambda x, p: jrlrp.relevance(lambda x: network(x, p), rules=rules, target=0)(x)
    return compiled(gradient, x, p), compiled(relevance, x, p)


def collectives(program):
    """Return how many arrays of each shape go through each kind of collective in a compiled program."""
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf" = (.*?) ({kinds})\(", program)
    arrays = [(array, kind) for shapes, kind in found for array in re.findall(r"\w+\[[\d,]*\]", shapes)]
    return collections.Counter(arrays)


TURNS = np.outer(np.arange(STEPS), 10_000.0 ** (-np.arange(WIDTH // 8) / (WIDTH // 8)))


def rms(x, gain):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * gain


def turned(x):
    """Rotary positions of queries or keys (N, T, heads, features)."""
    a, b = jnp.split(x, 2, -1)
    cos, sin = (jnp.asarray(f(TURNS)[:, None], x.dtype) for f in (np.cos, np.sin))
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def llama_block(x, p, total=lambda z: z):
    """RMS norms, rotary positions, causal attention, SwiGLU; `total` adds up what devices have of heads and units."""
    h = rms(x, p["gain"])
    q, k, v = ((h @ p[name]).reshape(*x.shape[:2], -1, WIDTH // HEADS) for name in "qkv")
    mixed = jax.nn.dot_product_attention(turned(q), turned(k), v, is_causal=True)
    x = x + total(mixed.reshape(*x.shape[:2], -1) @ p["out"])
    h = rms(x, p["gain"])
    return x + total((jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"])


def llama(x, p, block=llama_block):
    for n in range(LAYERS):
        x = block(x, jax.tree.map(lambda w, n=n: w[n], p))
    return rms(x, p["gain"][0]).mean(1)


def llama_weights():
    more = {"gate": (WIDTH, 4 * WIDTH), "gain": (1, WIDTH)}
    return {name: normal(LAYERS, *shape) for name, shape in (SHAPES | more).items()}


COLUMNS, ROWS = ("q", "k", "v", "up", "gate"), ("out", "down")
LAYOUTS = {  # how examples and weights are split
    "data": (P("data"), lambda name: P()),
    "tensor": (P("data"), lambda name: P(*[None] * (1 + (name in COLUMNS)), *["model"] * (name in (*COLUMNS, *ROWS)))),
    "fsdp": (P(("data", "model")), lambda name: P(None, *["data"] * (name != "gain"))),
}


def mesh():
    return Mesh(np.asarray(jax.devices()[:8]).reshape(2, HEADS), ("data", "model"))


def laid_out(layout):
    """Return examples and weights in a layout of LAYOUTS."""
    of_x, of_weight = LAYOUTS[layout]
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh(), spec))
    return put(normal(8, STEPS, WIDTH), of_x), {name: put(w, of_weight(name)) for name, w in llama_weights().items()}


def in_shard_map():
    """Return the model as one program for each device of the tensor layout, which adds up its parts itself."""
    of_x, of_weight = LAYOUTS["tensor"]
    own = functools.partial(llama_block, total=lambda z: jax.lax.psum(z, "model"))
    specs = {name: of_weight(name) for name in llama_weights()}
    return jax.shard_map(functools.partial(llama, block=own), mesh=mesh(), in_specs=(of_x, specs), out_specs=of_x)
