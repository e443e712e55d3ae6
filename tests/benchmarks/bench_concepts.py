"""Seconds per concept of VGG16's last convolution, beside zennit-crp on the same weights and photograph: `make bench`.

Both run on CPU, zennit-crp on PyTorch in a process of its own, by an interpreter that has both, while this one waits.
Times are medians of rounds after one that warms up (jrlrp compiles in that one); both have to find the same maps.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bench_speed import compiled, timed
from networks import Network, vgg16
from rich import box
from rich.console import Console
from rich.table import Table

import jrlrp
from jrlrp.concepts import maps

LAYER = "conv#12"
RULES = {"ε-plus": jrlrp.epsilon_plus(), "ε-plus-flat": jrlrp.epsilon_plus_flat()}


def measure(network: Network, rules: Any, count: int, at_a_time: int, rounds: int) -> tuple[np.ndarray, float, float]:
    """Return the maps of the first channels, summed over colours, seconds for all of them, and for compiling."""

    def explain(weights: Any, x: jax.Array) -> jax.Array:
        model = lambda x: network.apply(weights, x)
        return maps(model, LAYER, channels=np.arange(count), rules=rules, batch_size=at_a_time)(x)

    args = jax.device_put((network.weights, network.x[:1]))
    run = compiled(explain, *args)
    times = [timed(run.call, *args) for _ in range(rounds + 1)]
    return np.asarray(run.call(*args))[:, 0].sum(-1), statistics.median(times[1:]), run.compile_seconds


def ask_peer(python: str, network: Network, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `peer_concepts.py` says, and the maps that it finds."""
    logits = np.asarray(jax.jit(network.apply)(network.weights, network.x[:1]))
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "network.npz", Path(folder) / "maps.npz"
        np.savez(given, x=network.x[:1], logits=logits, **network.arrays())
        command = [python, Path(__file__).with_name("peer_concepts.py"), given, found]
        for name in ("concepts", "at_a_time", "rounds"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(answer.stdout.splitlines()[-1]), dict(np.load(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=224, help="pixels along each side of the image")
    parser.add_argument("--concepts", type=int, default=32, help="how many channels")
    parser.add_argument("--at-a-time", type=int, default=16, help="how many of them together")
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each, after one to warm up")
    parser.add_argument("--peers", metavar="PYTHON", required=True, help="an interpreter with torch and zennit-crp")
    options = parser.parse_args()
    network = vgg16(options.size)
    theirs, wanted = ask_peer(options.peers, network, options)
    table = Table(*("rules", "zennit-crp", "jrlrp", "times faster", "compilation", "apart"), box=box.MARKDOWN)
    for name, rules in RULES.items():
        found, seconds, compilation = measure(network, rules, options.concepts, options.at_a_time, options.rounds)
        each, own = theirs["seconds"][name] / options.concepts, seconds / options.concepts
        apart = np.abs(found - wanted[name]).max() / np.abs(wanted[name]).max()
        table.add_row(
            name, f"{each:.3f} s", f"{own:.3f} s", f"× {each / own:.1f}", f"{compilation:.1f} s", f"{apart:.0e}"
        )
    console = Console(width=120)
    console.print(f"VGG16, {options.size} px, one image, {options.concepts} channels, {options.at_a_time} at a time")
    console.print(f"{theirs['versions']}; jax {jax.__version__}, {jax.devices()[0].device_kind}; seconds per concept")
    console.print(table)


if __name__ == "__main__":
    main()
