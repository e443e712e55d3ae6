"""How much dearer relevance is than one gradient: `make bench`.

Each rule stands beside `jax.grad` of the same score, in one process, in turns, all jitted; the table shows the ratios
of what XLA says of the compiled programs (FLOPs, bytes read and written, temporary memory, operations), of the medians
of wall time, and of compile time. With `--peers PYTHON`, an interpreter that has torch and zennit, a second table
compares with zennit on the same networks, on CPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from networks import BATCH, NETWORKS, Network
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import jrlrp

RULES = {
    "ε": jrlrp.epsilon(),
    "R-LRP": jrlrp.relative(),
    "R-LRP-plus": jrlrp.relative_plus(),
    "default": jrlrp.default(),
    "ε-plus": jrlrp.epsilon_plus(),
    "ε-plus-flat": jrlrp.epsilon_plus_flat(),
    "ε-γ-box": jrlrp.epsilon_gamma_box(-3.0, 3.0),
    "α2β1": jrlrp.epsilon_alpha2_beta1(),
}
COMPILATIONS = 2  # timed, of each


@dataclass
class Run:
    """A function of (weights, x) compiled, and what that and its calls took."""

    call: Callable
    flops: float
    bytes: float
    temporary_bytes: int
    operations: int
    compile_seconds: float
    seconds: float = 0.0


def compiled(function: Callable, *args: Any) -> Run:
    lowered = jax.jit(lambda *args: function(*args)).lower(*args)  # a new function, so that nothing is remembered
    start = time.perf_counter()
    executable = lowered.compile()
    seconds = time.perf_counter() - start
    costs, memory = executable.cost_analysis(), executable.memory_analysis()
    operations = executable.as_text().count(" = ")
    flops, read_and_written = (costs.get(name, float("nan")) for name in ("flops", "bytes accessed"))
    return Run(executable, flops, read_and_written, memory.temp_size_in_bytes, operations, seconds)


def timed(call: Callable, *args: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call(*args))
    return time.perf_counter() - start


def compile_all(functions: dict[str, Callable], *args: Any) -> dict[str, Run]:
    """Compile each function, in turns; the time is the shortest, the first turn pays for XLA's start as well."""
    compiled(functions["gradient"], *args)
    turns = [{name: compiled(function, *args) for name, function in functions.items()} for _ in range(COMPILATIONS)]
    runs = turns[-1]
    for name, run in runs.items():
        run.compile_seconds = min(turn[name].compile_seconds for turn in turns)
    return runs


def measure(name: str, network: Network, rounds: int, rules: dict[str, Any] = RULES) -> dict[str, Run]:
    """Compile and time the gradient and every rule."""
    args = jax.device_put((network.weights, network.x))

    def score(weights: Any, x: jax.Array) -> jax.Array:
        return network.apply(weights, x).max(-1).sum()

    def explain(rules: Any) -> Callable:
        return lambda weights, x: jrlrp.relevance(lambda x: network.apply(weights, x), rules=rules)(x)

    functions = {"gradient": jax.grad(score, argnums=1)} | {rule: explain(rules[rule]) for rule in rules}
    runs = compile_all(functions, *args)
    seconds: dict[str, list[float]] = {rule: [] for rule in runs}
    for _ in track(range(rounds + 1), description=name, transient=True):
        for rule, run in runs.items():
            seconds[rule].append(timed(run.call, *args))
    for rule, run in runs.items():
        run.seconds = statistics.median(seconds[rule][1:])  # the first round warms up
    return runs


def ask_peers(python: str, name: str, network: Network, rounds: int) -> dict[str, Any]:
    """Return what `peers.py` measures on this network, in a process of its own while this one waits."""
    logits = jax.jit(network.apply)(network.weights, network.x)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.npz"
        np.savez(file, x=network.x, logits=logits, **network.arrays())
        command = [python, Path(__file__).with_name("peers.py"), name, file, "--rounds", str(rounds)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def table_of_costs() -> Table:
    costs = ("FLOPs", "bytes", "temporary memory", "operations", "time", "compilation")
    return Table("network", "rules", *costs, box=box.MARKDOWN)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each, after one to warm up")
    parser.add_argument("--batch", type=int, help="examples of an input; default: few")
    parser.add_argument("--dtype", default="float32", help="of weights and inputs")


def sized(network: Network, options: argparse.Namespace) -> Network:
    """Return the network as it is if no option says otherwise."""
    if options.batch is None and options.dtype == "float32":
        return network
    return network.of(options.batch or len(network.x), options.dtype)


def add_rows(table: Table, name: str, runs: dict[str, Run]) -> None:
    base = runs["gradient"]
    sizes = (f"{base.flops / 1e9:.3g} G", f"{base.bytes / 2**20:.0f} MiB", f"{base.temporary_bytes / 2**20:.0f} MiB")
    seconds = (f"{base.seconds:.3g} s", f"{base.compile_seconds:.1f} s")
    table.add_row(name, "gradient", *sizes, str(base.operations), *seconds)
    costs = ("flops", "bytes", "temporary_bytes", "operations", "seconds", "compile_seconds")
    for rule, run in list(runs.items())[1:]:
        ratios = (getattr(run, cost) / max(getattr(base, cost), 1e-9) for cost in costs)
        table.add_row("", rule, *(f"× {ratio:.2f}" for ratio in ratios))


def add_peer_rows(table: Table, name: str, runs: dict[str, Run], seconds: dict[str, float]) -> None:
    for k, (rule, theirs) in enumerate(seconds.items()):
        ours = runs[rule].seconds
        table.add_row(name if k == 0 else "", rule, f"{theirs:.2f} s", f"{ours:.2f} s", f"× {theirs / ours:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=224, help="pixels along each side of the images")
    add_options(parser)
    parser.add_argument("--rules", default=",".join(RULES), help="which of them, by comma")
    parser.add_argument("--models", default=",".join(NETWORKS), help="which of them, by comma")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has torch and zennit, to compare with")
    options = parser.parse_args()
    if options.peers and options.dtype != "float32":
        parser.error("the comparison with peers is in float32: leave out --dtype or --peers")
    console, load = Console(width=140), os.getloadavg()[0]
    if load > 0.5:  # PyTorch's threads wait for each other busily: a core shared makes them many times slower
        console.print(f"Other programs are running (load {load:.1f}): times are not to be trusted, PyTorch's least.")
    table = table_of_costs()
    peers = Table("network", "rules", "torch, zennit", "jax, jrlrp", "times faster", box=box.MARKDOWN)
    for name in options.models.split(","):
        network = sized(NETWORKS[name](options.size), options)
        runs = measure(name, network, options.rounds, {rule: RULES[rule] for rule in options.rules.split(",")})
        add_rows(table, name, runs)
        if options.peers:
            answer = ask_peers(options.peers, name, network, options.rounds)
            add_peer_rows(peers, name, runs, answer["seconds"])
            versions = answer["versions"]
    device = jax.devices()[0].device_kind
    examples = f"batch of {options.batch or BATCH}"
    console.print(f"{device}, {options.size} px, {examples}, {options.dtype}, jax {jax.__version__}")
    console.print(table)
    if options.peers:
        console.print(versions)
        console.print(peers)


if __name__ == "__main__":
    main()
