"""What an operation of a random program is: a name, and several spellings of equal value.

Every spelling takes the hidden state h, of shape (batch, positions, features), and parameters p, and returns a state of
the same shape. A spelling of an operation with `inner` steps takes their functions too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np

N, P, F, CLASSES = 3, 4, 6, 5  # examples, positions, features
SHAPE = (N, P, F)


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation of random programs.

    Attributes:
      spellings: functions of equal value by name, the plainest one first.
      shapes: of its parameters. The first letter of a name says what they are: w weights, b biases, g gains about 1,
        s positive.
      holds: "softmax", "norm" or "product" of active values, or "".
      inner: how many functions of the state it takes.
      rounded: the spellings that round to float32 on the way.
    """

    name: str
    spellings: Mapping[str, Callable]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    holds: str = ""
    inner: int = 0
    rounded: frozenset[str] = frozenset()

    def parameters(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((seed, *self.name.encode()))
        return {name: _parameter(rng, name[0], shape) for name, shape in self.shapes.items()}


def _parameter(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.normal(size=shape)
    match kind:
        case "w":
            return values / np.sqrt(np.prod(shape[:-1]))
        case "b":
            return 0.3 * values
        case "g":
            return 1 + 0.3 * values
    return np.exp(0.3 * values)


OPERATIONS: dict[str, Operation] = {}


def operation(name: str, spellings: Mapping[str, Callable], holds: str = "", inner: int = 0, rounded=(), **shapes: Any):
    """Add an operation to the table."""
    OPERATIONS[name] = Operation(name, spellings, shapes, holds, inner, frozenset(rounded))


def bound(parameters: Mapping[str, np.ndarray], dtype: Any) -> SimpleNamespace:
    """Return parameters as arrays of a dtype, to be read as attributes."""
    return SimpleNamespace(**{name: jnp.asarray(value, dtype) for name, value in parameters.items()})
