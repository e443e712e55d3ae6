"""Small programs by the hundred: most of their time is LLVM's, so they are compiled without its optimisations."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _quick(_optimisations):
    jax.config.update("jax_disable_most_optimizations", True)
