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

# What depends on rounding, or is other people's, is compiled as users have it. All else compares numbers that are the
# same without LLVM's optimisations, which take a third of the time.
OPTIMISED = {
    *("test_finite.py", "test_spelling.py", "test_parity.py", "test_quantus.py", "test_libraries.py", "test_zoo.py"),
    *("test_examples.py", "test_text_examples.py", "test_masking_example.py", "test_notebooks.py", "test_readme.py"),
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def _optimisations(request):
    jax.config.update("jax_disable_most_optimizations", request.path.name not in OPTIMISED)
