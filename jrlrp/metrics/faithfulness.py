"""How a model's score follows the features that relevance ranks: perturbation curves and the areas under them."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.batches import computed, rows
from jrlrp.errors import ArgumentError
from jrlrp.metrics.arguments import compiled, examples, require, require_function
from jrlrp.metrics.features import Features, fill

Array = Any
ORDERS = ("most", "least")
SCORES = ("probability", "logit", "correct")
LEVELS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True, eq=False)
class Curve:
    """What a model says of examples of which more and more features are replaced (or kept).

    Attributes:
      levels: fractions of the features, of shape (levels,).
      values: the scores, of shape (examples, levels, ...).
      keep: whether the levels are of features kept: the whole input is at 1 then, not at 0.
    """

    levels: np.ndarray
    values: np.ndarray
    keep: bool = False

    @property
    def mean(self) -> np.ndarray:
        """The mean over examples, of shape (levels, ...)."""
        return self.values.mean(0)

    @property
    def area(self) -> np.ndarray:
        """The area under each example's curve by the trapezoid rule, over the range of levels: a mean score.

        Of features removed it is deletion, of features kept insertion (Petsiuk et al. 2018, "RISE").
        """
        if len(self.levels) == 1:
            return self.values[:, 0]
        width = self.levels[-1] - self.levels[0]
        return np.trapezoid(self.values, self.levels, axis=1) / width

    @property
    def aopc(self) -> np.ndarray:
        """The area over each example's perturbation curve: the mean over levels of f(x) − f(x perturbed).

        AOPC = 1/(L+1) Σ_{k=0..L} (f(x⁽⁰⁾) − f(x⁽ᵏ⁾))   (Samek et al. 2017, eq. 12)

        Of features kept too it is the mean fall from the whole input, which their last level is: f(x) − f(x kept).

        Raises:
          ArgumentError: unless the whole input is among the levels: as the first, 0, or of features kept the last, 1.
        """
        if self.keep and self.levels[-1] != 1:
            raise ArgumentError(
                f"AOPC of features kept needs the whole input: expected 1 as the last level, not {self.levels}."
            )
        if not self.keep and self.levels[0] != 0:
            raise ArgumentError(f"AOPC begins with the whole input: expected 0 as the first level, not {self.levels}.")
        whole = self.values[:, -1:] if self.keep else self.values[:, :1]
        return (whole - self.values).mean(1)


def abpc(most: Curve, least: Curve) -> np.ndarray:
    """Return, for each example, the area between the curves of least and of most relevant features first.

    ABPC = 1/(L+1) Σ_k (f(x perturbed, least first) − f(x perturbed, most first)); larger is better. Of features kept it
    is the other way round: to keep the most relevant is to replace the least relevant.

    Args:
      most, least: curves of the same examples at the same levels, with `order="most"` and `order="least"`.

    Raises:
      ArgumentError: for curves of other levels or shapes, or one of features kept beside one of features replaced.

    Source: Schulz et al. 2020, "Restricting the flow"; Achtibat et al. 2024 (ABPC).
    """
    if most.values.shape != least.values.shape or not np.array_equal(most.levels, least.levels):
        raise ArgumentError(
            f"abpc: expected curves of the same levels and examples, got {most.values.shape} at {most.levels} and "
            f"{least.values.shape} at {least.levels}."
        )
    if most.keep != least.keep:
        raise ArgumentError("abpc: expected two curves of features replaced, or two of features kept, not one of each.")
    return (-1 if most.keep else 1) * (least.values - most.values).mean(1)


def perturbation(
    model: Callable,
    x: Array,
    relevance: Array,
    *,
    levels: Sequence[float] = LEVELS,
    order: str = "most",
    keep: bool = False,
    absolute: bool = False,
    replace: Any = "zero",
    channels: int | None = None,
    region: int = 1,
    target: Any = None,
    score: Any = "probability",
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Curve:
    """Replace (or keep) the features that relevance ranks first, and say what the model makes of what is left.

    With `order="most"` this is pixel flipping or deletion, and MoRF; with `order="least"` LeRF (the most negative
    features first); with `keep=True` insertion.

    Args:
      model: a function of a batch (N, ...) that returns scores (N, classes), or (N,) for a single one. Each call
        compiles it anew; `jax.jit(model)` is compiled once, with the weights that it had, and
        `jax.tree_util.Partial(apply, weights)`, of a function of (weights, x), once for all weights.
      x: the examples, of shape (N, ...): numbers, or integer ids.
      relevance: their relevance, of x's shape, or of its leading axes, or with axes of size 1. What it has no axis
        for is one feature: `R.sum(-1)` of images in NHWC ranks whole pixels, `R.sum(1, keepdims=True)` in NCHW.
      levels: fractions of the features, ascending; rounded to whole features.
      order: "most" or "least" relevant features first; among equals the first in memory.
      keep: whether the first features are kept and all others replaced.
      absolute: whether to rank by |relevance|.
      replace: what features become: "zero"; a number or an array that broadcasts to `x` (a mask's id, say); "mean", of
        each example and channel; "blur", a Gaussian of a tenth of the sides, of each channel; "noise", uniform within
        each example's range.
      channels: the axis of `x` along which "mean" and "blur" keep apart what they mix otherwise; None for the axes that
        relevance has none for, or, where it has one for each of three or more axes of an example, the last one (NHWC);
        the first (NCHW) if that has two to four entries, and fewer than the last. Where an example has two axes
        (a series, or a grey image), the last one if it has at most four entries, and fewer than the first.
      region: features are ranked and replaced in squares of this side, by their sum; in windows along every axis that
        relevance has, so sum over channels first.
      target: the class of each example, of shape (N,), or one for all (negative ones count from the end); None for what
        the model says of the whole `x`.
      score: "probability" (softmax of the target), "logit", "correct" (1 where the target has the highest score); or
        a function of the model's output and the targets alone, that returns an array (N, ...).
      batch_size: how many perturbed examples the model sees at once; memory is bounded by it.
      seed: of the noise.
      progress: whether to show a tqdm bar.

    Returns:
      A `Curve` with a value for each example and level, in float32 at least.

    Raises:
      ArgumentError: for options or shapes that do not fit.

    Source: Bach et al. 2015; Samek et al. 2017, "Evaluating the visualization of what a deep neural network has
    learned"; Petsiuk et al. 2018.

    Example:
      >>> model, x = lambda x: x @ jnp.array([[3.0], [1.0], [2.0]]), jnp.ones((1, 3))
      >>> curve = metrics.perturbation(model, x, jrlrp.relevance(model)(x), score="logit", levels=(0, 1 / 3, 2 / 3))
      >>> curve.values
      array([[6., 3., 1.]], dtype=float32)
    """
    require_function(model)
    for name, value, kind in (("keep", keep, bool), ("absolute", absolute, bool), ("seed", seed, int)):
        require(name, value, kind)
    fractions = _checked_levels(levels)
    if order not in ORDERS:
        raise ArgumentError(f"order={order!r}: expected one of {', '.join(map(repr, ORDERS))}.")
    if not (callable(score) or score in SCORES):
        raise ArgumentError(f"score={score!r}: expected one of {', '.join(map(repr, SCORES))}, or a function.")
    x = examples(x)
    if target is not None and not _fits(target, len(x)):
        raise ArgumentError(f"target={target!r}: expected a class, or one for each of {len(x)} examples.")
    size = rows(batch_size, len(x) * len(fractions))
    if not callable(score):
        _check_scores(model, x, score, target, size)
    features = Features.of(x, relevance, region)
    ranks = features.ranks(jnp.asarray(relevance), order == "most", absolute)
    other = fill(x, replace, features.mixed(channels), seed)
    targets = _targets(model, x, target, batch_size)
    counts = jnp.asarray(np.rint(fractions * features.count), jnp.int32)

    step = compiled(_score, model, score=score, keep=keep)
    values = computed(
        lambda index: step(index, x, other, ranks, counts, targets),
        (np.arange(len(x) * len(fractions)),),
        size,
        progress and "perturbing",
    )
    return Curve(fractions, values.reshape(len(x), len(fractions), *values.shape[1:]), bool(keep))


def _checked_levels(levels: Sequence[float]) -> np.ndarray:
    try:
        found = np.asarray(levels, float)
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.ndim != 1 or not found.size or (np.diff(found) <= 0).any() or not (0 <= found[0] <= found[-1] <= 1):
        raise ArgumentError(f"levels={levels!r}: expected fractions between 0 and 1, ascending.")
    return found


def _fits(target: Any, count: int) -> bool:
    target = np.asarray(target)
    return target.shape in ((), (count,)) and np.issubdtype(target.dtype, np.integer)


def _check_scores(model: Callable, x: Array, score: str, target: Any, rows: int) -> None:
    """Refuse models and targets that have no such score, before anything runs."""
    out = jax.eval_shape(lambda x: model(x), jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype))
    shape = getattr(out, "shape", type(out).__name__)
    if isinstance(shape, str):
        raise ArgumentError(f"the model returns a {shape}: expected one array, or pass a function as the score.")
    if not 1 <= len(shape) <= 2 or shape[0] != rows:
        raise ArgumentError(
            f"the model takes {rows} examples to an output of shape {shape}: expected ({rows}, classes) or ({rows},); "
            "for any other, pass a function as the score."
        )
    if shape[1:] in ((), (1,)) and score != "logit":
        raise ArgumentError(f'score={score!r}: the model returns one score for each example; use score="logit".')
    classes = np.asarray(0 if target is None else target)
    if len(shape) == 2 and not ((-shape[1] <= classes) & (classes < shape[1])).all():
        raise ArgumentError(f"target={target!r}: the model has {shape[1]} classes.")


def _targets(model: Callable, x: Array, target: Any, batch_size: int) -> Array:
    if target is not None:
        return jnp.broadcast_to(jnp.asarray(target), (len(x),))
    step = compiled(_best, model)
    return jnp.asarray(computed(lambda index: step(index, x), (np.arange(len(x)),), rows(batch_size, len(x))))


@jax.jit
def _best(model: Callable, index: Array, x: Array) -> Array:
    out = model(x[index])
    return jnp.argmax(out, axis=-1) if out.ndim > 1 else jnp.zeros(len(index), jnp.int32)


@functools.partial(jax.jit, static_argnames=("score", "keep"))
def _score(
    model: Callable,
    index: Array,
    x: Array,
    other: Array,
    ranks: Array,
    counts: Array,
    targets: Array,
    *,
    score: Any,
    keep: bool,
) -> Array:
    """Return the scores of examples at levels, by their number; the first features are replaced (or alone kept)."""
    of, level = jnp.divmod(index, len(counts))
    first = ranks[of] < counts[level].reshape(-1, *[1] * (ranks.ndim - 1))
    out = model(jnp.where(first != keep, other[of], x[of]))
    target = targets[of]
    if callable(score):
        found = _counted(score(out, target))
        if found.shape[:1] != index.shape:
            raise ArgumentError(f"the score of {len(index)} examples has shape {found.shape}: expected (N, ...).")
        return found
    out = _counted(out)
    if out.ndim == 1:
        return out
    if score == "correct":
        return (jnp.argmax(out, axis=-1) == target % out.shape[1]).astype(out.dtype)
    chosen = jax.nn.softmax(out) if score == "probability" else out
    return jnp.take_along_axis(chosen, target[:, None], axis=-1)[:, 0]


def _counted(values: Array) -> Array:
    """Return values in float32 at least, for what is added up of them."""
    values = jnp.asarray(values)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))
