"""A user's own folder of images for the networks of ImageNet."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cases import Case, Family, Size
from choosing import of_photographs
from PIL import Image

KINDS = {".jpeg", ".jpg", ".png", ".webp"}


def family(images: Path, labels: Path | None) -> Family:
    """Return a family of the networks of ImageNet, which see the first images of a folder by name."""
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in KINDS)
    if not paths:
        sys.exit(f"{images} has no images: expected files that end with {', '.join(sorted(KINDS))}")
    classes = None if labels is None else _classes(labels)

    def photographs(size: Size) -> Iterator[Case]:
        chosen = paths[: size.examples]
        missing = [path.name for path in chosen if classes is not None and path.name not in classes]
        if missing:
            sys.exit(f"{labels} has no class of {missing[0]} and {len(missing) - 1} other images")
        known = None if classes is None else np.array([classes[path.name] for path in chosen])
        yield from of_photographs(size, [Image.open(path).convert("RGB") for path in chosen], known)

    return photographs


def _classes(labels: Path) -> dict[str, int]:
    """Return the classes of files by their names."""
    found = {}
    with labels.open(newline="", encoding="utf-8") as file:
        for number, line in enumerate(csv.reader(file), 1):
            if not line:
                continue
            name, label = (line[0].strip(), line[1].strip()) if len(line) == 2 else ("", "")
            if not (label.isdecimal() and int(label) < 1000):
                sys.exit(f"{labels}, line {number}: expected a file's name, a comma, and its class, 0 to 999: {line}")
            found[Path(name).name] = int(label)
    return found
