"""Whether maps depend on what the model has learnt: they should change when its parameters are drawn anew."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.batches import shown
from jrlrp.errors import ArgumentError
from jrlrp.metrics.arguments import compiled
from jrlrp.metrics.maps import rank_correlation, scaled, ssim

Array = Any
MODES = ("cascade", "independent")


@dataclass(frozen=True, eq=False)
class Randomised:
    """How alike maps are to those of the model as it was, with parameters drawn anew.

    Attributes:
      layers: what was drawn anew: in a cascade each of them and all before it in the list, else each alone.
      rank_correlation: of shape (layers, N).
      ssim: of the same shape, where maps are images of at least 7×7, summed over a last axis of channels and each in
        parts of its largest entry by size, as a drawn network's may be on another scale; else None.
    """

    layers: tuple[str, ...]
    rank_correlation: np.ndarray
    ssim: np.ndarray | None


def randomisation(
    explain: Callable,
    parameters: Any,
    layers: Sequence[str] | None = None,
    *,
    mode: str = "cascade",
    absolute: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> Randomised:
    """Draw the parameters of layer after layer anew, and compare the maps with those of the model as it is.

    Args:
      explain: takes parameters to maps of shape (N, ...), for targets that do not change. It is compiled as
        `perturbation` compiles models.
      parameters: a pytree of arrays.
      layers: prefixes of the parameters' paths, as `jax.tree_util.keystr(path, simple=True, separator="/")` writes
        them, from the output to the input; None for all modules (paths without their last part), in the reverse of the
        pytree's order, which is alphabetical for dicts.
      mode: "cascade" draws each layer beside all before it, "independent" each alone.
      absolute: whether maps are compared by |R|.
      seed: of the drawing. Each array is drawn from a normal distribution of its own mean and standard deviation, by
        size where none of its entries is negative, as variances are not. One that is constant stays as it is: biases
        of zero, a norm's scales of one.
      progress: whether to show a tqdm bar.

    Returns:
      A `Randomised`.

    Raises:
      ArgumentError: for another mode, or a layer that has no parameters.

    Source: Adebayo et al. 2018, "Sanity checks for saliency maps".
    """
    if mode not in MODES:
        raise ArgumentError(f"mode={mode!r}: expected one of {', '.join(map(repr, MODES))}.")
    paths = [path for path, _ in _named(parameters)]
    if not (layers is None or (isinstance(layers, Iterable) and not isinstance(layers, str))):
        raise ArgumentError(f"layers={layers!r}: expected a list of prefixes of the parameters' paths, or None.")
    if not paths:
        raise ArgumentError("there are no parameters to draw anew; pass the model's.")
    layers = tuple(_modules(paths) if layers is None else layers)
    for layer in layers:
        if not any(_within(path, layer) for path in paths):
            raise ArgumentError(f"no parameter's path begins with {layer!r}; the paths are {', '.join(paths)}.")
    run = compiled(_explained, explain)
    before, changed, found = run(parameters), parameters, []
    for layer in shown(layers, progress and "randomising"):
        changed = drawn_anew(changed if mode == "cascade" else parameters, layer, seed)
        found.append(jax.device_get(_likeness(before, run(changed), absolute)))
    similar = [image for _, image in found if image is not None]
    return Randomised(layers, np.stack([rank for rank, _ in found]), np.stack(similar) if similar else None)


@jax.jit
def _explained(explain: Callable, parameters: Any) -> Array:
    return explain(parameters)


def drawn_anew(parameters: Any, layer: str, seed: int = 0) -> Any:
    """Return parameters with those of one layer drawn from normal distributions of their own mean and deviation.

    An array without negative entries gets none.
    """
    leaves = []
    for k, (path, leaf) in enumerate(_named(parameters)):
        if _within(path, layer) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            leaf = _drawn(leaf, np.random.default_rng((seed, k)))
        leaves.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(parameters), leaves)


def _drawn(leaf: Any, random: np.random.Generator) -> Array:
    """Return an array drawn by NumPy, for JAX would compile the drawing of every shape."""
    values = np.asarray(leaf, np.float64)
    if not values.size:
        return leaf
    drawn = random.normal(values.mean(), values.std(), values.shape)
    return jnp.asarray(drawn if (values < 0).any() else np.abs(drawn), jnp.result_type(leaf))


def _named(parameters: Any) -> list[tuple[str, Any]]:
    keystr = jax.tree_util.keystr
    pairs = jax.tree_util.tree_leaves_with_path(parameters)
    return [(keystr(path, simple=True, separator="/"), leaf) for path, leaf in pairs]


def _modules(paths: Sequence[str]) -> list[str]:
    return list(reversed(dict.fromkeys(path.rpartition("/")[0] or path for path in paths)))


def _within(path: str, layer: str) -> bool:
    return path == layer or path.startswith(f"{layer}/")


@functools.partial(jax.jit, static_argnums=2)
def _likeness(before: Array, after: Array, absolute: bool) -> tuple[Array, Array | None]:
    """Return the rank correlation of each pair of maps, and the structural similarity of those that are images."""
    before, after = (jnp.abs(maps) if absolute else maps for maps in (before, after))
    return rank_correlation(before, after), _images(before, after)


def _images(a: Array, b: Array) -> Array | None:
    a, b = (r.sum(-1) if r.ndim == 4 else r for r in (a, b))
    if a.ndim != 3 or min(a.shape[1:]) < 7:
        return None
    return ssim(scaled(a), scaled(b))
