"""Modules of Flax NNX, Equinox and PyTorch whose nodes are called by the attributes that submodules lie in."""

import copy
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.errors import ArgumentError, warn
from jrlrp.rules.base import brief
from jrlrp.trace.compat import NAMED, WHOLE

_BASES = (("flax.nnx", "Module"), ("equinox", "Module"), ("torch.nn", "Module"))


def named(module: Any) -> Any:
    """Return a module like it, of the same weights, whose equations are called by the attributes of submodules.

    The nodes of `module.layers[3].attn.q_proj` are "layers/3/attn/q_proj" in `plan`, for `capture`, `conditions` and
    composites: each submodule is called under `jax.named_scope`. `relevance` does this by itself for a module, or a
    method of one, that it is given; `named` is for modules that are called by something else:
    `jax.vmap(jrlrp.named(net))` in Equinox, `torchax.extract_jax(jrlrp.named(module))` in PyTorch. A submodule that is
    taken apart and put together on the way, by `eqx.filter_jit` or `nnx.scan`, has no name within.

    Args:
      module: an NNX, Equinox or PyTorch module. It stays as it is.

    Raises:
      ArgumentError: for anything else. Linen and Haiku name their modules themselves.

    Example:
      >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
      >>> [node.name for node in jrlrp.plan(jax.vmap(jrlrp.named(net)), jnp.ones((2, 4))).nodes]
      ['layers/0', 'activation', 'layers/1']
    """
    if not is_module(module):
        raise ArgumentError(
            f"named({brief(module)}): expected a module of Flax NNX, Equinox or PyTorch; Linen and Haiku name theirs "
            "themselves, and jax.named_scope names anything."
        )
    return _twin(module, "", {})


def with_names(fun: Callable) -> Callable:
    """Return a module, or a method of one, with names for its submodules, and any other function as it is.

    Raises:
      ArgumentError: for a module of PyTorch, which computes with tensors.
    """
    owner = getattr(fun, "__self__", None)
    module = fun if is_module(fun) else owner if hasattr(fun, "__func__") and is_module(owner) else None
    if module is None:
        return fun
    if is_module(module, "torch"):
        raise ArgumentError(
            f"{type(module).__name__} is a module of PyTorch; explain the JAX function that torchax makes of it: "
            "params, f = torchax.extract_jax(jrlrp.named(module)), and relevance(lambda x: f(params, (x,)))."
        )
    if is_module(module, "flax") and not _AS_IT_IS.get():
        _warn_of_constants(module)
    twin = _twin(module, "", {})
    return twin if module is fun else fun.__func__.__get__(twin)  # type: ignore[attr-defined]


@contextmanager
def as_it_is() -> Iterator[None]:
    """Within this, weights of an NNX module may become constants of a compiled function: it is used once."""
    token = _AS_IT_IS.set(True)
    try:
        yield
    finally:
        _AS_IT_IS.reset(token)


def _warn_of_constants(module: Any) -> None:
    """Warn if weights of an NNX module, which may change, become constants of a function that is being compiled."""
    if not isinstance(jnp.zeros(()), jax.core.Tracer):
        return
    leaves = [leaf for leaf in jax.tree.leaves(module) if isinstance(leaf, (jax.Array, np.ndarray))]
    if any(not isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        name = type(module).__name__
        warn(
            f"the weights of {name} become constants of the function that is being compiled: it does not see them "
            "change later, and takes longer to compile. Make the module an argument, explain = jax.jit(lambda model, "
            "x: jrlrp.relevance(model)(x)), and call explain(model, x)."
        )


def is_module(value: Any, package: str = "") -> bool:
    """Tell whether a value is a module of a framework: of this package, or of any that keeps no names itself."""
    return _is_kind_of_module(type(value), package)


def _is_kind_of_module(kind: type, package: str) -> bool:
    loaded = ((name, getattr(sys.modules.get(name), base, None)) for name, base in _BASES)
    return any(issubclass(kind, base) for name, base in loaded if base is not None and name.startswith(package))


def _twin(value: Any, path: str, made: dict[int, Any]) -> Any:
    """Return a value with its modules replaced by such that know where they lie; itself if there is none."""
    if id(value) in made:  # a module may be shared, or know those around it
        return made[id(value)]
    if is_module(value):
        kind: Any = type(value)
        is_called = any("__call__" in vars(base) for base in kind.__mro__)
        twin: Any = object.__new__(_scoped(kind) if is_called else kind)
        made[id(value)] = twin
        _remember(twin, path)
        for name, own in vars(value).items():
            vars(twin)[name] = _twin(own, path if name == "_modules" else _joined(path, name), made)  # as PyTorch does
        if not is_called and all(vars(twin)[name] is own for name, own in vars(value).items()):
            made[id(value)] = value  # nothing to name, and it may be known by its identity
        return made[id(value)]
    if isinstance(value, (dict, list, tuple)):
        keys = value if isinstance(value, dict) else range(len(value))
        found = {key: _twin(value[key], _joined(path, str(key)), made) for key in keys}
        return value if all(found[key] is value[key] for key in keys) else _replaced(value, found)
    return value


def _replaced(value: Any, found: dict[Any, Any]) -> Any:
    """Return a dict, list or tuple with other items."""
    if isinstance(value, tuple):
        return type(value)(*found.values()) if hasattr(value, "_fields") else type(value)(found.values())
    twin = copy.copy(value)
    for key, own in found.items():
        twin[key] = own
    return twin


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


# Where modules lie, by identity: frameworks do not let a module carry that, nor be a key.
_PATHS: dict[int, tuple[weakref.ref, str]] = {}
_ENTERED: ContextVar[str] = ContextVar("entered", default="")
_AS_IT_IS: ContextVar[bool] = ContextVar("as it is", default=False)


def _remember(module: Any, path: str) -> None:
    key = id(module)
    _PATHS[key] = weakref.ref(module, lambda _: _PATHS.pop(key, None)), path


@contextmanager
def _inside(module: Any, mark: str) -> Iterator[None]:
    """Enter a module's path, as far as it is not entered yet."""
    path, entered = _PATHS.get(id(module), (None, ""))[1], _ENTERED.get()
    token = _ENTERED.set(path)
    own = path.removeprefix(f"{entered}/") if path != entered else ""
    try:
        with jax.named_scope("/".join(part + mark for part in own.split("/"))):
            yield
    finally:
        _ENTERED.reset(token)


@cache
def _scoped(kind: Any) -> Any:
    """Return a module's class whose calls are under the module's path."""
    plain: Any = kind.__call__
    is_library = _is_kind_of_module(kind, "torch") or kind.__module__.startswith("equinox.")
    mark = WHOLE if is_library else NAMED  # names of Equinox's classes, and of torchax's functions, say no place

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _inside(self, mark):
            return plain(self, *args, **kwargs)

    own = {"__call__": call, "__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind)(kind.__name__, (kind,), own)
