"""Which rules are faithful, family by family: networks see only what a map calls relevant, or lose it.

python examples/evidence/evidence.py --half choose --output out/evidence
python examples/evidence/evidence.py --half confirm --family attentive,recurrent
python examples/evidence/evidence.py --images FOLDER --labels FILE --networks EfficientNet

The default was chosen on the networks of the first half, and then measured on those of the second. What is measured on
a network stays in the output's folder, so that a run which was stopped goes on from there; networks that are trained
here are cached. With --images, networks of ImageNet see the images of a folder instead.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import jax
import numpy as np
import tables
from cases import Case, Family, Size
from measures import MAPS, MEASURES, curves, explained, probabilities
from methods import METHODS
from rich.console import Console
from tqdm import tqdm

import jrlrp

FAMILIES = ("convolutional", "attentive", "recurrent", "language", "tables")
QUICK = {"examples": 10, "images": 512, "epochs": 0.1}


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--half", default="choose", choices=("choose", "confirm"))
    parser.add_argument("--family", default=",".join(FAMILIES), help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--networks", default="", help="names of the only ones to try, separated by semicolons")
    parser.add_argument("--examples", type=int, help="of each network; 200 to choose, 500 to confirm")
    parser.add_argument("--seeds", type=int, help="networks of each kind; 1 to choose, 3 to confirm")
    parser.add_argument("--again", default="", help="methods to measure once more, separated by semicolons")
    parser.add_argument("--images", type=Path, help="a folder of images for the networks of ImageNet")
    parser.add_argument("--labels", type=Path, help="their classes: a CSV file of names and numbers, 0 to 999")
    parser.add_argument("--quick", action="store_true", help="few examples of hardly trained networks: a trial")
    parser.add_argument("--output", type=Path, default=Path("out/evidence"), help="a folder for the results")
    parsed = parser.parse_args(given)
    for name, separator in (("family", ","), ("networks", ";"), ("again", ";")):
        setattr(parsed, name, tuple(part.strip() for part in getattr(parsed, name).split(separator) if part.strip()))
    for name, known in (("family", FAMILIES), ("again", METHODS)):
        for part in getattr(parsed, name):
            if part not in known:
                parser.error(f"--{name} {part!r}: expected some of {', '.join(known)}")
    if parsed.labels and not parsed.images:
        parser.error("--labels is for --images")
    if min(parsed.examples or 1, parsed.seeds or 1) < 1:
        parser.error("expected at least one example and one seed")
    return parsed


def size(options: argparse.Namespace) -> Size:
    confirms = options.half == "confirm"
    defaults = {"examples": 500 if confirms else 200, "seeds": 3 if confirms else 1}
    if options.quick:
        defaults |= {**QUICK, "seeds": 1}
    given = {name: getattr(options, name) for name in ("examples", "seeds") if getattr(options, name)}
    chosen = defaults | given
    first = 1 if confirms else 0  # no seed serves twice
    return Size(networks=options.networks, **chosen | {"seeds": range(first, first + chosen["seeds"])})


def families(options: argparse.Namespace) -> dict[str, Family]:
    if options.images:
        import folder

        return {"photographs": folder.family(options.images, options.labels)}
    chosen = import_module("confirming" if options.half == "confirm" else "choosing")  # the former needs more packages
    return {name: getattr(chosen, name) for name in options.family}


def measured(case: Case, folder: Path, half: str, again: Sequence[str]) -> dict[str, np.ndarray]:
    """Return curves (tests, N, levels) by method, and what `tables` reads beside, out of the folder if they lie there.

    `tables.WHOLE` has the predicted class's probability, and whether it is right, for each example, (2, N);
    `tables.MAPS` the first maps of each method.
    """
    file = folder / f"{half} {case.name} {case.seed} {len(case.x)}.npz"
    found = dict(np.load(file)) if file.exists() else {}
    if tables.WHOLE not in found:
        whole = probabilities(case)
        right = np.nan * whole[:, 0] if case.labels is None else whole.argmax(-1) == case.labels
        found[tables.WHOLE] = np.stack([whole.max(-1), right])
    for name, method in tqdm(METHODS.items(), desc=case.name, leave=False):
        if (name in found and name not in again) or (explain := method(case)) is None:
            continue
        try:
            relevance = explained(case, explain)
        except jrlrp.JrlrpError as error:
            tqdm.write(f"{case.name}, {name}: {str(error).splitlines()[0]}")
            continue
        found |= {name: curves(case, relevance), tables.MAPS.format(name): relevance[:MAPS]}
        part = file.with_suffix(".part.npz")
        np.savez_compressed(part, **found)
        part.replace(file)
    return found


def main(given: Sequence[str] | None = None) -> None:
    options, console = arguments(given), Console(highlight=False, width=240)
    options.output.mkdir(parents=True, exist_ok=True)
    rows, texts, half = [], [], "photographs" if options.images else options.half
    for family, cases in families(options).items():
        networks: dict[str, list[dict[str, np.ndarray]]] = {}
        for case in cases(size(options)):
            found = measured(case, options.output, half, options.again)
            networks.setdefault(case.name, []).append(found)
            probable, right = found[tables.WHOLE].mean(1)
            known = "" if np.isnan(right) else f", {right:.0%} right"
            console.print(f"{case.name}, seed {case.seed}: {len(case.x)} examples{known}, probability {probable:.2f}")
            jax.clear_caches()
        if networks:
            own = list(tables.rows(half, family, networks))
            rows += own
            parts = [*(tables.markdown(own, measure) for measure in MEASURES), tables.signs(networks)]
            texts += [f"## {family.capitalize()}", *parts]
            console.print("\n\n".join(texts[-len(parts) - 1 :]), markup=False)
            tables.draw(networks, options.output / f"{half}-{family}.png")
    if rows:
        tables.write(rows, options.output / f"{half}.csv")
        tables.overview(rows, options.output / f"{half}.png")
        (options.output / f"{half}.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        (options.output / "families.md").write_text(tables.report(options.output), encoding="utf-8")
        console.print(f"Tables and curves are in {options.output}")


if __name__ == "__main__":
    main()
