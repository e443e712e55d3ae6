"""What has to hold of every program under every rule. Each property raises an AssertionError that says what does not.

Maps are compared in parts of their largest entry. How far rounding, or the stabilisers of rules, may move them is
measured: `sensitivity` is how far they move if the inputs do by a millionth.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from definitions import faults
from fuzz.programs import Program, respelt
from fuzz.table import N
from oracles import gradient_times_input
from stabilisers import refined

import jrlrp

BOUND = 30.0  # inputs lie within ± this
RULES: dict[str, Callable[[], Any]] = {
    "default": lambda: None,
    "relative": jrlrp.relative,
    "relative_plus": jrlrp.relative_plus,
    "relative, ratio": lambda: jrlrp.relative("ratio"),
    "relative, symmetric": lambda: jrlrp.relative("symmetric"),
    "epsilon": jrlrp.epsilon,
    "epsilon_plus": jrlrp.epsilon_plus,
    "epsilon_plus_flat": jrlrp.epsilon_plus_flat,
    "epsilon_gamma_box": lambda: jrlrp.epsilon_gamma_box(-BOUND, BOUND),
    "epsilon_alpha2_beta1": jrlrp.epsilon_alpha2_beta1,
    "epsilon_alpha2_beta1_flat": jrlrp.epsilon_alpha2_beta1_flat,
    "excitation_backprop": jrlrp.excitation_backprop,
    "deep_taylor": jrlrp.deep_taylor,
    "attn_lrp": jrlrp.attn_lrp,
    "cp_lrp": jrlrp.cp_lrp,
    "gradient_times_input": jrlrp.gradient_times_input,
    "Zero()": jrlrp.Zero,
    "Gamma()": jrlrp.Gamma,
    "WSquare()": jrlrp.WSquare,
    "Epsilon(0.1)": lambda: jrlrp.Epsilon(0.1),
}


# Rules of the first layer, and operations whose spellings differ in what that is (in a loop there is none) or reads.
OF_FIRST = (
    "epsilon_plus_flat",
    "epsilon_gamma_box",
    "epsilon_alpha2_beta1_flat",
    "deep_taylor",
)
OTHER_FIRST = ("repeat", "recurrence", "gated recurrence", "rms norm and dense", "scaled and scaled back")


class UnexplainedError(Exception):
    """A program that cannot be explained, which one property alone reports."""


@lru_cache(maxsize=64)
def explainer(
    program: Callable, rules: str, transform: Callable = jax.jit, fine: bool = False
) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
    """Return the function of x that gives value and map; compiled as a whole it is faster than step by step."""
    chosen = refined(RULES[rules]()) if fine else RULES[rules]()
    return transform(jrlrp.value_and_relevance(program, rules=chosen))


def explain(
    program: Callable, x: Any, rules: str, transform: Callable = jax.jit, fine: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    try:
        value, r = explainer(program, rules, transform, fine)(x)
    except Exception as error:
        raise UnexplainedError from error
    return np.asarray(value), np.asarray(r)


@lru_cache(maxsize=64)
def is_finite(program: Program) -> bool:
    """Tell whether every entry is a number after each step, those that the head leaves out too."""

    @jax.jit
    def finite(h):
        states = [h, *(h := step(h) for step in program.steps)]
        return jnp.stack([jnp.isfinite(h).all() for h in states]).all()

    return bool(finite(jnp.asarray(program.inputs())))


@lru_cache(maxsize=64)
def explained(program: Program, rules: str, fine: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return value and map of a program at its own inputs, in float64, by `fine` stabilisers or the field's."""
    return explain(program, jnp.asarray(program.inputs()), rules, fine=fine)


@lru_cache(maxsize=64)
def sensitivity(program: Program, rules: str, fine: bool = False) -> float:
    x = program.inputs()
    moved = x * (1 + 1e-6 * np.random.default_rng(1).choice([-1.0, 1.0], size=x.shape))
    return _largest(explain(program, jnp.asarray(moved), rules, fine=fine)[1] - explained(program, rules, fine)[1])


def _as_it_is(f: Callable) -> Callable:
    return f


def _vmapped(f: Callable) -> Callable:
    return jax.jit(jax.vmap(f))


def forget() -> None:
    """Forget what was compiled and computed of programs."""
    for function in (explainer, is_finite, explained, sensitivity):
        function.cache_clear()


def _largest(r: Any) -> float:
    return float(np.max(np.abs(r), initial=0))


def same(found: np.ndarray, wanted: np.ndarray, tolerance: float, what: str, rules: str) -> None:
    """Assert that two maps are the same but for `tolerance`; a derivative that is wanted may be NaN."""
    away, size = _largest(np.where(np.isnan(wanted), 0, found - wanted)), _largest(np.nan_to_num(wanted))
    if away <= np.nan_to_num(tolerance) + 1e-11:  # inputs and weights are of size 1: what is less is a map of 0
        return
    worst = tuple(map(int, np.unravel_index(np.argmax(np.abs(found - wanted)), found.shape)[:-1]))
    apart = f"{away / size if size else np.inf:.2g} of the largest entry apart ({tolerance=:.1g})"
    with np.printoptions(precision=4, suppress=True):
        raise AssertionError(f"{what} under {rules}: {apart}, at {worst} {found[worst]} for {wanted[worst]}")


def rounding(program: Program, rules: str) -> float:
    """Return how far rounding alone may move a program's map."""
    fine = 1e-9 * _largest(explained(program, rules)[1]) + 1e-3 * sensitivity(program, rules)
    return fine * 1e4 if program.rounded else fine


def value(program: Program, rules: str) -> None:
    found, _ = explained(program, rules)
    wanted = np.asarray(jax.jit(program)(jnp.asarray(program.inputs())))
    tolerance = 1e-4 if program.rounded else 1e-9
    np.testing.assert_allclose(found, wanted, tolerance, tolerance, err_msg="the value is not the function's")


def finite(program: Program, rules: str) -> None:
    if rules == "gradient_times_input":  # which is what JAX's derivative is: NaN for the root of a variance of 0
        return
    with jax.enable_x64(False):
        for dtype in (jnp.float32, jnp.bfloat16):
            x = jnp.asarray(program.inputs(), dtype)
            if np.isfinite(np.asarray(jax.jit(program)(x), np.float32)).all():
                _, r = explain(program, x, rules)
                wrong = np.sum(~np.isfinite(r.astype(np.float32)))
                assert not wrong, f"{wrong} entries of the {dtype.__name__} map under {rules} are not finite"


def gradient(program: Program, rules: str) -> None:
    _, found = explained(program, "gradient_times_input")
    wanted = np.asarray(jax.jit(partial(gradient_times_input, program.logits))(jnp.asarray(program.inputs())))
    same(found, wanted, rounding(program, "gradient_times_input"), "not x · gradient", "gradient_times_input")


def jitted(program: Program, rules: str) -> None:
    _, eager = explain(program, jnp.asarray(program.inputs()), rules, _as_it_is)
    same(explained(program, rules)[1], eager, rounding(program, rules), "jit is not eager", rules)


def alone(program: Program, rules: str) -> None:
    batch = explained(program, rules)[1]
    x = jnp.asarray(program.inputs())
    rows = np.concatenate([explain(program, x[k : k + 1], rules)[1] for k in range(N)])
    for k in range(N):
        same(batch[k], rows[k], rounding(program, rules), f"example {k} in the batch is not as alone", rules)


def vmapped(program: Program, rules: str) -> None:
    one = lambda x: program(x[None])[0]
    x = jnp.asarray(program.inputs())
    found = explain(one, x, rules, _vmapped)[1]
    loop = np.stack([explain(one, x[k], rules)[1] for k in range(N)])
    same(found, loop, rounding(program, rules), "vmap is not a loop", rules)
    mapped = explain(jax.vmap(one), x, rules)[1]
    same(mapped, loop, rounding(program, rules), "relevance of vmap is not vmap of relevance", rules)


def audited(program: Program, rules: str) -> None:
    explained(program, rules)
    audit = jax.jit(partial(jrlrp.audit, program, rules=RULES[rules]()))(jnp.asarray(program.inputs()))
    size = float(np.sum(audit.size_received) + np.abs(audit.output))
    gap = abs(float(audit.gap))
    limit = 1e-4 if program.rounded else 1e-9
    assert gap <= limit * size, f"the audit under {rules} has a gap of {gap:.3g} of an output of {audit.output:.3g}"


def spelt(program: Program, rules: str) -> None:
    if rules == "Epsilon(0.1)":  # measured against a unit's output, it depends on where a factor stands
        return
    if rules in OF_FIRST and any(step.name in OTHER_FIRST for step in program.walk()):
        return
    if rules in (*OF_FIRST, "WSquare()") and any(step.name == "max pool" for step in program.walk()):
        return  # they give relevance to zeros, and spellings of a maximum differ in which of equal values wins
    other = respelt(program)
    found, wanted = explained(program, rules, True)[1], explained(other, rules, True)[1]
    moved = min(sensitivity(program, rules, True), sensitivity(other, rules, True))
    size = min(_largest(found), _largest(wanted))
    tolerance = (1e-4 if program.rounded else 1e-6) * size + 50 * moved
    same(found, wanted, tolerance, "this is not the map of the same program in plain spellings", rules)


def ended(program: Program, rules: str) -> None:
    """An increasing ending is explained at the logits."""
    if program.ending == "none":
        return
    bare = replace(program, ending="none")
    wanted = explained(bare, rules)[1]
    tolerance = rounding(bare, rules) * (1e4 if program.rounded else 1)
    same(explained(program, rules)[1], wanted, tolerance, f"{program.ending!r} is not at its logits", rules)


def unsurprising(program: Program, rules: str) -> None:
    x = jnp.asarray(program.inputs())
    try:
        plan = jrlrp.plan(program, x, rules=RULES[rules]())
        jrlrp.value_and_relevance(program, rules=RULES[rules]())(x)
    except jrlrp.UnreachedError:  # all of it passes a softmax that gives nothing
        return
    except jrlrp.JrlrpError as error:
        raise AssertionError(f"{type(error).__name__} under {rules}: {error}") from error
    except Exception as error:
        raise AssertionError(f"a foreign {type(error).__name__} under {rules}: {error}") from error
    assert not plan.unsupported, f"unsupported: {plan.unsupported}"


def recognised(program: Program, rules: str) -> None:
    """Each recognised region, at these inputs, is its node's definition; see `definitions`."""
    wrong = faults(program, jnp.asarray(program.inputs()))
    assert not wrong, "nodes that are not what they are said to be: " + "; ".join(wrong)


PROPERTIES: dict[str, Callable[[Program, str], None]] = {
    "value": value,
    "finite": finite,
    "gradient × input": gradient,
    "jit = eager": jitted,
    "batch = alone": alone,
    "vmap = loop": vmapped,
    "audit closes": audited,
    "equal spellings": spelt,
    "at the logits": ended,
    "no surprise": unsurprising,
    "recognised": recognised,
}


def check(name: str, program: Program, rules: str) -> bool:
    """Assert a property; return whether the program could be explained, without which the others say nothing.

    Nor is there anything to say of a program whose values leave float64.
    """
    if not is_finite(program):
        return False
    try:
        PROPERTIES[name](program, rules)
    except UnexplainedError:
        return False
    return True
