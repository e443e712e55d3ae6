"""How much a map changes when its input changes a little."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.batches import computed, rows
from jrlrp.errors import ArgumentError
from jrlrp.metrics.arguments import compiled, examples, require
from jrlrp.metrics.maps import scaled
from jrlrp.rules.base import is_number

Array = Any


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How maps change under small disturbances of their inputs.

    Attributes:
      change: ‖R(x + δ) − R(x)‖ / ‖R(x)‖ for each example and disturbance, of shape (N, samples).
      slope: ‖R(x + δ) − R(x)‖ / ‖δ‖, of the same shape, δ being what is left of the disturbance in x's dtype.
    """

    change: np.ndarray
    slope: np.ndarray

    @property
    def average(self) -> np.ndarray:
        """The average sensitivity of each example (Yeh et al. 2019)."""
        return self.change.mean(1)

    @property
    def maximum(self) -> np.ndarray:
        """The maximum sensitivity of each example (Yeh et al. 2019)."""
        return self.change.max(1)

    @property
    def lipschitz(self) -> np.ndarray:
        """The local Lipschitz estimate of each example: the largest slope (Alvarez-Melis & Jaakkola 2018, eq. 2)."""
        return self.slope.max(1)


def sensitivity(
    explain: Callable,
    x: Array,
    *,
    target: Any = None,
    radius: float = 0.1,
    samples: int = 10,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> Sensitivity:
    """Explain examples again with uniform noise added, and say how far the maps move.

    Args:
      explain: takes a batch (N, ...) to its maps, of any shape (N, ...). Fix the class
        (`relevance(model, target=...)`), or a changed prediction counts as a changed map. It is compiled as
        `perturbation` compiles models.
      x: floating-point examples, of shape (N, ...).
      target: what `explain` gets beside each example, an array (N, ...): its class, say, for
        `explain = lambda x, target: relevance(model, target=target)(x)`. None for a function of x alone.
      radius: noise is uniform in [−radius, radius], for each feature.
      samples: how many disturbances each example gets.
      seed: of the noise.
      batch_size: how many examples are explained at once.
      progress: whether to show a tqdm bar.

    Returns:
      A `Sensitivity`; norms are Euclidean, and a map of zeros has no sensitivity unless it changes, then infinite.

    Raises:
      ArgumentError: for examples that are not floating-point, maps or targets that are not theirs, or options out of
        their range.

    Source: Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations"; Alvarez-Melis & Jaakkola 2018,
    "On the robustness of interpretability methods".
    """
    x = examples(x)
    require("seed", seed, int)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ArgumentError(
            f"examples of dtype {x.dtype} cannot be disturbed a little; expected floating-point numbers."
        )
    if not (is_number(radius) and 0 < radius < math.inf and type(samples) is int and samples >= 1):
        raise ArgumentError(f"radius={radius!r}, samples={samples!r}: expected a radius > 0 and at least one sample.")
    beside = () if target is None else (jnp.asarray(target),)
    if any(array.shape[:1] != x.shape[:1] for array in beside):
        raise ArgumentError(f"target={target!r}: expected one for each of {len(x)} examples.")
    size = rows(batch_size, len(x) * samples)  # of all batches, so that all maps come from one executable
    step = compiled(_explained, explain)
    undisturbed = lambda index: step(_disturbed(index * samples, x, seed, 0.0, samples=samples), index, beside)
    before = jnp.asarray(computed(undisturbed, (np.arange(len(x)),), size))

    def moved(index: Array) -> Array:
        disturbed = _disturbed(index, x, seed, radius, samples=samples)
        return _distances(index // samples, before, step(disturbed, index // samples, beside), x, disturbed)

    found = computed(moved, (np.arange(len(x) * samples),), size, progress and "disturbing")
    change, length, by = found.reshape(len(x), samples, 3).transpose(2, 0, 1)
    if not by.all():
        raise ArgumentError(
            f"radius={radius!r} is too small for examples of these sizes in {x.dtype}: some did not change."
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        return Sensitivity(np.where(change == 0, 0, change / length), change / by)


@functools.partial(jax.jit, static_argnames="samples")
def _disturbed(index: Array, x: Array, seed: int, radius: float, *, samples: int) -> Array:
    """Return examples disturbed, by the disturbances' numbers: the same whatever batch they are in."""
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(index)
    noise = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -radius, radius))(keys)
    return x[index // samples] + noise


@jax.jit
def _explained(explain: Callable, x: Array, of: Array, beside: tuple[Array, ...]) -> Array:
    """Return the maps of these examples, compiled without what disturbs them, or XLA might explain unrounded sums."""
    maps = jnp.asarray(explain(x, *(array[of] for array in beside)))
    if maps.shape[:1] != of.shape:
        raise ArgumentError(f"explain takes {len(of)} examples to maps of shape {maps.shape}: expected (N, ...).")
    return maps


@jax.jit
def _distances(of: Array, before: Array, after: Array, x: Array, disturbed: Array) -> Array:
    """Return ‖R(x + δ) − R(x)‖, ‖R(x)‖ and ‖δ‖ of each disturbance, in float32 at least."""
    before, after, x, disturbed = (
        a.reshape(len(a), -1).astype(jnp.promote_types(a.dtype, jnp.float32))
        for a in (before[of], after, x[of], disturbed)
    )
    return jnp.stack([_norm(after - before), _norm(before), _norm(disturbed - x)], axis=1)


def _norm(rows: Array) -> Array:
    """Return the Euclidean norm of rows, whose squares need not fit the dtype."""
    return jnp.abs(rows).max(1) * jnp.sqrt((scaled(rows) ** 2).sum(1))
