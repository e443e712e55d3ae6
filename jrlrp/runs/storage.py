"""Where a run lies: zarr arrays and small files under one path, local or in a bucket, by TensorStore."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jrlrp.errors import ArgumentError

try:
    import tensorstore as ts
except ImportError:
    raise ImportError("jrlrp.runs needs TensorStore and Grain: pip install 'jrlrp[scale]'") from None


@dataclass(frozen=True, eq=False)
class Storage:
    """A path and what lies under it; each file is written at once or not at all."""

    path: str

    @property
    def spec(self) -> Any:
        if "://" in self.path:
            return self.path.rstrip("/") + "/"
        return {"driver": "file", "path": self.path.rstrip("/") + "/"}

    @cached_property
    def files(self) -> Any:
        return ts.KvStore.open(self.spec).result()

    def read(self, name: str) -> bytes | None:
        found = self.files.read(name).result()
        return None if found.state == "missing" else found.value

    def write(self, name: str, content: bytes) -> Any:
        """Begin to write a file; return what `result()` waits for."""
        return self.files.write(name, content)

    def names(self, prefix: str) -> list[str]:
        keys = self.files.list(ts.KvStore.KeyRange(prefix, prefix + "\uffff")).result()
        return sorted(key.decode() for key in keys)

    def array(self, name: str, shape: Sequence[int] = (), dtype: Any = None, rows: int = 0) -> Any:
        """Open a zarr array; create it if it has a shape, in chunks of so many rows."""
        kvstore = (ts.KvStore.open(self.spec).result() / f"{name}/").spec()
        spec = {"driver": "zarr3", "kvstore": kvstore.to_json(), "recheck_cached_data": False}
        if dtype is None:
            return ts.open(spec, open=True).result()
        empty = np.zeros((), dtype) if not jax.numpy.issubdtype(dtype, jax.numpy.inexact) else np.array(np.nan, dtype)
        return ts.open(
            spec,
            open=True,
            create=True,
            shape=tuple(shape),
            dtype=ts.dtype(np.dtype(dtype).name),
            chunk_layout=ts.ChunkLayout(chunk_shape=(rows, *shape[1:])),
            fill_value=empty,
        ).result()


def packed(arrays: Mapping[str, Any]) -> bytes:
    """Return arrays as the bytes of an npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(value) for name, value in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def unpacked(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content)) as found:
        return dict(found)


def named_leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a pytree by names that can be parts of a path."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf


def as_json(content: Any) -> bytes:
    try:
        return json.dumps(content, indent=1, sort_keys=True).encode()
    except (TypeError, ValueError):
        raise ArgumentError(f"description={content!r}: expected a dict that JSON can hold.") from None
