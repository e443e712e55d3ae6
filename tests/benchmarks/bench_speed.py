"""How much dearer relevance is than one gradient: `make bench`.

Each rule is timed beside `jax.grad` of the same score, in one process, in turns, both jitted; the table shows the ratio
of medians of wall time, of compile time, and of the temporary memory that XLA plans.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import jrlrp

RULES = {
    "ε": jrlrp.epsilon(),
    "R-LRP": jrlrp.relative(),
    "ε-plus": jrlrp.epsilon_plus(),
    "α2β1": jrlrp.AlphaBeta(),
}


@dataclass(frozen=True)
class Compiled:
    """A compiled function of (weights, x), and what its compilation took."""

    call: Callable
    compile_seconds: float
    temporary_bytes: int


def conv(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def max_pool(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def weights_of(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32) * np.float32(np.sqrt(2 / np.prod(shape[:-1])))


VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def vgg16(size: int) -> tuple[Callable, Any, tuple[int, ...]]:
    """VGG16 with its dense head, random weights, a batch of two."""
    rng, channels, weights = np.random.default_rng(0), 3, []
    for width in VGG:
        if width != "M":
            weights.append((weights_of(rng, 3, 3, channels, width), np.zeros(width, np.float32)))
            channels = width
    spatial = size // 32
    for n, m in ((512 * spatial**2, 4096), (4096, 4096), (4096, 1000)):
        weights.append((weights_of(rng, n, m), np.zeros(m, np.float32)))

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        layers = iter(weights)
        for width in VGG:
            if width == "M":
                x = max_pool(x)
            else:
                w, b = next(layers)
                x = jax.nn.relu(conv(x, w) + b)
        x = x.reshape(x.shape[0], -1)
        for k, (w, b) in enumerate(layers):
            x = x @ w + b
            x = jax.nn.relu(x) if k < 2 else x
        return x

    return apply, weights, (2, size, size, 3)


def resnet18(size: int) -> tuple[Callable, Any, tuple[int, ...]]:
    """ResNet-18 with batch norm of its own after each convolution, random weights, a batch of two."""
    rng = np.random.default_rng(0)

    def layer(*shape: int) -> dict[str, np.ndarray]:
        width = shape[-1]
        return {
            "kernel": weights_of(rng, *shape),
            "mean": rng.normal(size=width).astype(np.float32) * 0.1,
            "var": rng.uniform(0.5, 2, size=width).astype(np.float32),
            "gain": rng.uniform(0.5, 1.5, size=width).astype(np.float32),
            "bias": rng.normal(size=width).astype(np.float32) * 0.1,
        }

    weights: dict[str, Any] = {"stem": layer(7, 7, 3, 64), "blocks": []}
    channels, strides = 64, []
    for width in (64, 128, 256, 512):
        for k in range(2):
            strides.append(2 if k == 0 and width > 64 else 1)
            block = {"a": layer(3, 3, channels, width), "b": layer(3, 3, width, width)}
            if channels != width:
                block["skip"] = layer(1, 1, channels, width)
            weights["blocks"].append(block)
            channels = width
    weights["head"] = weights_of(rng, 512, 1000)

    def conv_norm(x: jax.Array, p: Any, stride: int = 1) -> jax.Array:
        x = conv(x, p["kernel"], stride)
        return (x - p["mean"]) * (jax.lax.rsqrt(p["var"] + 1e-5) * p["gain"]) + p["bias"]

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        x = max_pool(jax.nn.relu(conv_norm(x, weights["stem"], 2)))
        for block, stride in zip(weights["blocks"], strides, strict=True):
            y = jax.nn.relu(conv_norm(x, block["a"], stride))
            y = conv_norm(y, block["b"])
            x = jax.nn.relu(y + (conv_norm(x, block["skip"], stride) if "skip" in block else x))
        return x.mean((1, 2)) @ weights["head"]

    return apply, weights, (2, size, size, 3)


MODELS = {"VGG16": vgg16, "ResNet-18": resnet18}


def compiled(function: Callable, *args: Any) -> Compiled:
    lowered = jax.jit(function).lower(*args)
    start = time.perf_counter()
    executable = lowered.compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    return Compiled(executable, seconds, memory.temp_size_in_bytes if memory else 0)


def timed(call: Callable, *args: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call(*args))
    return time.perf_counter() - start


def measure(name: str, size: int, rounds: int, table: Table) -> None:
    apply, weights, shape = MODELS[name](size)
    weights = jax.tree.map(jnp.asarray, weights)
    x = jnp.asarray(np.random.default_rng(1).normal(size=shape).astype(np.float32))

    def score(weights: Any, x: jax.Array) -> jax.Array:
        return apply(weights, x).max(-1).sum()

    def explain(rules: Any) -> Callable:
        return lambda weights, x: jrlrp.relevance(lambda x: apply(weights, x), rules=rules)(x)

    runs = {"gradient": compiled(jax.grad(score, argnums=1), weights, x)}
    runs |= {rule: compiled(explain(rules), weights, x) for rule, rules in RULES.items()}
    seconds: dict[str, list[float]] = {rule: [] for rule in runs}
    for k in track(range(rounds + 1), description=name, transient=True):
        for rule, run in runs.items():
            elapsed = timed(run.call, weights, x)
            if k:  # the first round warms up
                seconds[rule].append(elapsed)
    base, base_seconds = runs["gradient"], statistics.median(seconds["gradient"])
    table.add_row(
        name, "gradient", f"{base_seconds:.2f} s", f"{base.compile_seconds:.1f} s", _mib(base.temporary_bytes)
    )
    for rule in RULES:
        run = runs[rule]
        table.add_row(
            "",
            rule,
            f"× {statistics.median(seconds[rule]) / base_seconds:.2f}",
            f"× {run.compile_seconds / base.compile_seconds:.2f}",
            f"× {run.temporary_bytes / max(base.temporary_bytes, 1):.2f}",
        )


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=224, help="pixels along each side of the images")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each, after one to warm up")
    parser.add_argument("--models", default=",".join(MODELS), help="which of them, by comma")
    options = parser.parse_args()
    table = Table("network", "rules", "time", "compilation", "temporary memory", box=box.MARKDOWN)
    for name in options.models.split(","):
        measure(name, options.size, options.rounds, table)
    Console().print(f"{jax.devices()[0].device_kind}, {options.size} px, batch of 2, float32, jax {jax.__version__}")
    Console().print(table)


if __name__ == "__main__":
    main()
