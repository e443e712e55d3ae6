"""What lies on which devices inside a shard_map: the axes of its mesh, and how values move and vary along them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec


def mapped_axes(params: Mapping[str, Any]) -> dict[str, int]:
    """Return the axes of a mesh that a shard_map with these parameters maps, with how many devices lie along each.

    They are in the order in which they split the arguments, which may be another than the mesh's.
    """
    names, sizes = params.get("newly_manual_axes", params.get("manual_axes")), params["mesh"].shape
    entries = (entry for spec in params["in_specs"] for entry in spec if entry is not None)
    split = (name for entry in entries for name in (entry if isinstance(entry, tuple) else (entry,)))
    return {name: sizes[name] for name in dict.fromkeys((*split, *sizes)) if name in names}


def shard_map(params: Mapping[str, Any], fun: Callable, along: Sequence[Any]) -> Callable:
    """Return `fun` mapped over shards as an equation with these parameters maps its body.

    Its last arguments are `along`, whose leading axes of their sizes lie along those of the mesh; it returns what the
    body does, and a tuple of arrays, which lie along the mesh by their leading axes. It is compiled: eagerly, JAX takes
    a second for each operation of a body.
    """
    axes = mapped_axes(params)
    lies = lambda a: (name if a.shape[k] == n else None for k, (name, n) in enumerate(axes.items()))
    in_specs = (*params["in_specs"], *(PartitionSpec(*lies(a)) for a in along))
    out_specs = tuple(params["out_specs"]), PartitionSpec(*axes)
    options = {"mesh": params["mesh"], "axis_names": set(axes), "check_vma": params["check_vma"]}
    return jax.jit(jax.shard_map(fun, in_specs=in_specs, out_specs=out_specs, **options))


def mesh_sizes(eqn: Any) -> dict[str, int]:
    """Return the axes of a shard_map's mesh, with how many devices lie along each."""
    return dict(eqn.params["mesh"].shape)


def devices(eqn: Any, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return over how many "devices" a collective goes, in a dictionary; an empty one if that is not known."""
    names = eqn.params.get("axes", ())
    known = bool(names) and all(name in sizes for name in names) and eqn.params.get("axis_index_groups") is None
    return {"devices": math.prod(sizes[name] for name in names)} if known else {}


def mesh_axes(x: Any) -> frozenset[str]:
    """Return the axes of the mesh along which a value, or values of a type, differ inside shard_map."""
    return varying_axes(x if isinstance(x, jax.core.AbstractValue) else jax.typeof(x))


def varying_axes(aval: Any) -> frozenset[str]:
    """Return the axes of the mesh along which values of a type differ, as far as JAX checks that."""
    kind = getattr(aval, "manual_axis_type", None)
    return frozenset() if kind is None else frozenset(kind.varying)


def added_up(r: Any, like: Any) -> Any:
    """Return the sum over devices that read the same value, of each of which r is a part."""
    return added_over(r, mesh_axes(r) - mesh_axes(like))


def added_over(x: Any, axes: Iterable[str]) -> Any:
    """Return the sum over the devices along axes of the mesh; the same on all of them if x is."""
    own = tuple(sorted(axes))
    return jax.lax.psum(varying_along(x, own), own) if own else x


def varying_along(x: Any, axes: Iterable[str]) -> Any:
    """Return x as it is, which may differ along axes of the mesh, inside shard_map."""
    own = tuple(sorted(set(axes) - mesh_axes(x)))
    return jax.lax.pcast(x, own, to="varying") if own else x


def varying(x: Any, like: Iterable[Any]) -> Any:
    """Return x as it is, which may differ along the axes of the mesh along which others do, inside shard_map."""
    return varying_along(x, frozenset().union(*map(mesh_axes, like)))
