"""Runs over data sets beside the bare jitted loop: throughput, and memory for a thousand and a hundred thousand items.

python tests/benchmarks/bench_runs.py
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import image_networks
import jax
import numpy as np

import jrlrp
from jrlrp import runs

SIZE = 256
SOURCE = np.random.default_rng(0).uniform(size=(4096, 32, 32, 1)).astype(np.float32)


class Items:
    """So many images, of some that are there again and again."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> np.ndarray:
        return SOURCE[k % len(SOURCE)]


def explaining():
    network = image_networks.NETWORKS["CNN"].network
    variables = network.init(jax.random.key(0), SOURCE[:1])
    return jax.jit(jrlrp.value_and_relevance(lambda x: network.apply(variables, x)))


def bare(explain, items: Items) -> float:
    """Return how long the loop takes that everyone writes: batches out of an array, results fetched and dropped."""
    jax.block_until_ready(explain(SOURCE[:SIZE]))
    started = time.monotonic()
    for start in range(0, len(items), SIZE):
        jax.device_get(explain(SOURCE[start % len(SOURCE) :][:SIZE]))
    return time.monotonic() - started


def stored(explain, items: Items, **options) -> float:
    """Return how long a run takes, without its compilation."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"batch_size": SIZE, "progress": False} | options
        runs.attribute(explain, Items(SIZE), f"{folder}/warm", **options)
        started = time.monotonic()
        runs.attribute(explain, items, f"{folder}/run", **options)
        return time.monotonic() - started


def memory(count: int) -> float:
    """Return the largest memory, in MiB, of a process that explains so many items."""
    command = [sys.executable, __file__, "--only", str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, help="explain so many items, and print this process's memory in MiB")
    parser.add_argument("--items", type=int, default=10_000)
    options = parser.parse_args()
    explain = explaining()
    reductions = {"mean": runs.Mean(absolute=True)}
    if options.only:
        stored(explain, Items(options.only), reductions=reductions)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    items = Items(options.items)
    loop = min(bare(explain, items) for _ in range(3))
    print(f"{options.items} images of 32 × 32 through a CNN, {SIZE} at a time; bare loop: {options.items / loop:.0f}/s")
    for name, own in (
        ("maps", {}),
        ("maps, mean |R|", {"reductions": reductions}),
        ("mean |R| alone", {"reductions": reductions, "maps": False}),
    ):
        seconds = min(stored(explain, items, **own) for _ in range(3))
        print(f"{name}: {options.items / seconds:.0f}/s, {loop / seconds:.0%} of the bare loop")
    for count in (1_000, 100_000):
        print(f"{count} items: {memory(count):.0f} MiB")


if __name__ == "__main__":
    main()
