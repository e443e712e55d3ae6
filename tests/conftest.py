"""Every test runs in float64 unless it says otherwise: oracles are compared entry by entry."""

import os
import tempfile

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # what one process has compiled, no other one compiles
    compiled = tempfile.TemporaryDirectory(prefix="jrlrp-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import pytest

# Files of comparisons in float64, of whose time LLVM's optimisations take a third. Their tests of narrower numbers are
# marked `optimised`; those, and all other files, are compiled as users have it.
UNOPTIMISED = {
    *("test_api.py", "test_compose.py", "test_control.py", "test_probes.py", "test_affine_rules.py"),
    *("test_attention.py", "test_mixture.py", "test_libraries.py", "test_recurrent.py", "test_structure.py", "test_survivors.py"),
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def _optimisations(request):
    quick = request.path.name in UNOPTIMISED and request.node.get_closest_marker("optimised") is None
    jax.config.update("jax_disable_most_optimizations", quick)
