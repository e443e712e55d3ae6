"""Series out of PyPI package aeon (BSD-3), of one length each."""

from dataclasses import dataclass

import numpy as np
from explain_series import DATA


@dataclass(frozen=True, eq=False)
class Series:
    """Series (N, T, channels) and their classes, to train with and to test with."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.train_labels.max()) + 1

    @property
    def bounds(self) -> tuple[float, float]:
        return float(self.train.min()), float(self.train.max())


def load(name: str) -> Series:
    """Return a data set, each channel standardised; what is shorter begins with zeros, the channels' means."""
    parts = [_read(name, part) for part in ("TRAIN", "TEST")]
    longest = max(len(one) for x, _ in parts for one in x)
    every = np.concatenate(parts[0][0])
    mean, deviation = every.mean(0), every.std(0)
    arrays = []
    for x, labels in parts:
        padded = np.zeros((len(x), longest, len(mean)), np.float32)
        for row, one in zip(padded, x, strict=True):
            row[longest - len(one) :] = (one - mean) / deviation
        arrays += [padded, np.unique(labels, return_inverse=True)[1]]
    order = np.random.default_rng(0).permutation(len(arrays[2]))
    return Series(arrays[0], arrays[1], arrays[2][order], arrays[3][order])


def _read(name: str, part: str) -> tuple[list[np.ndarray], np.ndarray]:
    text = DATA.read(f"aeon/datasets/data/{name}/{name}_{part}.ts").decode()
    rows = [line.split(":") for line in text.split("@data")[1].split()]
    series = [np.array([channel.split(",") for channel in row[:-1]], float).T for row in rows]
    return series, np.array([row[-1] for row in rows])
