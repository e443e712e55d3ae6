"""Read the tensors of a PyTorch checkpoint into NumPy without PyTorch, by an unpickler that can build nothing else."""

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

_STORAGES = {
    "BFloat16Storage": ml_dtypes.bfloat16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
}
_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class _Tensor:
    """A tensor whose storage comes later in the file."""

    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def build(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        storage = storages[self.key][self.offset :]
        strides = [s * storage.itemsize for s in self.strides]
        return np.lib.stride_tricks.as_strided(storage, self.shape, strides).copy()


def _rebuild_tensor(storage: tuple[str, type], offset: int, shape: Any, strides: Any, *unused: Any) -> _Tensor:
    return _Tensor(storage[0], offset, tuple(shape), tuple(strides))


class _TensorsOnly(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.dtypes: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor; the file is not read any further.")

    def persistent_load(self, pid: Any) -> tuple[str, type]:
        kind, dtype, key, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"expected a storage, found {kind!r}.")
        self.dtypes[key] = dtype
        return key, dtype


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict in PyTorch's older file format, by name.

    Raises:
      pickle.UnpicklingError: if the file is of another format, or holds anything but tensors.
    """
    with path.open("rb") as file:
        if _TensorsOnly(file).load() != _MAGIC:
            raise pickle.UnpicklingError(f"{path.name} is no PyTorch checkpoint of the older format.")
        for _ in ("protocol", "system"):
            _TensorsOnly(file).load()
        unpickler = _TensorsOnly(file)
        state = unpickler.load()
        storages = {}
        for key in _TensorsOnly(file).load():
            count = int(np.frombuffer(file.read(8), "<i8")[0])
            dtype = np.dtype(unpickler.dtypes[key])
            storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return {name: tensor.build(storages) for name, tensor in state.items()}


def read_archive(file: BinaryIO) -> dict[str, Any]:
    """Return what a checkpoint in PyTorch's newer file format, a zip archive, holds: tensors, numbers and text.

    Raises:
      pickle.UnpicklingError: if it holds anything else.
    """
    with zipfile.ZipFile(file) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(name) as pickled:
            unpickler = _TensorsOnly(pickled)
            state = unpickler.load()
        folder = name.removesuffix(".pkl")
        storages = {
            key: np.frombuffer(archive.read(f"{folder}/{key}"), np.dtype(dtype))
            for key, dtype in unpickler.dtypes.items()
        }

    def built(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: built(part) for key, part in value.items()}
        return value.build(storages) if isinstance(value, _Tensor) else value

    return built(state)
