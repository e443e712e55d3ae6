"""What a call of the transform is given, checked: which arguments are explained, and what the function returns."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.errors import ArgumentError


def positions(argnums: Any, count: int) -> tuple[int, ...]:
    """Return which of so many arguments are explained, counted from 0."""
    try:
        given = [operator.index(i) for i in (argnums if isinstance(argnums, (tuple, list)) else [argnums])]
    except TypeError:
        raise ArgumentError(f"argnums={argnums!r}: expected an int or a tuple of ints.") from None
    for i in given:
        if not -count <= i < count:
            raise ArgumentError(f"argnums={argnums!r} is out of range: the function got {count} argument(s).")
    found = tuple(i % count for i in given)
    if not found or len(set(found)) < len(found):
        raise ArgumentError(f"argnums={argnums!r}: expected at least one argument, each once.")
    return found


def check_leaves(arguments: tuple[Any, ...], numbers: Sequence[int]) -> tuple[str, ...]:
    """Return names of the explained leaves, or raise ArgumentError for one that no relevance can be given for."""
    names = []
    for i, argument in zip(numbers, arguments, strict=True):
        for path, leaf in jax.tree_util.tree_leaves_with_path(argument):
            name = f"argument {i}{jax.tree_util.keystr(path)}"
            dtype = dtype_of(leaf)
            if dtype is None:
                raise ArgumentError(
                    f"{name} is {leaf!r} of type {type(leaf).__name__}, which JAX cannot trace; pass arrays, or leave "
                    "the argument out of argnums."
                )
            if jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer):
                names.append(name)
            elif not is_left_out(leaf):
                raise ArgumentError(
                    f"{name} has dtype {dtype}; relevance is for real floating-point inputs and integer ids. Leave the "
                    "argument out of argnums, or close over it."
                )
    if not names and (leaves := jax.tree.leaves(arguments)):
        raise ArgumentError(
            f"argument {numbers[0]} has dtype {dtype_of(leaves[0])}; booleans and random keys have no relevance: "
            "expected floating-point inputs or integer ids among what is explained."
        )
    return tuple(names)


def is_left_out(leaf: Any) -> bool:
    """Tell whether a leaf has no relevance, and is none of what is explained: booleans, such as masks, and keys."""
    dtype = dtype_of(leaf)
    return dtype is not None and (dtype == np.bool_ or jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key))


def dtype_of(leaf: Any) -> Any:
    """Return the dtype of anything that JAX takes for an array, else None."""
    try:
        return jax.dtypes.result_type(leaf)
    except (TypeError, ValueError):
        return None


def called(fun: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return what a function returns; an error of Flax about levels of traces gets a note with the ways out."""
    try:
        return fun(*args, **kwargs)
    except Exception as error:  # any: it is raised again, as it is
        if "trace level" in str(error):  # Flax NNX's, of a module that changes itself or goes through nnx.scan
            error.add_note(
                "jrlrp: call model.eval() first, so that dropout and batch statistics stay as they are; if that does "
                "not help, explain a copy that is made within the function: lambda x: nnx.merge(*nnx.split(model), "
                "copy=True)(x)."
            )
        raise


def parted(out: Any, has_aux: bool) -> tuple[Any, Any]:
    """Return what is explained and the rest of what a function returned."""
    if not has_aux:
        return out, ()
    if not (isinstance(out, tuple) and len(out) == 2):
        raise ArgumentError(f"has_aux=True: expected fun to return (out, aux), not {type(out).__name__}.")
    return out
