"""How much dearer relevance is than one gradient in transformers and an LSTM, and what a long loop takes to compile.

`make bench` runs this beside `bench_speed.py`, in whose way everything is measured.
"""

import argparse

import jax
from bench_speed import add_options, add_rows, compiled, measure, sized, table_of_costs
from rich.console import Console
from sequence_networks import SEQUENCE_NETWORKS, lstm

import jrlrp

RULES = {
    "default": jrlrp.default(),
    "AttnLRP": jrlrp.attn_lrp(),
    "CP-LRP": jrlrp.cp_lrp(),
    "Zero": jrlrp.Zero(),
    "ε": jrlrp.epsilon(),
    "R-LRP": jrlrp.relative(),
}


def seconds_to_compile(steps: int) -> float:
    """Return what it takes to compile the relevance of an LSTM over so many steps: the shorter of two times."""
    net = lstm(1, steps)
    explain = lambda weights, x: jrlrp.relevance(lambda x: net.apply(weights, x))(x)
    return min(compiled(explain, net.weights, net.x).compile_seconds for _ in range(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--sequence-models", default=";".join(SEQUENCE_NETWORKS), help="which of them, by semicolon")
    parser.add_argument("--sequence-rules", default=",".join(RULES), help="which of them, by comma")
    options, _ = parser.parse_known_args()  # those of bench_speed.py may be there too
    table = table_of_costs()
    rules = {rule: RULES[rule] for rule in options.sequence_rules.split(",")}
    for name in options.sequence_models.split(";"):
        network = sized(SEQUENCE_NETWORKS[name](), options)
        add_rows(table, name, measure(name, network, options.rounds, rules))
    console = Console(width=140)
    console.print(f"{jax.devices()[0].device_kind}, {options.dtype}, jax {jax.__version__}")
    console.print(table)
    short, long = seconds_to_compile(10), seconds_to_compile(1000)
    console.print(f"compiling R-LRP of an LSTM: {short:.2f} s for 10 steps, {long:.2f} s for 1,000")


if __name__ == "__main__":
    main()
