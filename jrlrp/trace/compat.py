"""What jrlrp knows about JAX's internals; `spellings.py` and `shards.py` beside it read what equations hold.

`jax.extend` makes no promise of compatibility. When a JAX release moves something, this file is the one to mend.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core as jex
import jax.extend.core.primitives
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout as DeviceLayout
from jax.experimental.layout import with_layout_constraint
from jax.extend import source_info_util
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

# Primitives that only call a jaxpr, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "composite": "jaxpr",
}

# Those of them that bring their own derivative.
CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})

# Primitives whose outputs are their inputs.
IDENTITIES = frozenset({"name", "copy", "copy_p", "optimization_barrier"})

# Primitives that JAX exports nowhere: public functions in whose traces they stand, by name.
_ARRAY = np.ones((2, 2), np.float32)
_OUTSIDE: dict[str, Callable[[Any], Any]] = {
    "tile": lambda x: jnp.tile(x, (2, 1)),
    "stack": lambda x: jnp.stack([x, x]),
    "unstack": lambda x: jnp.unstack(x)[0],
    "split": lambda x: jnp.split(x, 2)[0],
    "layout_constraint": lambda x: with_layout_constraint(x, DeviceLayout((0, 1))),
    "reshard": lambda x: _on_mesh(lambda x: jax.sharding.reshard(x, PartitionSpec("i")), x, AxisType.Explicit),
    "mesh_cast": lambda x: _on_mesh(lambda x: jax.sharding.reshard(x, PartitionSpec("i")), x, AxisType.Explicit),
    "pvary": lambda x: _in_shards(lambda x: jax.lax.pcast(jax.lax.psum(x, "i"), "i", to="varying"), x),
    "pcast": lambda x: _in_shards(lambda x: jax.lax.pcast(jax.lax.psum(x, "i"), "i", to="varying"), x),
    "psum_invariant": lambda x: _in_shards(lambda x: x + jax.lax.psum(x, "i"), x),
    "reduce_scatter": lambda x: _in_shards(lambda x: jax.lax.psum_scatter(x, "i", tiled=True), x),
    "optimization_barrier": jax.lax.optimization_barrier,
    "platform_index": lambda x: jax.lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos),
    "call_hi_primitive": lambda x: jnp.searchsorted(x[0], x[0]),
    "debug_print": lambda x: jax.debug.print("{}", x),
    "random_wrap": lambda x: jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32)),
    "random_unwrap": lambda x: jax.random.key_data(jax.random.key(0)),
    "random_clone": lambda x: jax.random.clone(jax.random.key(0)),
    "shard_map": lambda x: _in_shards(lambda x: x, x),
}


def _in_shards(fun: Callable, x: Any) -> Any:
    spec = PartitionSpec("i")
    mesh = Mesh(np.array(jax.local_devices()[:1]), ("i",))
    return jax.shard_map(fun, mesh=mesh, in_specs=spec, out_specs=spec)(x)


def _on_mesh(fun: Callable, x: Any, kind: Any) -> Any:
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("i",), axis_types=(kind,))):  # a trace allows no other
        return fun(x)


def exported(name: str) -> Any | None:
    """Return the primitive that JAX exports under a name, None if it does not."""
    return getattr(jex.primitives, f"{name}_p", None)


def outside(primitive: Any) -> str | None:
    """Return the name of a primitive that JAX exports nowhere but its public functions use; None for any other.

    A primitive of a user's that happens to have such a name is another object, and so another primitive.
    """
    name = primitive.name
    if name not in _OUTSIDE:
        return None
    with ThreadPoolExecutor(1) as apart:  # from the mesh and the trace that are current here
        traced, _ = parts(apart.submit(jax.make_jaxpr(_OUTSIDE[name]), _ARRAY).result())
    return name if any(found is primitive for found in _primitives(traced)) else None


def _primitives(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn.primitive
        inner = [called(eqn)] if called(eqn) is not None else [body for body, _ in bodies(eqn) or ()]
        for body in inner:
            yield from _primitives(parts(body)[0])


_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_INSTALLED = ("site-packages", "dist-packages", os.path.dirname(os.__file__))
_TYPED = ("<stdin>", "<string>")
_JAX = ("jax/", "torchax/", "torch/", "functools.py", "contextlib.py")  # what lies between a package and its equations

NAMED, WHOLE = "@", "@@"  # ends of the names that `modules.named` gives

_TRANSFORM = re.compile(r"\b\w+\(([^()]*)\)")


def make_jaxpr(fun: Callable, args: Sequence[Any]) -> Any:
    """Return the closed jaxpr of `fun(*args)`."""
    return jax.make_jaxpr(fun)(*args)


def parts(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """Return the open jaxpr and its constants, whatever of the two kinds of jaxpr was given."""
    if isinstance(jaxpr, jex.ClosedJaxpr):
        return jaxpr.jaxpr, jaxpr.consts
    return jaxpr, ()


def called(eqn: Any) -> Any | None:
    """Return the jaxpr that a call-like equation calls, or None if the equation is no call."""
    key = _CALLS.get(eqn.primitive.name)
    if key is None:
        return None
    jaxpr = eqn.params.get(key) or eqn.params.get("call_jaxpr") or eqn.params.get("jaxpr")
    return jaxpr if hasattr(jaxpr, "eqns") or hasattr(jaxpr, "jaxpr") else None


def expanded(eqn: Any) -> Any | None:
    """Return what a higher-order primitive says that it stands for (since JAX 0.12), None of others."""
    higher = eqn.params.get("_prim") if eqn.primitive.name == "call_hi_primitive" else None
    return None if higher is None else jax.make_jaxpr(higher.expand)(*higher.in_avals)


@dataclass(frozen=True, eq=False)
class Layout:
    """How the inputs and outputs of a jaxpr meet those of the control-flow equation that holds it.

    Attributes:
      operands: the operand that each input is (or begins as).
      results: the output of the equation that each output is, None for none.
      carried: pairs (output, input): the output is the input of the next turn.
      sliced: the inputs that are slices along the leading axis of their operand.
      stacked: the outputs that are slices along the leading axis of their result.
    """

    operands: tuple[int, ...]
    results: tuple[int | None, ...]
    carried: tuple[tuple[int, int], ...] = ()
    sliced: frozenset[int] = frozenset()
    stacked: frozenset[int] = frozenset()


def bodies(eqn: Any) -> list[tuple[Any, Layout]] | None:
    """Return the jaxprs of a control-flow equation, each with its layout, None if it is none."""
    name, p, count = eqn.primitive.name, eqn.params, len(eqn.invars)
    every, results = tuple(range(count)), tuple(range(len(eqn.outvars)))
    if name in ("remat2", "checkpoint", "shard_map"):
        return [(p["jaxpr"], Layout(every, results))]
    if name == "cond":
        return [(branch, Layout(every[1:], results)) for branch in p["branches"]]
    if name == "scan":
        first, carries = _scan_counts(p)
        carried = tuple((k, first + k) for k in range(carries))
        sliced, stacked = frozenset(range(first + carries, count)), frozenset(results[carries:])
        return [(p["jaxpr"], Layout(every, results, carried, sliced, stacked))]
    if name == "while":
        tests, turns = p["cond_nconsts"], p["body_nconsts"]
        carried = tuple((k, turns + k) for k in results)
        test = Layout(every[:tests] + every[tests + turns :], (None,))
        return [(p["cond_jaxpr"], test), (p["body_jaxpr"], Layout(every[tests:], results, carried))]
    return None


def _scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers of constants and of carries of a scan."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since JAX 0.12
    return len(consts), len(carry)


def is_literal(atom: Any) -> bool:
    return isinstance(atom, jex.Literal)


def path_of(eqn: Any) -> str:
    """Return the module path in the equation's name stack, without the names of JAX's transforms.

    What a library calls its own functions within a module whose name is marked as `WHOLE` is left out.
    """
    path = str(eqn.source_info.name_stack)
    while _TRANSFORM.search(path):
        path = _TRANSFORM.sub(r"\1", path)
    found, within = [], False
    for part in filter(None, path.split("/")):
        name = part.rstrip(NAMED)
        if name != part:
            within = part.endswith(WHOLE)
        if name and (name != part or not within):
            found.append(name)
    return "/".join(found)


def source_of(eqn: Any) -> str:
    """Return "file:line (function)" of the user's line that made the equation; empty inside JAX's own functions.

    The user's line is the innermost one outside installed packages. Where a package made the equation in between, its
    line comes after: "model.py:12 (Net.__call__), in flax/nnx/nn/linear.py:422 (Linear.__call__)". In a notebook the
    file is a cell, "In[3]".
    """
    traceback, inside = eqn.source_info.traceback, ""
    for frame in traceback.frames if traceback is not None else ():
        name = frame.file_name
        if name.startswith(_OWN) or not (".py" in name or name in _TYPED or _cell(name)):
            continue
        line = f"{frame.line_num} ({frame.function_name.rpartition('.<locals>.')[2]})"
        package = _in_package(name)
        if package == name:
            return f"{_cell(name) or _shortened(name)}:{line}" + (inside and f", in {inside}")
        if not (inside or package.startswith(_JAX)):
            inside = f"{package}:{line}"
    summary = source_info_util.summarize(eqn.source_info)
    if "unknown" in summary or ":" not in summary or summary.startswith(_OWN):
        return inside
    return inside or _in_package(summary)


def _in_package(name: str) -> str:
    """Return a file's name from its package on, or as it is if it lies in none that is installed."""
    return next((name.rpartition(f"{part}/")[2] for part in _INSTALLED if part in name), name)


def _cell(name: str) -> str | None:
    """Return what IPython calls the cell that it compiled under a file name, None for any other file."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    named = getattr(getattr(shell, "compile", None), "format_code_name", lambda name: None)(name)
    return named[1] if named else None


def _shortened(name: str) -> str:
    relative = os.path.relpath(name) if os.path.isabs(name) and os.path.splitdrive(name)[0] == "" else name
    return name if relative.startswith(os.pardir) else relative


def as_function(jaxpr: Any) -> Callable:
    """Return a closed jaxpr as a function of arrays, returning a list of them."""
    return jex.jaxpr_as_fun(jaxpr)


def new_primitive(name: str, evaluate: Callable, avals: Callable, batched: Callable) -> Any:
    """Return a primitive that evaluates, compiles and differentiates as the function `evaluate(*operands, **params)`.

    `avals(*operands, **params)` says what it returns; `batched(operands, dims, **params)` is it under `vmap`.
    """
    primitive = jex.Primitive(name)
    primitive.multiple_results = True

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
        filled = [ad.instantiate_zeros(t) for t in tangents]
        return jax.jvp(lambda *operands: evaluate(*operands, **params), list(primals), filled)

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(avals)
    mlir.register_lowering(primitive, mlir.lower_fun(evaluate, multiple_results=True))
    batching.primitive_batchers[primitive] = batched
    ad.primitive_jvps[primitive] = jvp
    return primitive


def run(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Run one equation of a jaxpr on values for all of its inputs, literals included."""
    return _bind(eqn, values, eqn.primitive.get_bind_params(eqn.params))


def bind(eqn: Any, values: Sequence[Any], **overrides: Any) -> list[Any]:
    """Bind the equation's primitive anew to `values`, with some of its parameters replaced."""
    return _bind(eqn, values, {**eqn.params, **overrides})


def with_params(eqn: Any, params: dict[str, Any]) -> Any:
    """Return an equation of a jaxpr with some other parameters."""
    return eqn.replace(params={**eqn.params, **params})


def known(value: Any, limit: int) -> np.ndarray | None:
    """Return an array of at most so many entries as numbers, None if it is traced, larger, of keys, or not all here."""
    if not isinstance(value, (np.ndarray, jax.Array)) or isinstance(value, jax.core.Tracer) or value.size > limit:
        return None
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return None
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        return None
    with jax.transfer_guard("allow"):
        return np.asarray(value)


def bind_to_numbers(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Bind the equation's primitive to known values, whatever device or mesh the equation is for."""
    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def with_numbers(function: Callable[[], Any]) -> Any:
    """Return what a function makes of known values, in double precision and apart from any trace, mesh or check."""

    def alone() -> Any:
        with jax.enable_x64(True), jax.debug_nans(False), jax.debug_infs(False), jax.transfer_guard("allow"):
            return function()

    with ThreadPoolExecutor(1) as apart:
        return apart.submit(alone).result()


def _bind(eqn: Any, values: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    with eqn.ctx.manager, source_info_util.user_context(eqn.source_info.traceback):
        out = eqn.primitive.bind(*values, **params)
    return list(out) if eqn.primitive.multiple_results else [out]
