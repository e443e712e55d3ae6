"""How far maps move with the precision in which a network is multiplied, in parts of Σ|R|: on a GPU, whose default for
float32 is TF32, above all.

`python tests/benchmarks/bench_precision.py` takes maps in float32 on the CPU for right.
"""

import jax
import numpy as np
from networks import resnet18
from rich import box
from rich.console import Console
from rich.table import Table
from sequence_networks import lstm

import jrlrp

NETWORKS = {"ResNet-18": lambda: resnet18(224), "LSTM, 256, T 128": lstm}
RULES = {"default": jrlrp.default(), "R-LRP": jrlrp.relative(), "ε": jrlrp.epsilon()}
PRECISIONS = {
    "float32, highest precision": ("float32", "highest"),
    "float32, the device's default": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
}


def relevance(name: str, rules: jrlrp.Composite, dtype: str, precision: str, device: jax.Device) -> np.ndarray:
    network = NETWORKS[name]().of(2, dtype)
    explain = lambda weights, x: jrlrp.relevance(lambda x: network.apply(weights, x), rules=rules)(x)
    with jax.default_matmul_precision(precision):
        r = jax.jit(explain)(*jax.device_put((network.weights, network.x), device))
    return np.asarray(r, np.float64)


def main() -> None:
    table = Table("network", "rules", *PRECISIONS, box=box.MARKDOWN)
    device = jax.devices()[0]
    for name in NETWORKS:
        for k, (rule, rules) in enumerate(RULES.items()):
            right = relevance(name, rules, "float32", "highest", jax.devices("cpu")[0])
            found = [relevance(name, rules, *precision, device) for precision in PRECISIONS.values()]
            moved = [np.abs(r - right).sum() / np.abs(right).sum() for r in found]
            table.add_row(name if k == 0 else "", rule, *(f"{part:.0e}" for part in moved))
    console = Console(width=140)
    console.print(f"{device.device_kind}, jax {jax.__version__}")
    console.print(table)


if __name__ == "__main__":
    main()
