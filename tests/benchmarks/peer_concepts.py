"""The job of `bench_concepts.py` in PyTorch, by zennit-crp: how long does it take?

`bench_concepts.py --peers PYTHON` runs this file by the interpreter PYTHON, which has torch and zennit-crp. It hands
over the weights and an image, and reads one line of JSON and the maps that zennit-crp finds.
"""

import argparse
import json
import os
import statistics
import sys
import time
from importlib.metadata import version

import numpy as np
import peers  # which stands in for torchvision
import torch
from crp.attribution import CondAttribution
from zennit.composites import EpsilonPlus, EpsilonPlusFlat

COMPOSITES = {"ε-plus": EpsilonPlus, "ε-plus-flat": EpsilonPlusFlat}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("arrays", help="npz file of weights by name, and of `x` and its `logits`")
    parser.add_argument("maps", help="npz file to write the maps into")
    parser.add_argument("--concepts", type=int, default=32)
    parser.add_argument("--at-a-time", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    arrays, layout = np.load(options.arrays), torch.channels_last
    x = peers.tensor(arrays["x"].transpose(0, 3, 1, 2)).to(memory_format=layout)
    net = peers.vgg16(arrays, x.shape[-1]).eval().to(memory_format=layout)
    with torch.no_grad():
        logits = net(x).numpy()
    if not np.abs(logits - arrays["logits"]).max() < 1e-3 * np.abs(logits).max():
        sys.exit("VGG16 in PyTorch is another network.")
    layer = [name for name, module in net.named_modules() if isinstance(module, torch.nn.Conv2d)][-1]
    conditions = [{"y": [int(logits.argmax())], layer: [c]} for c in range(options.concepts)]
    attribute, seconds, found = CondAttribution(net), {}, {}
    for name, make in COMPOSITES.items():
        times = []
        for _ in range(options.rounds + 1):
            start = time.perf_counter()
            parts = attribute.generate(
                x.clone().requires_grad_(),
                conditions,
                make(),
                batch_size=options.at_a_time,
                verbose=False,
                exclude_parallel=False,
            )
            found[name] = torch.cat([part.heatmap for part in parts]).numpy()
            times.append(time.perf_counter() - start)
        seconds[name] = statistics.median(times[1:])  # the first warms up
    np.savez(options.maps, **found)
    versions = f"torch {torch.__version__}, zennit-crp {version('zennit-crp')}, {torch.get_num_threads()} threads"
    print(json.dumps({"versions": versions, "seconds": seconds}))


if __name__ == "__main__":
    main()
