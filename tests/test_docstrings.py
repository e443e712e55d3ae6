"""The examples in docstrings do what they say."""

import doctest
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import concepts, contrastive, metrics, plot, runs

SHOWN = [
    jrlrp.relevance,
    jrlrp.value_and_relevance,
    jrlrp.pullback,
    jrlrp.plan,
    jrlrp.audit,
    jrlrp.in_batches,
    jrlrp.stream,
    jrlrp.named,
    jrlrp.match,
    concepts.maps,
    contrastive.contrast,
    metrics.perturbation,
    plot.heatmaps,
    runs.attribute,
]


@pytest.mark.parametrize("function", SHOWN, ids=lambda f: f.__name__)
def test_an_example(function, tmp_path):
    given = {"jax": jax, "jnp": jnp, "np": np, "eqx": eqx, "jrlrp": jrlrp, "concepts": concepts, "plot": plot}
    given |= {"contrastive": contrastive, "metrics": metrics, "runs": runs, "store": os.fspath(tmp_path)}
    (test,) = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs=given)
    with jax.enable_x64(False):
        found = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert found.attempted and not found.failed
