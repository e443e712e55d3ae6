"""One process of a run over made items; each item that it reads is written to a log.

worker.py STORE LOG PART PARTS PAUSE [ADDRESS]; with the address of a coordinator, its number is JAX's own.
"""

import sys
import time

import jax
import numpy as np

import jrlrp
from jrlrp import runs

COUNT, SIZE = 150, 8
W = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)


class Source:
    """Items that take their time, two of which cannot be read."""

    def __init__(self, log="", pause=0.0):
        self.log, self.pause = log, pause

    def __len__(self):
        return COUNT

    def __getitem__(self, k):
        time.sleep(self.pause)
        if self.log:
            with open(self.log, "a", encoding="utf-8") as log:
                log.write(f"{k}\n")
        if k in (17, 90):
            raise OSError(f"item {k} is torn")
        return np.random.default_rng(k).normal(size=6).astype(np.float32)


def net(x):
    return jax.nn.relu(x @ W) @ W


def reductions():
    return {
        "size": runs.Mean(absolute=True),
        "by class": runs.Mean(by=lambda value, r: value.argmax(-1), groups=6),
        "histogram": runs.Histogram(np.linspace(-2, 2, 9), channels="features"),
    }


def explained(store, source, **options):
    explain = jrlrp.value_and_relevance(net)
    options = {"batch_size": SIZE, "reductions": reductions(), "on_error": "record", "progress": False} | options
    return runs.attribute(explain, source, str(store), **options)


if __name__ == "__main__":
    store, log, part, parts, pause = *sys.argv[1:3], *map(int, sys.argv[3:5]), float(sys.argv[5])
    if len(sys.argv) > 6:
        jax.distributed.initialize(sys.argv[6], parts, part)
        mesh = jax.sharding.Mesh(jax.local_devices(), ("data",))
        explained(store, Source(log, pause), mesh=mesh)
    else:
        explained(store, Source(log, pause), process=(part, parts))
