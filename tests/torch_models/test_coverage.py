"""Torch modules that others wrote are explained whole, through torchax: nothing unsupported, all relevance accounted
for, and gradient × input is what torch says it is.

`make test-torch` runs all of them and writes coverage.md; `pytest tests/torch_models -k NAME` runs one.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from compiling import xla_flags

os.environ["XLA_FLAGS"] = xla_flags()

import hugging_face
import jax
import numpy as np
import pytest
import torch
import vision
from modules import Model, gradient_times_input, in_jax

import jrlrp

ROOMS = {"torchvision": vision, "transformers": hugging_face}
TABLE = Path(__file__).with_name("coverage.md")
HEAD = """# Torch modules

`make test-torch` writes this table: modules of torchvision 0.26.0 and transformers 5.24, their numbers random and in
float64, through torchax 0.0.13, explained by `default()` for their highest score. transformers' are small, of two
layers at least; torchvision's have their own widths, and of blocks that repeat two. What then differs in widths alone
is one row, its numbers those of the narrowest. Nothing is unsupported in any of them. Gap is what neither reached the
inputs nor is known to have been absorbed, in parts of the largest Σ|R| of a node; gradient is how far
`gradient_times_input()` is from torch's own, in parts of the largest Σ|x ∂score/∂x| of an entry; the seconds are mostly
compilation, of two models at a time.
"""
CLOSED, EXACT = 1e-5, 1e-5
HUNG = 1800  # seconds without a row: a process has died, of memory say


@dataclass(frozen=True)
class Row:
    """What the table says of one model: `gap` and `gradient` in parts of the largest relevance, see `HEAD`."""

    nodes: str
    gap: float
    gradient: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.nodes} | {self.gap:.0e} | {self.gradient:.0e} | {self.seconds:.0f}"


def planned(model: Model) -> jrlrp.Plan:
    """Return a plan in which nothing is unsupported, and relevance reaches all inputs."""
    scores, params, inputs = in_jax(model)
    plan = jrlrp.plan(scores, params, *inputs, argnums=tuple(range(1, 1 + len(inputs))))
    assert plan.unsupported == [] and plan.coverage == 1.0 and not plan.unreached, str(plan)
    return plan


def examine(room: str, names: Sequence[str]) -> Row:
    """Check models that differ in widths alone, the first of them by numbers, and return what was found."""
    started, first = time.perf_counter(), names[0]
    for name in names[1:]:
        planned(ROOMS[room].make(name))
    model = ROOMS[room].make(first)
    plan, (scores, params, inputs) = planned(model), in_jax(model)
    every = tuple(range(1, 1 + len(inputs)))

    def explained(params, *inputs):
        audit = jrlrp.audit(scores, params, *inputs, argnums=every)
        times = jrlrp.relevance(scores, every, rules=jrlrp.gradient_times_input())(params, *inputs)
        return *jrlrp.value_and_relevance(scores, every)(params, *inputs), audit, times

    value, maps, audit, times = jax.jit(explained)(params, *inputs)
    expected = gradient_times_input(model)
    assert np.isfinite(value).all(), "the score is not a number, so there is nothing to explain"
    np.testing.assert_allclose(value, expected.scores, rtol=0, atol=1e-5 * np.abs(expected.scores).max())
    for r, x in zip(maps, inputs, strict=True):
        assert r.shape == x.shape and np.isfinite(r).all() and np.abs(r).max() > 0
    assert not np.sum(audit.saturated) and audit.unknown == 0
    gap = float(np.abs(audit.gap) / np.max(audit.size_received))
    pairs = zip(times, expected.maps, expected.sizes, strict=True)
    gradient = max(float(np.abs(r - right).max() / size.max()) for r, right, size in pairs)
    assert gap < CLOSED, str(audit)
    assert gradient < EXACT, f"gradient × input is {gradient:.1e} from torch's"
    return Row(f"{len(plan.nodes)}", gap, gradient, time.perf_counter() - started)


@cache
def rows() -> list[tuple[str, tuple[str, ...]]]:
    """Return room and names of each row."""
    return [(room, names) for room, made in ROOMS.items() for names in made.alike_names()]


def pytest_generate_tests(metafunc):
    if "room" in metafunc.fixturenames:
        metafunc.parametrize(("room", "names"), rows(), ids=lambda part: part if isinstance(part, str) else part[0])


def test_a_module_is_explained(room, names):
    with jax.enable_x64(True):
        print(examine(room, names))


@pytest.mark.parametrize("name", hugging_face.CANNOT)
def test_what_torchax_cannot_run_is_still_that(name):
    model = hugging_face.make(name)
    with pytest.raises(Exception):  # noqa: B017 - of any kind, and torchax's own: jrlrp has no part in it
        for _ in range(2):  # a second trace meets what the first has left in the module
            scores, params, inputs = in_jax(model)
            jax.eval_shape(scores, params, *inputs)


@pytest.mark.parametrize("name", hugging_face.UNSUPPORTED)
def test_what_has_no_rule_is_an_error(name):
    scores, params, inputs = in_jax(hugging_face.make(name))
    with pytest.raises(jrlrp.UnsupportedError):
        jrlrp.relevance(scores, argnums=1)(params, *inputs)


def test_the_map_of_a_score_that_is_nan_is_nan():
    """Of what is all masked, padding on the left say, torchax's sdpa makes NaN, and torch's zeros."""
    module = hugging_face.built("llama", {**hugging_face.SMALL, **hugging_face.GROUPED})
    ids, mask = hugging_face.IDS[:16].reshape(2, 8), torch.ones(2, 8, dtype=torch.int64)
    mask[1, :3] = 0
    model = Model(module, {"input_ids": ids}, lambda out: out.logits[:, -1], {"attention_mask": mask})
    scores, params, inputs = in_jax(model)
    value, r = jax.jit(jrlrp.value_and_relevance(scores, argnums=1))(params, *inputs)
    np.testing.assert_array_equal(np.isnan(value).all(-1), [False, True])
    np.testing.assert_array_equal(np.isnan(r), [[False] * 8, [True] * 8])
    assert jrlrp.audit(scores, params, *inputs, argnums=1).unknown == 1


def _alone(row: tuple[str, tuple[str, ...]]) -> tuple[tuple[str, tuple[str, ...]], Row | str]:
    torch.set_num_threads(1)
    # LLVM's optimisations take half of the time, but of convolutions in float64, which are slow without.
    jax.config.update("jax_disable_most_optimizations", row[0] != "torchvision")
    try:
        with jax.enable_x64(True):
            return row, examine(*row)
    except Exception as error:  # the others are wanted too
        return row, f"{type(error).__name__}: {error}"


def main(chosen: list[str], processes: int) -> int:
    """Print a row for each model, and keep the table if it is of all; return how many of them failed."""
    wanted = [row for row in rows() if not chosen or set(row[1]).intersection(chosen)]
    found: dict[tuple[str, tuple[str, ...]], Row | str] = {}
    with get_context("spawn").Pool(processes, maxtasksperchild=8) as pool:  # what was compiled takes memory
        rest = pool.imap_unordered(_alone, wanted)
        for _ in wanted:
            key, found[key] = rest.next(timeout=HUNG)
            print(f"{len(found)}/{len(wanted)} {key[0]} | {key[1][0]} | {str(found[key])[:2000]}", flush=True)
    failed = [names[0] for (_, names), row in found.items() if isinstance(row, str)]
    print(f"{len(wanted) - len(failed)} passed, {len(failed)} failed: {', '.join(failed) or 'none'}")
    if not chosen and not failed:
        TABLE.write_text(table(found), encoding="utf-8")
    return len(failed)


def table(found: dict[tuple[str, tuple[str, ...]], Row]) -> str:
    """Return the text of the table."""
    lines = [HEAD]
    for room in ROOMS:
        own = [(", ".join(names), found[room, names]) for of, names in rows() if of == room]
        count = sum(len(names) for of, names in rows() if of == room)
        worst = f"worst gap {max(r.gap for _, r in own):.0e}, worst gradient {max(r.gradient for _, r in own):.0e}"
        lines += [f"## {room}: {count} models, {worst}", "", "| model | nodes | gap | gradient | seconds |"]
        lines += ["|---|---|---|---|---|", *(f"| {title} | {row} |" for title, row in own), ""]
    lines += ["## What is left out", "", *(f"- {name}: {why}." for name, why in LEFT_OUT.items()), ""]
    return "\n".join(lines)


LEFT_OUT = {
    **vision.LEFT_OUT,
    **{name: f"torchax does not run it: it {why}" for name, why in hugging_face.CANNOT.items()},
    **{name: f"unsupported, and said to be: {why}" for name, why in hugging_face.UNSUPPORTED.items()},
    "fsmt, xglm": "transformers' masks are beyond float64",
    "levit": "the module keeps a traced bias for the next trace, where JAX has it no more",
    "yoso": "its own backward pass in torch is no derivative, so that gradients differ; plan and audit are as others'",
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="models; default: all")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    sys.exit(main(options.names, options.processes))
