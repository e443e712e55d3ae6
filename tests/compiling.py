"""Flags of XLA with which the tests' many small programs compile in half the time."""

import mmap
import os
from importlib.util import find_spec
from pathlib import Path

# What is compiled here runs once or twice: kernels by the plain emitter of LLVM code, each program in one module.
QUICK = {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}


def xla_flags(**flags: str) -> str:
    """Return XLA_FLAGS with `flags`, and those of `QUICK` that this jaxlib knows: XLA ends the process at others."""
    quick = {name: value for name, value in QUICK.items() if _is_known(name)}
    given = os.environ.get("XLA_FLAGS", "")
    added = [f"--{name}={value}" for name, value in {**quick, **flags}.items() if name not in given]
    return " ".join([given, *added]).strip()


def _is_known(flag: str) -> bool:
    library = Path(find_spec("jaxlib").origin).parent / "libjax_common.so"
    if not library.exists():
        return False
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(flag.encode() + b"\0") >= 0
