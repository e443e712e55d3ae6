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


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield
