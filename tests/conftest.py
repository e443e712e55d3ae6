"""Every test runs in float64 unless it says otherwise: oracles are compared entry by entry."""

import os
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from compiling import xla_flags

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # what one process has compiled, no other one compiles
    compiled = tempfile.TemporaryDirectory(prefix="jrlrp-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ["XLA_FLAGS"] = xla_flags(xla_force_host_platform_device_count="8")

import jax
import pytest

# Files of comparisons in float64, of whose time LLVM's optimisations take half. Their tests of narrower numbers, which
# have a `dtype` or are marked `optimised`, and all other files are compiled with them, as users have it.
UNOPTIMISED = {
    *("cases/*", "recognition/*", "rewrites/test_products.py", "rewrites/test_spellings.py", "models/test_[lmr]*.py"),
    *("rules/test_a*.py", "rules/test_ratio.py", "rules/test_structure.py", "composites/*"),
    *("test_api.py", "test_compose.py", "test_control.py", "test_probes.py", "test_survivors.py"),
}
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def _optimisations(request):
    name = request.path.relative_to(HERE).as_posix()
    narrow = "dtype" in request.fixturenames or request.node.get_closest_marker("optimised") is not None
    quick = not narrow and any(fnmatch(name, pattern) for pattern in UNOPTIMISED)
    jax.config.update("jax_disable_most_optimizations", quick)
