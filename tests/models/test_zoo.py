"""Models that others wrote are explained whole: nothing unsupported, maps finite, all relevance accounted for.

`make test-models` runs all of them and prints the table; `make test` runs a few.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from compiling import xla_flags

os.environ["XLA_FLAGS"] = xla_flags()

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import LARGE_APPLICATIONS, TRANSFORMERS, VOCABULARY, WITH_ATTENTION, ZOO, Model, application

import jrlrp

TABLE = Path(__file__).with_name("coverage.md")
HEAD = """# Models that others wrote

`make test-models` writes this table: small random configurations of transformers 4.49.0 (Flax), Keras, Haiku,
Equinox and Flax, explained by `default()` and by `attn_lrp()` (those with attention) or `relative()` and
`epsilon_plus()`, with respect to all inputs. Coverage is the part of the active equations that have a rule; gap is what
neither reached the inputs nor is known to have been absorbed, in parts of the largest Σ|R| of a node, the worst of all;
the seconds are those of the maps with their audits and two gradients, most of them compilation, on two cores.
"""
FAST = ("GPT-2", "Linen decoder, scanned and rematerialised")


@dataclass(frozen=True)
class Row:
    """What the table says of one model: `gap` in parts of the largest Σ|R| of a node."""

    name: str
    equations: int
    coverage: float
    gap: float
    seconds: float


def examine(name: str) -> Row:
    """Check one model, and return what was found."""
    started, model = time.perf_counter(), ZOO[name]()
    every = tuple(range(len(model.args)))
    plan = jrlrp.plan(model.fun, *model.args, argnums=every)
    assert plan.unsupported == [] and plan.coverage == 1.0, str(plan)
    others = (jrlrp.attn_lrp(),) if name in WITH_ATTENTION else (jrlrp.relative(), jrlrp.epsilon_plus())
    gap = max(conservation_gap(model, every, rules) for rules in (jrlrp.default(), *others))
    check_gradient(model, every)
    count = sum(len(node.equations) for node in plan.nodes)
    return Row(name, count, plan.coverage, gap, time.perf_counter() - started)


def conservation_gap(model: Model, every: tuple[int, ...], rules: jrlrp.Composite) -> float:
    def both(*args):
        explain = jrlrp.relevance(model.fun, argnums=every, rules=rules)
        return explain(*args), jrlrp.audit(model.fun, *args, argnums=every, rules=rules)

    maps, audit = jax.jit(both)(*model.args)
    for r, x in zip(maps, model.args, strict=True):
        assert r.shape == x.shape and np.isfinite(r).all() and np.abs(r).max() > 0
    assert not np.sum(audit.saturated)
    gap = float(np.abs(audit.gap) / np.max(audit.size_received))
    assert gap < 1e-4, str(audit)
    return gap


def check_gradient(model: Model, every: tuple[int, ...]) -> None:
    """Gradient × input is that, for numbers; for ids, what the rows of the table times their gradients are."""
    maps = jax.jit(jrlrp.relevance(model.fun, argnums=every, rules=jrlrp.gradient_times_input()))(*model.args)
    score = lambda *args: jnp.max(model.fun(*args), axis=-1).sum()
    floats = tuple(k for k in every if np.issubdtype(model.args[k].dtype, np.floating))
    if floats:
        gradients = jax.jit(jax.grad(score, argnums=floats))(*model.args)
        for k, gradient in zip(floats, gradients, strict=True):
            compare(maps[k], model.args[k] * gradient)
    if model.table is not None:
        fun, table = model.table()
        rows = (table * jax.grad(lambda table: jnp.max(fun(table), axis=-1).sum())(table)).sum(-1)
        (ids,) = model.args
        compare(np.bincount(ids.ravel(), np.ravel(maps[0]), VOCABULARY), rows)


def compare(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ZOO])
def test_a_model_is_explained(name):
    if name in TRANSFORMERS:
        pytest.importorskip("transformers")
    with jax.enable_x64(False):
        row = examine(name)
    print(row)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_APPLICATIONS)
def test_a_large_application_has_a_plan(name):
    model = application(name)
    plan = jrlrp.plan(model.fun, *model.args)
    assert plan.unsupported == [] and plan.coverage == 1.0, str(plan)


def main(names: list[str]) -> int:
    """Print a row for each model, and keep the table if it is of all; return how many of them failed."""
    failures, lines = {}, ["| model | active equations | coverage | gap | seconds |", "|---|---|---|---|---|"]
    print("\n".join(lines))
    for name in names or ZOO:
        try:
            row = examine(name)
            lines.append(f"| {name} | {row.equations} | {row.coverage:.0%} | {row.gap:.0e} | {row.seconds:.0f} |")
            print(lines[-1], flush=True)
        except Exception as error:  # the others are wanted too
            failures[name] = f"{type(error).__name__}: {error}"
        jax.clear_caches()
    for name, text in failures.items():
        print(f"{name} failed: {text[:2000]}")
    if not names and not failures:
        TABLE.write_text("\n".join([HEAD, *lines, ""]), encoding="utf-8")
    return len(failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
