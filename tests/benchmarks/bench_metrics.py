"""How long metrics take beside quantus, of the same networks, examples and maps: `make bench`.

Both run on CPU, quantus on PyTorch in a process of its own, by an interpreter that has both, while this one waits.
What is explained is each example's class, by gradient × input. Times are medians of rounds after one that warms up;
jrlrp compiles in that one, and the table shows what its first call took longer than the others. Where a job has no
chance in it, both have to find the same numbers. The network alone, without a metric, says how much is its doing.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from networks import Network, conv, max_pool, network, resnet18
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import jrlrp
from jrlrp import metrics

STEPS = {"alone": 20, "flipping": 24, "regions": 20}  # quantus's steps have to divide the number of pixels
SAMPLES = 10
BATCH = 64


def small_cnn(size: int) -> Network:
    """Three convolutions, two max-pools and two dense layers."""
    shapes: dict[str, Any] = {}
    for k, (channels, width) in enumerate(((3, 32), (32, 32), (32, 64))):
        shapes[f"conv_{k}"] = {"kernel": (3, 3, channels, width), "bias": (width,)}
    for k, (channels, width) in enumerate((((size // 4) ** 2 * 64, 128), (128, 10))):
        shapes[f"dense_{k}"] = {"kernel": (channels, width), "bias": (width,)}

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        def convolved(x: jax.Array, name: str) -> jax.Array:
            return jax.nn.relu(conv(x, weights[name]["kernel"]) + weights[name]["bias"])

        x = max_pool(convolved(convolved(x, "conv_0"), "conv_1"), 2)
        x = max_pool(convolved(x, "conv_2"), 2)
        x = x.reshape(x.shape[0], -1)
        x = jax.nn.relu(x @ weights["dense_0"]["kernel"] + weights["dense_0"]["bias"])
        return x @ weights["dense_1"]["kernel"] + weights["dense_1"]["bias"]

    return network(apply, shapes, BATCH, size, size, 3)


# The layers to draw anew, from the output on; quantus counts a batch norm as a layer, ResNet-18's tree does not.
# ResNet-18 has images of 96 pixels: of 64, its last maps would have 2 × 2, and a convolution of those takes XLA some
# sixty times as long on CPU as PyTorch.
MODELS = {  # what makes it, pixels along each side, examples, layers
    "CNN": (small_cnn, 32, 64, ("dense_1", "dense_0", "conv_2", "conv_1", "conv_0")),
    "ResNet-18": (resnet18, 96, 16, ()),
}


def jobs(net: Network, target: np.ndarray, maps: np.ndarray, layers: tuple[str, ...]) -> dict[str, Callable]:
    """Return what is measured, as functions without arguments that return NumPy arrays."""
    partial = jax.tree_util.Partial
    weights, x, target, maps = jax.device_put((net.weights, net.x, target, maps))

    def explain(weights: Any, x: jax.Array, target: jax.Array) -> jax.Array:
        model = lambda x: net.apply(weights, x)
        return jrlrp.relevance(model, rules=jrlrp.gradient_times_input(), target=target)(x)

    model = partial(net.apply, weights)
    side = x.shape[1] // 8
    curve = {"target": target, "replace": x.min((1, 2, 3), keepdims=True), "batch_size": BATCH}
    flipping = np.arange(1, STEPS["flipping"] + 1) / STEPS["flipping"]
    regions = np.arange(STEPS["regions"] + 1) / 64

    def region_perturbation() -> np.ndarray:
        values = metrics.perturbation(model, x, maps.sum(-1), levels=regions, region=side, **curve).values
        return values[:, :1] - values[:, 1:]

    forward = jax.jit(model)
    found: dict[str, Callable] = {
        "the network alone": lambda: np.stack([np.asarray(forward(x)) for _ in range(STEPS["alone"])]),
        "pixel flipping": lambda: metrics.perturbation(model, x, maps, levels=flipping, **curve).values,
        "region perturbation": region_perturbation,
        "max sensitivity": lambda: (
            metrics.sensitivity(
                partial(explain, weights), x, target=target, radius=0.1, samples=SAMPLES, batch_size=BATCH
            ).maximum
        ),
    }
    if layers:
        again = partial(lambda x, target, weights: explain(weights, x, target), x, target)
        found["randomisation"] = lambda: metrics.randomisation(again, net.weights, layers).rank_correlation
    return found


def timed(job: Callable) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    found = np.asarray(job())
    return time.perf_counter() - start, found


def ask_quantus(python: str, name: str, net: Network, arrays: dict[str, np.ndarray], rounds: int) -> dict[str, Any]:
    """Return what `peer_metrics.py` measures, and the numbers that it finds."""
    with tempfile.TemporaryDirectory() as folder:
        file, found = Path(folder) / "network.npz", Path(folder) / "found.npz"
        np.savez(file, x=net.x, **arrays, **net.arrays())
        command = [python, Path(__file__).with_name("peer_metrics.py"), name, file, found, "--rounds", str(rounds)]
        command += ["--steps", json.dumps(STEPS), "--samples", str(SAMPLES)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(answer.stdout.splitlines()[-1]) | {"found": dict(np.load(found))}


def add_rows(table: Table, name: str, options: argparse.Namespace) -> str:
    """Measure a network; return the versions of the peers."""
    make, size, examples, layers = MODELS[name]
    net = make(size)
    rng = np.random.default_rng(1)
    net = replace(net, x=rng.standard_normal((examples, size, size, 3), np.float32))
    logits = np.asarray(jax.jit(net.apply)(net.weights, net.x))
    target = logits.argmax(-1)
    explain = jrlrp.relevance(jax.tree_util.Partial(net.apply, net.weights), rules=jrlrp.gradient_times_input())
    maps = np.asarray(jax.jit(explain)(net.x))
    runs = {job: [timed(run)] for job, run in jobs(net, target, maps, layers).items()}
    for job, run in track(jobs(net, target, maps, layers).items(), description=name, transient=True):
        runs[job] += [timed(run) for _ in range(options.rounds)]
    arrays = {"logits": logits, "target": target, "maps": maps}
    answer = ask_quantus(options.peers, name, net, arrays, options.rounds)
    for k, (job, mine) in enumerate(runs.items()):
        first, *seconds = (taken for taken, _ in mine)
        theirs, ours = answer["seconds"][job], statistics.median(seconds)
        row = f"{theirs:.2f} s", f"{ours:.2f} s", f"× {theirs / ours:.1f}", f"{max(first - ours, 0):.1f} s"
        table.add_row(f"{name}, {examples} × {size} px" if k == 0 else "", job, *row)
        if job in answer["found"]:
            apart = np.abs(mine[0][1] - answer["found"][job]).max()
            if not apart < 1e-3:
                raise SystemExit(f"{name}, {job}: jrlrp and quantus are {apart:.1e} apart; these are different jobs.")
    return answer["versions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", metavar="PYTHON", required=True, help="an interpreter that has torch and quantus")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each, after one to warm up")
    parser.add_argument("--models", default=",".join(MODELS), help="which of them, by comma")
    options = parser.parse_args()
    console, load = Console(), os.getloadavg()[0]
    if load > 0.5:
        console.print(f"Other programs are running (load {load:.1f}): times are not to be trusted.")
    table = Table("network", "metric", "torch, quantus", "jax, jrlrp", "times faster", "compilation", box=box.MARKDOWN)
    for name in options.models.split(","):
        versions = add_rows(table, name, options)
    device = jax.devices()[0].device_kind
    console.print(f"{device}, batches of {BATCH}, float32, jax {jax.__version__}")
    console.print(versions)
    console.print(table)


if __name__ == "__main__":
    main()
