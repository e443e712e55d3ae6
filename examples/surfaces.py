"""Pictures of brushed metal with scratches, pits and dents, made from a seed, and where the defects are."""

from dataclasses import dataclass

import numpy as np

SIDE, RANGE = 64, 0.6  # pixels, and how far from 0 the camera sees
KINDS = ("good", "scratch", "pits", "dent")
VISIBLE = 0.25  # of a defect's height, above which it counts as there
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE].astype(np.float32)


@dataclass(frozen=True)
class Surfaces:
    """Pictures (N, side, side, 1) around 0, what is on them (an index of `KINDS`), and masks of the defects."""

    pictures: np.ndarray
    kinds: np.ndarray
    masks: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "Surfaces":
        return Surfaces(self.pictures[rows], self.kinds[rows], self.masks[rows])


def make(count: int, seed: int) -> Surfaces:
    """Return pictures, half of them of good surfaces and a sixth of each kind of defect."""
    chance = np.random.default_rng(seed)
    kinds = chance.choice(len(KINDS), count, p=[1 / 2, 1 / 6, 1 / 6, 1 / 6])
    pictures, masks = np.zeros((2, count, SIDE, SIDE), np.float32)
    for k, kind in enumerate(kinds):
        pictures[k] = metal(chance)
        if kind:
            shape = DEFECTS[kind - 1](chance)
            pictures[k] += chance.uniform(0.1, 0.25) * shape
            masks[k] = np.abs(shape) > VISIBLE
    return Surfaces(pictures.clip(-RANGE, RANGE)[..., None], kinds, masks > 0)


def metal(chance: np.random.Generator) -> np.ndarray:
    """Return a good surface, brushed along its rows; uneven light, streaks, stains and bright dust are no defects."""
    noise, weights = chance.normal(size=(SIDE, SIDE + 24)), np.hanning(25)
    brushed = np.stack([np.convolve(row, weights / np.linalg.norm(weights), "valid") for row in noise])
    surface = chance.uniform(-0.1, 0.1) + 0.05 * brushed + 0.04 * chance.normal(size=(SIDE, SIDE))
    across, down = chance.uniform(-0.15, 0.15, 2)
    surface += across * (COLUMNS / SIDE - 0.5) + down * (ROWS / SIDE - 0.5)
    for _ in range(chance.integers(4)):
        row, width = chance.uniform(0, SIDE), chance.uniform(0.6, 1.5)
        surface += chance.uniform(-0.15, 0.15) * np.exp(-(((ROWS - row) / width) ** 2))
    for _ in range(chance.integers(3)):
        surface += chance.uniform(-0.2, 0.2) * bump(chance.uniform(0, SIDE, 2), chance.uniform(5, 20))
    for _ in range(chance.integers(4)):
        surface += chance.uniform(0.1, 0.3) * bump(chance.uniform(0, SIDE, 2), chance.uniform(1, 2.4), 4)
    return surface


def bump(centre: np.ndarray, radius: float, power: float = 2) -> np.ndarray:
    """Return exp(−(distance / radius)^power)."""
    return np.exp(-((np.hypot(ROWS - centre[0], COLUMNS - centre[1]) / radius) ** power))


def scratch(chance: np.random.Generator) -> np.ndarray:
    """Return a thin line, bent a little, that does not run along the brushing."""
    turn, bend, length = chance.uniform(0.4, np.pi - 0.4), chance.uniform(-0.3, 0.3), chance.uniform(14, 36)
    along = np.linspace(-0.5, 0.5, 60)
    turns, (row, column) = turn + bend * along, chance.uniform(12, SIDE - 12, 2)
    rows, columns = row + length * along * np.sin(turns), column + length * along * np.cos(turns)
    apart = np.hypot(ROWS[..., None] - rows, COLUMNS[..., None] - columns).min(-1)
    return chance.choice([-1, 1]) * np.exp(-((apart / 1.1) ** 2))


def pits(chance: np.random.Generator) -> np.ndarray:
    """Return two to five small dark holes near each other."""
    centre = chance.uniform(10, SIDE - 10, 2)
    holes = [bump(centre + chance.uniform(-7, 7, 2), chance.uniform(1.2, 2.4), 4) for _ in range(chance.integers(2, 6))]
    return -np.max(holes, axis=0)


def dent(chance: np.random.Generator) -> np.ndarray:
    """Return a hollow: one of its slopes is in the light, the other in the shade."""
    centre, radius, turn = chance.uniform(12, SIDE - 12, 2), chance.uniform(4, 8), chance.uniform(0, 2 * np.pi)
    slope = ((ROWS - centre[0]) * np.sin(turn) + (COLUMNS - centre[1]) * np.cos(turn)) / radius
    return slope * bump(centre, radius) * np.sqrt(2 * np.e)


DEFECTS = (scratch, pits, dent)
