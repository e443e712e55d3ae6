"""Explain a whole data set: 10,000 images of Fashion-MNIST, in a store that survives being interrupted.

python examples/attribute_dataset.py --processes 2 --devices 8

Press Ctrl-C, or kill it, and call it again: it goes on where it was. In the end it draws where each class has its
relevance, on the mean, and for three channels of the second convolution the ten images in which each mattered most.
The network is the CNN of examples/evidence, trained at first use.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LAYER, CHANNELS, SHOWN, REFERENCES = "CNN/Conv_1", 32, 3, 10


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000, help="how many of the test images")
    parser.add_argument("--batch", type=int, default=256, help="how many are explained at once")
    parser.add_argument("--processes", type=int, default=1, help="how many explain parts of the data beside each other")
    parser.add_argument("--devices", type=int, default=1, help="over how many devices each splits its batches")
    parser.add_argument("--process", type=int, help="what a process is called by the one that begins them")
    parser.add_argument("--store", default="out/fashion-run", help="where the maps go: a path, or a bucket's")
    parser.add_argument("--output", type=Path, default=Path("out/fashion-run.png"), help="where the picture goes")
    parsed = parser.parse_args()
    if not 1 <= parsed.images <= 10_000 or min(parsed.batch, parsed.processes, parsed.devices) < 1:
        parser.error("expected 1 to 10000 images, and at least one image a batch, process and device")
    if parsed.batch % parsed.devices:
        parser.error(f"--batch {parsed.batch} cannot be split over {parsed.devices} devices")
    return parsed


OPTIONS = arguments() if __name__ == "__main__" else None
if OPTIONS is not None and OPTIONS.devices > 1:  # before JAX is imported; on a machine with accelerators, leave it out
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={OPTIONS.devices}"

import image_data
import jax
import numpy as np
from image_networks import NETWORKS, TRAINED_ON, trained
from matplotlib.figure import Figure
from pictures import save
from rich.console import Console

import jrlrp
from jrlrp import runs
from jrlrp.concepts import References

CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def explaining(model: Callable) -> Callable:
    """Return a function of images that returns logits, and maps with scores and positions of the layer's channels."""
    explain = jrlrp.value_and_relevance(model, capture=LAYER)

    def explained(x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, (r, captured) = explain(x)
        channels = captured[LAYER].reshape(len(x), -1, CHANNELS)
        return logits, {"map": r[..., 0], "scores": channels.sum(1), "positions": channels.argmax(1)}

    return explained


def reductions() -> dict[str, runs.Reduction]:
    return {
        "by class": runs.Mean(
            of=lambda logits, r: r["map"], absolute=True, by=lambda logits, r: logits.argmax(-1), groups=len(CLOTHES)
        ),
        "channels": runs.Top(
            References.empty(CHANNELS, REFERENCES), of=lambda logits, r: (r["scores"], r["positions"])
        ),
    }


def run(options: argparse.Namespace) -> runs.Run:
    """Explain one process's part of the images."""
    data = image_data.fashion_mnist(TRAINED_ON, options.images)
    variables = trained("CNN", "Fashion", data, seed=0)
    model = jax.tree_util.Partial(NETWORKS["CNN"].network.apply, variables)
    mesh = jax.make_mesh((options.devices,), ("data",)) if options.devices > 1 else None
    return runs.attribute(
        explaining(model),
        data.test,
        options.store,
        batch_size=options.batch,
        mesh=mesh,
        reductions=reductions(),
        description={"network": "CNN", "seed": 0},
        process=(options.process or 0, options.processes),
        progress=f"process {options.process or 0}",
    )


def in_processes(options: argparse.Namespace) -> None:
    """Begin the processes and wait for them; each has its own part of the data and waits for none."""
    image_data.fashion_mnist(1, 1)  # so that it is fetched once
    command = [sys.executable, __file__, *sys.argv[1:]]
    begun = [subprocess.Popen([*command, "--process", str(k)]) for k in range(options.processes)]
    try:
        codes = [process.wait() for process in begun]
    except KeyboardInterrupt:
        for process in begun:
            process.terminate()
        sys.exit("\nInterrupted; the same command goes on.")
    if any(codes):
        sys.exit("Not all processes came to their end; the same command goes on.")


def draw(found: runs.Run, images: np.ndarray) -> Figure:
    """Draw mean |R| of each class, and the images in which three channels have most relevance."""
    means, table = found.reductions["by class"].mean, found.reductions["channels"].references
    channels = np.argsort(-np.asarray(table.values).sum(0))[:SHOWN]
    figure = Figure(figsize=(11, 1.35 * (1 + SHOWN)), layout="constrained")
    grid = figure.subplots(1 + SHOWN, len(CLOTHES))
    for axis in grid.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, mean, name in zip(grid[0], means, CLOTHES, strict=True):
        axis.imshow(mean, cmap="Reds", vmin=0)
        axis.set_xlabel(name, fontsize="small")  # of this row alone: those below show images of any class
    grid[0, 0].set_ylabel("mean |R|", fontsize="small")
    for line, channel in zip(grid[1:], channels, strict=True):
        line[0].set_ylabel(f"channel {channel}", fontsize="small")
        for axis, sample in zip(line, np.asarray(table.samples)[:, channel], strict=True):
            axis.imshow(images[sample, ..., 0], cmap="gray_r")
    return figure


def main() -> None:
    options, console = OPTIONS, Console(highlight=False)
    if options.process is not None:
        run(options)
        return
    started = time.monotonic()
    if options.processes > 1:
        in_processes(options)
        found = runs.open(options.store)
    else:
        found = run(options)
    seconds = time.monotonic() - started
    console.print(f"{found.finished} images are explained ({seconds:.0f} s this time); their maps: {options.store}")
    images = image_data.fashion_mnist(1, options.images).test
    save(draw(found, images), options.output, console)


if __name__ == "__main__":
    main()
