"""What a Llama-like model over eight devices sends between them for a gradient, and for relevance, by XLA's programs.

python tests/benchmarks/bench_layouts.py
"""

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
sys.path.insert(0, str(Path(__file__).parents[1]))

import collections

import layouts
from rich.console import Console
from rich.table import Table

import jrlrp

RULES = {"AttnLRP": jrlrp.attn_lrp(), "default": jrlrp.default(), "ε": jrlrp.epsilon()}


def told(found: collections.Counter) -> str:
    """Return how many arrays go through each kind of collective, and how large they are."""
    kinds = collections.Counter()
    for (_, kind), count in found.items():
        kinds[kind] += count
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"


def size(program) -> int:
    return program.memory_analysis().temp_size_in_bytes


def main() -> None:
    table = Table("layout", "", "collectives", "arrays not the gradient's", "temporary memory")
    programs = {name: (layouts.llama, *layouts.laid_out(name)) for name in layouts.LAYOUTS}
    programs["shard_map"] = (layouts.in_shard_map(), *programs["tensor"][1:])
    for name, (network, x, p) in programs.items():
        found = {of: layouts.pair(network, x, p, rules) for of, rules in RULES.items()}
        gradient = found["ε"][0]
        expected = layouts.collectives(gradient.as_text())
        table.add_row(name, "gradient", told(expected), "", f"{size(gradient) / 2**20:.1f} MiB")
        for of, (_, relevance) in found.items():
            own = layouts.collectives(relevance.as_text())
            ratio = f"× {size(relevance) / size(gradient):.2f}"
            table.add_row("", of, told(own), str((own - expected).total()), ratio)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
