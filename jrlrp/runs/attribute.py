"""Runs over data sets: maps of all items of a source, chunk by chunk, into a store."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jrlrp
from jrlrp.batches import jitted, rows, shown
from jrlrp.composites.composite import Composite
from jrlrp.errors import ArgumentError
from jrlrp.runs import reading
from jrlrp.runs.reading import Chunk
from jrlrp.runs.reductions import Batch
from jrlrp.runs.run import IDENTITY, STATES, Run, about
from jrlrp.runs.storage import Storage, as_json, named_leaves, packed, unpacked

_AHEAD = 1  # chunks that are computed while the one before is stored


def attribute(
    explain: Callable,
    source: Any,
    store: str,
    *,
    batch_size: int = 64,
    mesh: Any = None,
    reductions: Mapping[str, Any] | None = None,
    maps: bool = True,
    dtype: Any = None,
    on_error: str = "raise",
    description: Mapping[str, Any] | None = None,
    process: tuple[int, int] | None = None,
    progress: str | bool = True,
) -> Run:
    """Explain all items of a source, and keep what that gives in a store; go on where an earlier run was stopped.

    A chunk of `batch_size` items is read, explained, and stored with the reductions up to it; then it is finished, and
    never read or computed again, whenever the process is killed. The result is bit for bit that of a run without stops.

    Args:
      explain: a function of a batch that returns R, or a pair (value, R): `relevance(model)`, or
        `value_and_relevance(model)`; R is an array (N, ...), or a pytree of them.
      source: has `len(source)` and `source[k]`: a Grain source, a NumPy, zarr or HDF5 array, a list. An item is an
        example without a batch axis: a pytree of arrays, or a tuple of one for each of `explain`'s arguments.
      store: a path, local or of a bucket ("gs://bucket/run"), that is empty or has this run.
      batch_size: how many items are explained at once; the last batch is filled.
      mesh: batches are split over the first axis of this mesh of the process's devices; None for one device.
      reductions: by name, what to keep of all items, `runs.Mean()` say; stored with each chunk.
      maps: whether relevance is stored itself, too.
      dtype: that relevance is stored in; None for its own.
      on_error: "raise", or "record": an item that cannot be read has NaN in its row, and a message in the run's
        `errors`.
      description: what else the run is, a dict that JSON can hold: the weights' version, say.
      process: (k, n) if this is the k-th of n processes, each of which explains and stores its own part of the items;
        None for JAX's own numbers, which are (0, 1) without `jax.distributed`. They wait for nothing of each other.
      progress: whether to show a tqdm bar, or what it is called.

    Returns:
      The `Run`, with what the other processes have stored so far.

    Raises:
      ArgumentError: for wrong options, a store that has another run, or an item that cannot be read.

    Example:
      >>> explain = jrlrp.value_and_relevance(lambda x: x @ jnp.ones((8, 3)))
      >>> run = runs.attribute(explain, np.ones((100, 8), np.float32), store, batch_size=32, progress=False)
      >>> run.relevance.shape, run.value[:2].shape, run.is_complete
      ((100, 8), (2, 3), True)
    """
    reductions, size = dict(reductions or {}), rows(batch_size, batch_size)
    part, parts = _process(process)
    _check(explain, source, mesh, size, reductions, on_error, maps)
    storage, total = Storage(str(store)), len(source)
    ends = [reading.item(source, k) for k in dict.fromkeys((0, total // 2, total - 1))]
    like = reading.template(source, ends)
    compiled, pair = jitted(explain), _pairing(explain)
    outputs = _outputs(lambda *batch: pair(jax.eval_shape(compiled, *batch)), like, size, dtype)
    identity = {
        "jrlrp": jrlrp.__version__,
        "description": dict(description or {}),
        "rules": _told(explain)["rules"],
        "length": total,
        "structure": reading.structure(like),
        "items": [reading.digest(one) for one in ends],
        "batch_size": size,
        "outputs": outputs,
        "reductions": {name: about(reduction) for name, reduction in reductions.items()},
        "maps": maps,
        "processes": parts,
    }
    _same_run(storage, json.loads(as_json(identity)))
    keeper = _Keeper(storage, identity, reductions, part)
    chunks = reading.chunks(source, like, keeper.next, keeper.end, size, on_error == "raise")
    left = keeper.end - keeper.next
    run = lambda arguments: pair(compiled(*_placed(arguments, mesh)))
    _explain_all(run, shown(chunks, "explaining" if progress is True else progress, left), keeper)
    return Run(storage, identity, reductions)


def open(store: str, reductions: Mapping[str, Any] | None = None) -> Run:
    """Return the run that lies in a store, finished or not.

    Args:
      store: as for `attribute`.
      reductions: those of the run that are not the library's own, as they were given to `attribute`.

    Raises:
      ArgumentError: for a store without a run.
    """
    storage = Storage(str(store))
    identity = storage.read(IDENTITY)
    if identity is None:
        raise ArgumentError(f"{store} has no run; attribute(explain, source, store) makes one.")
    return Run(storage, json.loads(identity), dict(reductions or {}))


def _explain_all(run: Callable, chunks: Iterable[Chunk], keeper: "_Keeper") -> None:
    """Explain and store chunks; those before one that cannot be read are stored before that is raised."""
    pending: deque[tuple[Chunk, Any]] = deque()
    torn = None
    left = iter(chunks)
    while True:
        try:
            chunk = next(left, None)
        except ArgumentError as error:
            torn = error
            break
        if chunk is None:
            break
        pending.append((chunk, run(chunk.arguments)))
        if len(pending) > _AHEAD:
            keeper.keep(*pending.popleft())
    while pending:
        keeper.keep(*pending.popleft())
    keeper.wait()
    if torn is not None:
        raise torn


class _Keeper:
    """Stores the chunks of one process, one after the other."""

    def __init__(self, storage: Storage, identity: Mapping[str, Any], reductions: dict[str, Any], part: int):
        self.storage, self.reductions, self.outputs = storage, reductions, identity["outputs"]
        parts, size, total = identity["processes"], identity["batch_size"], identity["length"]
        count = -(-total // size)
        self.first, self.end = count * part // parts, count * (part + 1) // parts
        self.file = f"{STATES}{part:06}-of-{parts:06}.npz"
        self.arrays = {
            f"{kind}/{name}": storage.array(f"{kind}/{name or 'array'}", (total, *shape), np.dtype(dtype), size)
            for kind, found in self.outputs.items()
            if kind == "value" or identity["maps"]
            for name, (shape, dtype) in found.items()
        }
        self.next, self.written = self.first, None
        self.errors: dict[str, str] = {}
        stored = storage.read(self.file)
        if stored is not None:
            self._go_on(unpacked(stored))

    def _go_on(self, state: dict[str, np.ndarray]) -> None:
        self.next, self.errors = int(state["end"]), json.loads(str(state["errors"]))
        for name, reduction in self.reductions.items():
            leaves = [state[f"{name}/{leaf}"] for leaf, _ in named_leaves(reduction)]
            self.reductions[name] = jax.tree.unflatten(jax.tree.structure(reduction), leaves)

    def keep(self, chunk: Chunk, result: Any) -> None:
        """Store what was computed of a chunk, and then that it is finished."""
        count, valid = len(chunk.index), chunk.valid
        found = jax.tree.map(lambda a: np.asarray(a)[:count], jax.device_get(result))
        writes = []
        for kind, tree in zip(("value", "relevance"), found, strict=True):
            for name, leaf in named_leaves(tree):
                if (array := self.arrays.get(f"{kind}/{name}")) is not None:
                    stored = np.array(leaf, array.dtype.numpy_dtype)
                    stored[~valid] = np.nan if jnp.issubdtype(stored.dtype, jnp.inexact) else 0
                    writes.append(array[chunk.index[0] : chunk.index[0] + count].write(stored))
        if valid.any():
            batch = Batch(chunk.index[valid], *jax.tree.map(lambda a: a[valid], found))
            self.reductions.update({name: own.update(batch) for name, own in self.reductions.items()})
        self.errors |= {str(k): message for k, message in chunk.errors.items()}
        for write in writes:
            write.result()
        self.wait()
        self.next = chunk.number + 1
        self.written = self.storage.write(self.file, packed(self._state()))

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"first": self.first, "end": self.next, "errors": json.dumps(self.errors)}
        for name, reduction in self.reductions.items():
            state |= {f"{name}/{leaf}": value for leaf, value in named_leaves(reduction)}
        return state

    def wait(self) -> None:
        """Wait until what was finished last is stored."""
        if self.written is not None:
            self.written.result()


def _process(process: Any) -> tuple[int, int]:
    k, n = (jax.process_index(), jax.process_count()) if process is None else process
    if not (isinstance(k, int) and isinstance(n, int) and 0 <= k < n):
        raise ArgumentError(f"process={process!r}: expected (k, n), the k-th of n processes, counted from 0.")
    return k, n


def _check(
    explain: Any, source: Any, mesh: Any, size: int, reductions: Mapping[str, Any], on_error: Any, maps: Any
) -> None:
    if not callable(explain):
        raise ArgumentError(f"attribute({explain!r}): expected a function of batches, relevance(model) say.")
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")) or not len(source):
        raise ArgumentError(f"a source of type {type(source).__name__}: expected len(source) ≥ 1 and source[k].")
    if on_error not in ("raise", "record"):
        raise ArgumentError(f'on_error={on_error!r}: expected "raise" or "record".')
    if not (maps or reductions):
        raise ArgumentError("maps=False without reductions keeps nothing; pass reductions={...}.")
    for name, reduction in reductions.items():
        if not (callable(getattr(reduction, "update", None)) and callable(getattr(reduction, "merge", None))):
            raise ArgumentError(f"reductions[{name!r}] is {reduction!r}: expected update(batch) and merge(other).")
    if mesh is not None:
        if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
            raise ArgumentError("mesh has devices of other processes; expected this process's, jax.local_devices().")
        if size % mesh.devices.shape[0]:
            raise ArgumentError(
                f"batch_size={size} cannot be split over {mesh.devices.shape[0]} devices, the mesh's first axis."
            )


def _told(explain: Any) -> dict[str, Any]:
    """Return what a function that `relevance` made, or one around it, says of itself."""
    while explain is not None:
        said = getattr(explain, "__dict__", {})
        if isinstance(said.get("rules"), Composite) and "gives_value" in said:
            return {"rules": repr(said["rules"]), "gives_value": said["gives_value"]}
        explain = said.get("__wrapped__")
    return {"rules": None, "gives_value": None}


def _placed(arguments: Any, mesh: Any) -> Any:
    if mesh is None:
        return arguments
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names[0]))
    return jax.device_put(arguments, sharding)


def _pairing(explain: Callable) -> Callable:
    """Return a function of what `explain` returns that returns a pair of value, or None, and relevance.

    A tuple of two is one, but for `relevance` of two arguments; a named tuple, of scores say, is none.
    """
    gives_value = _told(explain)["gives_value"]

    def pair(result: Any) -> tuple[Any, Any]:
        is_pair = gives_value if gives_value is not None else type(result) is tuple and len(result) == 2
        return result if is_pair else (None, result)

    return pair


def _outputs(shapes: Callable, like: Any, size: int, dtype: Any) -> dict[str, dict[str, Any]]:
    """Return the shapes and dtypes of what is stored for each item, by kind and name."""
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape), a.dtype), like)
    value, relevance = shapes(*batch)
    found: dict[str, dict[str, Any]] = {"relevance": {}} if value is None else {"value": {}, "relevance": {}}
    for kind, tree in (("value", value), ("relevance", relevance)):
        for name, leaf in named_leaves(tree):
            if leaf.shape[:1] != (size,):
                raise ArgumentError(
                    f"for a batch of {size} items the function returned an array of shape {leaf.shape}; expected one "
                    "row for each item."
                )
            narrowed = dtype is not None and kind == "relevance" and jnp.issubdtype(leaf.dtype, jnp.floating)
            found[kind][name] = [list(leaf.shape[1:]), np.dtype(dtype if narrowed else leaf.dtype).name]
    return found


def _same_run(storage: Storage, identity: dict[str, Any]) -> None:
    """Store what the run is, or raise ArgumentError if another lies there."""
    content = storage.read(IDENTITY)
    if content is None:
        storage.write(IDENTITY, as_json(identity)).result()
        return
    stored = json.loads(content)
    other = {key: (stored.get(key), own) for key, own in identity.items() if stored.get(key) != own}
    if other:
        listed = "\n".join(f"  - {key}: {was!r} there, {own!r} here" for key, (was, own) in other.items())
        raise ArgumentError(f"{storage.path} has another run:\n{listed}\nTake another store, or remove that one.")
