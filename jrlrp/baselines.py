"""The usual attributions, in the form of `relevance`, so that a comparison is one loop.

Each takes a function and returns a function of the same arguments that returns their attribution. Targets are those of
`relevance`; a final softmax is explained at its logits; the class that "max" finds at the input is kept wherever else
the function is evaluated.
"""

import functools
import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.api import check_argnums, relevance
from jrlrp.composites.presets import gradient_times_input as _gradient_times_input
from jrlrp.errors import ArgumentError
from jrlrp.target import as_target
from jrlrp.transform import options, trace_function

Array = Any


def gradient(fun: Callable, argnums: int | Sequence[int] = 0, *, target: Any = "max") -> Callable:
    """Return a function that returns ∂score/∂x of the explained score (saliency).

    Args:
      fun, argnums, target: as for `relevance`; the arguments are floating-point.

    Source: Simonyan et al. 2014, "Deep inside convolutional networks".
    """
    check_argnums("gradient", argnums)
    return _attribution(fun, argnums, target, lambda slope, x: slope(x))


def gradient_times_input(fun: Callable, argnums: int | Sequence[int] = 0, *, target: Any = "max") -> Callable:
    """Return a function that returns x · ∂score/∂x; for ids, what their embeddings times the gradients sum up to.

    Args:
      fun, argnums, target: as for `relevance`.

    Source: Shrikumar et al. 2016, "Not just a black box".
    """
    check_argnums("gradient_times_input", argnums)
    return relevance(fun, argnums, rules=_gradient_times_input(), target=target)


def integrated_gradients(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    *,
    target: Any = "max",
    baseline: Any = 0.0,
    steps: int = 32,
) -> Callable:
    """Return a function that returns integrated gradients.

    (x − x₀) · ∫₀¹ ∂score/∂x (x₀ + t (x − x₀)) dt, by the midpoint rule; they sum to score(x) − score(x₀).

    Args:
      fun, argnums, target: as for `relevance`; the arguments are floating-point.
      baseline: x₀: a number, or a pytree of the explained argument's structure whose leaves broadcast to its leaves
        (a tuple of such for a tuple `argnums`).
      steps: how many gradients the integral is made of; they are evaluated one after the other.

    Raises:
      ArgumentError: for fewer than one step.

    Source: Sundararajan et al. 2017, "Axiomatic attribution for deep networks".
    """
    check_argnums("integrated_gradients", argnums)
    _require_count("integrated_gradients", "steps", steps)

    def integrate(slope: Callable, x: Any) -> Any:
        start = _broadcast(baseline, x)
        way = jax.tree.map(jnp.subtract, x, start)

        def at(t: Array) -> Any:
            return jax.tree.map(lambda a, d: a + t.astype(a.dtype) * d, start, way)

        mean = _mean(lambda t: slope(at(t)), (jnp.arange(steps) + 0.5) / steps, x)
        return jax.tree.map(jnp.multiply, way, mean)

    return _attribution(fun, argnums, target, integrate)


def smooth_grad(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    *,
    target: Any = "max",
    noise: float = 0.15,
    samples: int = 32,
    seed: int = 0,
    times_input: bool = False,
) -> Callable:
    """Return a function that returns the mean gradient at x + normal noise.

    Args:
      fun, argnums, target: as for `relevance`; the arguments are floating-point.
      noise: the standard deviation, in parts of each leaf's range: that of a whole batch, unless vmap maps over its
        examples.
      samples: how many gradients the mean is taken of; they are evaluated one after the other.
      seed: of the noise.
      times_input: whether to multiply by x.

    Raises:
      ArgumentError: for fewer than one sample, or negative noise.

    Source: Smilkov et al. 2017, "SmoothGrad".
    """
    check_argnums("smooth_grad", argnums)
    _require_count("smooth_grad", "samples", samples)
    if not noise >= 0:
        raise ArgumentError(f"smooth_grad(noise={noise!r}): expected a number ≥ 0.")

    def smooth(slope: Callable, x: Any) -> Any:
        leaves, tree = jax.tree.flatten(x)
        sigmas = [noise * (jnp.max(a) - jnp.min(a)) if a.size else 0.0 for a in leaves]

        def disturbed(key: Array) -> Any:
            keys = jax.random.split(key, len(leaves))
            parts = zip(leaves, sigmas, keys, strict=True)
            return jax.tree.unflatten(tree, [a + s * jax.random.normal(k, a.shape, a.dtype) for a, s, k in parts])

        mean = _mean(lambda key: slope(disturbed(key)), jax.random.split(jax.random.key(seed), samples), x)
        return jax.tree.map(jnp.multiply, x, mean) if times_input else mean

    return _attribution(fun, argnums, target, smooth)


def occlusion(
    fun: Callable,
    argnums: int = 0,
    *,
    target: Any = "max",
    window: int | Sequence[int] = 8,
    stride: int | Sequence[int] | None = None,
    replace: Any = 0.0,
) -> Callable:
    """Return a function that returns how much the score falls when a window is replaced, for a batch (N, ...).

    R_i is the mean of score(x) − score(x with the window replaced) over the windows that cover i. The score of each
    example has to depend on that example alone.

    Args:
      fun, target: as for `relevance`; the output has one row for each example.
      argnums: the argument to explain, an array of shape (N, ...): numbers or ids.
      window: the window's sides along the axes after the first; an int is for all but the last axis, along which
        windows are whole, or for the only one.
      stride: how far windows lie apart; the window's sides if None.
      replace: what features become: a number or an array that broadcasts to the argument.

    Raises:
      ArgumentError: for several arguments, windows that do not fit the argument, or an output without a row for each
        example.

    Source: Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks".
    """
    if isinstance(argnums, (tuple, list)):
        raise ArgumentError(f"occlusion(argnums={argnums!r}): expected an int; windows are of one array.")
    check_argnums("occlusion", argnums)

    @wraps(fun, updated=())
    def occluded(*args: Any, **kwargs: Any) -> Array:
        (x,) = _explained(args, (argnums,))
        x = jnp.asarray(x)
        sides = _sides(window, x.shape, "window")
        steps = sides if stride is None else _sides(stride, x.shape, "stride")
        score, _ = _scores(fun, args, kwargs, (argnums,), target)
        rows = lambda x: score((x,), rows=True)
        whole, other = rows(x), jnp.broadcast_to(jnp.asarray(replace, x.dtype), x.shape)
        if whole.shape != x.shape[:1]:
            raise ArgumentError(
                f"occlusion: {len(x)} examples, and an output of shape {whole.shape}; expected a row for each. For a "
                "function of one example, map it over a batch with jax.vmap."
            )
        starts = [_starts(n, side, step) for n, side, step in zip(x.shape[1:], sides, steps, strict=True)]
        corners = jnp.asarray(np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, len(starts)))

        def step(total: tuple[Array, Array], corner: Array) -> tuple[tuple[Array, Array], None]:
            inside = jnp.ones((), bool)
            for d, (n, side) in enumerate(zip(x.shape[1:], sides, strict=True)):
                at = jnp.arange(n).reshape([-1 if k == d else 1 for k in range(len(sides))])
                inside = inside & (at >= corner[d]) & (at < corner[d] + side)
            fall = whole - rows(jnp.where(inside, other, x))
            share = fall.reshape(-1, *[1] * len(sides)) * inside
            return (total[0] + share, total[1] + inside), None

        zero = jnp.zeros(x.shape, whole.dtype), jnp.zeros(x.shape[1:], whole.dtype)
        (falls, covered), _ = jax.lax.scan(step, zero, corners)
        mean = falls / jnp.maximum(covered, 1)
        return mean.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else mean

    return occluded


def _attribution(fun: Callable, argnums: Any, target: Any, method: Callable) -> Callable:
    """Return a function of `fun`'s arguments that returns `method(slope, explained arguments)`."""
    single = not isinstance(argnums, (tuple, list))
    chosen = (argnums,) if single else tuple(argnums)

    @wraps(fun, updated=())
    def explained(*args: Any, **kwargs: Any) -> Any:
        score, x = _scores(fun, args, kwargs, chosen, target)
        for leaf in jax.tree.leaves(x):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise ArgumentError(
                    f"an argument of dtype {jnp.result_type(leaf)} has no gradient; explain its embeddings, or take "
                    "gradient_times_input, occlusion or relevance."
                )
        x = jax.tree.map(jnp.asarray, x)
        slope = jax.grad(score)
        if single:
            return method(lambda x: slope((x,))[0], x[0])
        return method(slope, x)

    return explained


def _scores(
    fun: Callable, args: Sequence[Any], kwargs: Any, argnums: tuple[int, ...], target: Any
) -> tuple[Callable, tuple[Any, ...]]:
    """Return the explained score as a function of the explained arguments, and these.

    What is explained, the class that is largest say, is chosen at the arguments given.
    """
    chosen = options(fun, _gradient_times_input(), argnums=argnums, target=as_target(target))

    def outputs(x: tuple[Any, ...]) -> Any:
        given = list(args)
        for k, part in zip(argnums, x, strict=True):
            given[k] = part
        return trace_function(fun, given, kwargs, chosen).explain().out

    x = _explained(args, argnums)
    weights = jax.lax.stop_gradient(chosen.target.score_gradient(outputs(x)))  # type: ignore[union-attr]

    def score(x: tuple[Any, ...], rows: bool = False) -> Array:
        parts = jax.tree.map(lambda w, out: jnp.where(w == 0, 0, w * out), weights, outputs(x))
        add = functools.partial(_over_rows, rows=rows)
        return functools.reduce(jnp.add, map(add, jax.tree.leaves(parts)))

    return score, x


def _explained(args: Sequence[Any], argnums: tuple[int, ...]) -> tuple[Any, ...]:
    try:
        return tuple(args[k] for k in argnums)
    except IndexError:
        raise ArgumentError(f"argnums={argnums!r} is out of range: the function got {len(args)} argument(s).") from None


def _over_rows(part: Array, rows: bool) -> Array:
    return part.sum(tuple(range(1, part.ndim))) if rows else part.sum()


def _mean(slope: Callable, places: Array, x: Any) -> Any:
    """Return the mean of slopes at places, one after the other, of x's structure and dtypes, summed in float32."""
    wide = lambda a: jnp.promote_types(a.dtype, jnp.float32)

    def step(total: Any, place: Array) -> tuple[Any, None]:
        return jax.tree.map(lambda sum, g: sum + g.astype(sum.dtype), total, slope(place)), None

    total, _ = jax.lax.scan(step, jax.tree.map(lambda a: jnp.zeros(a.shape, wide(a)), x), places)
    return jax.tree.map(lambda sum, a: (sum / len(places)).astype(a.dtype), total, x)


def _broadcast(baseline: Any, x: Any) -> Any:
    if jax.tree.structure(x) == jax.tree.structure(baseline):  # type: ignore[operator]
        return jax.tree.map(lambda b, a: jnp.broadcast_to(jnp.asarray(b, a.dtype), a.shape), baseline, x)
    return jax.tree.map(lambda a: jnp.broadcast_to(jnp.asarray(baseline, a.dtype), a.shape), x)


def _require_count(name: str, option: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{name}({option}={value!r}): expected an int ≥ 1.")


def _sides(window: Any, shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    own = shape[1:]
    if not own:
        raise ArgumentError(f"occlusion: an argument of shape {shape}; expected examples of features, (N, ...).")
    sides = (window,) if isinstance(window, int) else tuple(window) if isinstance(window, Sequence) else ()
    if isinstance(window, int) and len(own) > 1:
        sides = (*sides * (len(own) - 1), own[-1])
    if len(sides) != len(own) or not all(isinstance(n, int) and n >= 1 for n in sides):
        raise ArgumentError(f"occlusion({name}={window!r}): expected an int ≥ 1, or one for each of the axes {own}.")
    return tuple(map(min, sides, own))


def _starts(length: int, side: int, step: int) -> np.ndarray:
    """Return where windows begin, the last of them at the end."""
    count = max(math.ceil((length - side) / step), 0) + 1
    return np.minimum(np.arange(count) * step, length - side)
