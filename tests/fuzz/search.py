"""Programs by the number, and the smallest program that still fails."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import hypothesis
import jax
from fuzz.programs import Program, Step, draw_program, plain
from fuzz.properties import check, forget
from hypothesis import strategies as st


def each(count: int, seed: int, rules: list[str], use: Callable[[Program, str], Any]) -> None:
    """Call `use` with `count` random programs, each with one of the rules; a seed gives the same ones every time."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.randoms(use_true_random=True))
    def search(random):
        use(draw_program(random), random.choice(rules))

    search()


def failure(name: str, program: Program, rules: str) -> tuple[bool | None, str]:
    """Return whether a property fails, None where the program cannot be explained, and the reason.

    Programs are compiled without optimisations first, which is faster; but so compiled, XLA's own derivative of a few
    programs is wrong on CPUs (jaxlib 0.10.2). A failure is one if it is so with them, too.
    """
    failed, message = _checked(name, program, rules)
    if failed and jax.config.read("jax_disable_most_optimizations"):
        forget()
        jax.config.update("jax_disable_most_optimizations", False)
        try:
            failed, message = _checked(name, program, rules)
        finally:
            jax.config.update("jax_disable_most_optimizations", True)
            forget()
    return failed, message


def _checked(name: str, program: Program, rules: str) -> tuple[bool | None, str]:
    try:
        return (False if check(name, program, rules) else None), ""
    except AssertionError as error:
        return True, str(error)
    except Exception as error:
        return True, f"the check itself raises {type(error).__name__}: {error}"


def reduced(name: str, program: Program, rules: str, message: str, seconds: float = 60) -> tuple[Program, str]:
    """Return the smallest program found that still fails, by leaving out or simplifying one thing after another.

    Args:
      seconds: when to be content with what there is.
    """
    until = time.monotonic() + seconds
    while True:
        for smaller in _smaller(program):
            if time.monotonic() > until:
                return program, message
            failed, reason = failure(name, smaller, rules)
            if failed:
                program, message = smaller, reason
                break
        else:
            return program, message


def _smaller(program: Program) -> Iterator[Program]:
    if program.ending != "none":
        yield replace(program, ending="none")
    for steps in _smaller_steps(program.steps):
        yield replace(program, steps=steps)
    for head in ("last", "flat"):
        if program.head not in ("last", head):
            yield replace(program, head=head)
    if program.seed:
        yield replace(program, seed=0)


def _smaller_steps(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """Yield sequences with a step less, a step replaced by one inside it, or a step simplified."""
    for k, step in enumerate(steps):
        before, after = steps[:k], steps[k + 1 :]
        yield before + after
        yield from ((*before, inside, *after) for inside in step.inner)
        if step != plain(step) and step.inner == plain(step).inner:
            yield (*before, plain(step), *after)
        for j, inside in enumerate(step.inner):
            for other in (Step("tanh", "jnp"), plain(inside), replace(inside, seed=0), *inside.inner):
                if inside not in (other, Step("tanh", "jnp")):
                    yield (*before, replace(step, inner=(*step.inner[:j], other, *step.inner[j + 1 :])), *after)
        if step.seed:
            yield (*before, replace(step, seed=0), *after)
