"""Explain a photograph: which pixels made an ImageNet network see what it sees, and which spoke against it.

python examples/explain_photo.py --image cat.jpg --class "tabby" --rules default,epsilon_plus
"""

import argparse
import sys
from importlib.resources import files
from pathlib import Path

import efficientnet_lite0 as network
import jax
import jax.numpy as jnp
import numpy as np
import presets
from matplotlib.figure import Figure
from pictures import save
from PIL import Image, UnidentifiedImageError
from rich import box
from rich.console import Console
from rich.table import Table

import jrlrp
from jrlrp import plot

LOW, HIGH = -127 / 128, 128 / 128  # of a pixel, as the network sees it
PRESETS = {
    "default": jrlrp.default,
    "relative_plus": jrlrp.relative_plus,
    "relative": jrlrp.relative,
    "epsilon": jrlrp.epsilon,
    "epsilon_plus": jrlrp.epsilon_plus,
    "epsilon_plus_flat": jrlrp.epsilon_plus_flat,
    "epsilon_gamma_box": lambda: jrlrp.epsilon_gamma_box(LOW, HIGH),
    "epsilon_alpha2_beta1_flat": jrlrp.epsilon_alpha2_beta1_flat,
    "deep_taylor": lambda: jrlrp.deep_taylor(LOW, HIGH),
    "gradient_times_input": jrlrp.gradient_times_input,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--image", type=Path, help="a photograph; without it, a cat (scikit-image's chelsea)")
    parser.add_argument("--class", dest="label", help="a class's name or number; default: the top class")
    parser.add_argument("--rules", default="default,relative,epsilon_plus", help=f"presets, of {', '.join(PRESETS)}")
    parser.add_argument("--output", type=Path, default=Path("out/photo.png"), help="where the picture goes")
    parser.add_argument("--photo", action=argparse.BooleanOptionalAction, default=True, help="show the photograph too")
    parser.add_argument("--audit", action="store_true", help="say where the relevance went; details go to out/")
    parsed = parser.parse_args()
    parsed.rules = presets.chosen(parser, parsed.rules, PRESETS)
    return parsed


def open_photo(path: Path | None) -> Image.Image:
    try:
        return Image.open(path or Path(str(files("skimage"))) / "data" / "chelsea.png")
    except (FileNotFoundError, UnidentifiedImageError, IsADirectoryError):
        sys.exit(f"{path} is no picture that can be opened.")


def class_index(label: str | None, logits: jax.Array, names: list[str]) -> int:
    """Return the class named by the user: a number, a full name, or the most probable of those that contain it."""
    if label is None:
        return int(logits.argmax())
    if label.isdigit() and int(label) < len(names):
        return int(label)
    wanted = label.lower()
    found = [k for k, name in enumerate(names) if name.lower() == wanted]
    found = found or [k for k, name in enumerate(names) if wanted in name.lower()]
    if not found:
        sys.exit(f"no class of ImageNet is named {label!r}.")
    return max(found, key=lambda k: float(logits[k]))


def show_classes(console: Console, logits: jax.Array, names: list[str], chosen: int) -> None:
    probabilities = jax.nn.softmax(logits)
    table = Table("class", "probability", "logit", title="What the network sees")
    for k in [int(k) for k in jnp.argsort(-logits)[:5]]:
        style = "bold" if k == chosen else None
        table.add_row(names[k], f"{probabilities[k]:.3f}", f"{logits[k]:.2f}", style=style)
    console.print(table)


def show_audits(console: Console, audits: dict[str, jrlrp.Audit], folder: Path) -> None:
    """Print what became of each rule's relevance, and write the full audits, node by node."""
    head = ("rule", "output", "inputs", "by bias", "by stabiliser", "otherwise", "most is absorbed at", "Σ|R| grows at")
    table = Table(*head, title="Where relevance went", box=box.MARKDOWN)
    folder.mkdir(parents=True, exist_ok=True)
    for name, audit in audits.items():
        amounts = audit.output, audit.inputs, audit.bias.sum(), audit.stabilizer.sum(), audit.other.sum()
        loss, rise = int(jnp.abs(audit.absorbed).argmax()), int(audit.growth.argmax())
        table.add_row(
            presets.TITLES[name],
            *(f"{float(v):.3g}" for v in amounts),
            f"{audit.names[loss]}: {float(audit.absorbed[loss]):.3g}",
            f"{audit.names[rise]}: × {float(audit.growth[rise]):.3g}",
        )
        (folder / f"audit-{name}.txt").write_text(f"{audit}\n", encoding="utf-8")
    console.print(table)


def draw(photo: Image.Image | None, maps: dict[str, np.ndarray], label: str) -> Figure:
    """Return the photograph (if given) and its maps side by side.

    Colour goes with the square root of relevance: few pixels carry most of it.
    """
    shown = None if photo is None else np.asarray(photo)[None]
    figure = plot.heatmaps(
        {presets.TITLES[name]: relevance for name, relevance in maps.items()}, shown, across=True, power=0.5, size=4
    )
    figure.suptitle(f"What speaks for “{label.split(',')[0]}”")
    return figure


def main() -> None:
    options, console = arguments(), Console()
    photo = network.crop(open_photo(options.image))
    x, variables, names = network.preprocess(photo), network.load(), network.class_names()
    model = network.EfficientNetLite0()

    def fn(x: jax.Array) -> jax.Array:
        return model.apply(variables, x)

    logits = jax.jit(fn)(x)[0]
    chosen = class_index(options.label, logits, names)
    show_classes(console, logits, names, chosen)
    console.print(f"Plan: {jrlrp.plan(fn, x).summary()}")

    maps, audits = {}, {}
    for name in options.rules:
        if options.audit:
            audits[name] = jax.jit(lambda x, name=name: jrlrp.audit(fn, x, rules=PRESETS[name](), target=chosen))(x)
        relevance = jax.jit(jrlrp.relevance(fn, rules=PRESETS[name](), target=chosen))(x)
        maps[name] = np.asarray(relevance[0].sum(-1))
        total, positive = maps[name].sum(), maps[name].clip(0).sum()
        console.print(
            f"{presets.TITLES[name]}: {total:.3g} in all, {positive:.3g} for and {total - positive:.3g} against"
        )
    if audits:
        show_audits(console, audits, options.output.parent)
    save(draw(photo if options.photo else None, maps, names[chosen]), options.output, console)


if __name__ == "__main__":
    main()
