"""Inlining: calls vanish, scopes stay apart, paths and lines are kept."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jrlrp
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.inline import trace
from jrlrp.trace.program import Literal


def evaluate(program, args):
    values = {**program.constants, **dict(zip(program.inputs, args, strict=True))}
    read = lambda v: v.value if isinstance(v, Literal) else values[v]
    for eqn in program.equations:
        values.update(zip(eqn.outputs, eqn.run([read(v) for v in eqn.inputs]), strict=True))
    return [read(v) for v in program.outputs]


@jax.custom_vjp
def custom(x):
    return jnp.sin(x)


custom.defvjp(lambda x: (custom(x), x), lambda x, g: (g,))

A = np.random.default_rng(0).normal(size=(3, 3))
CALLS = {
    "jit": jax.jit(lambda x: jnp.tanh(x) @ A),
    "nested jit": jax.jit(lambda x: jax.jit(jnp.tanh)(jax.jit(jnp.tanh)(x))),
    "checkpoint": jax.checkpoint(lambda x: jnp.tanh(x) * 2),
    "custom_jvp": jax.nn.relu,
    "custom_vjp": custom,
    "closed_call": lambda x: jax.closure_convert(jnp.tanh, x)[0](x),
    "named_call": jax.named_call(jnp.tanh, name="Tanh"),
    "identities": lambda x: jax.lax.optimization_barrier(checkpoint_name(jnp.copy(x), "x")),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_inlined(name):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3)))
    program = trace(lambda x: [CALLS[name](x)], [x])
    assert not {eqn.primitive for eqn in program.equations} & {
        "jit",
        "pjit",
        "remat2",
        "custom_jvp_call",
        "closed_call",
    }
    np.testing.assert_allclose(evaluate(program, [x])[0], CALLS[name](x))


def test_the_same_jaxpr_called_twice_has_two_scopes():
    f = jax.jit(lambda x: x + 1)
    program = trace(lambda x: [f(f(x))], [2.0])
    assert evaluate(program, [2.0]) == [4.0]
    assert len({v for eqn in program.equations for v in eqn.outputs}) == 2


def test_control_flow_runs_as_it_is():
    f = lambda x: [
        jax.lax.scan(lambda c, y: (c + y, c * y), x[0], x)[0],
        jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x),
    ]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3)))
    for actual, expected in zip(evaluate(trace(f, [x]), [x]), f(x), strict=True):
        np.testing.assert_allclose(actual, expected)


def test_control_flow_keeps_its_bodies():
    def f(x):
        y = jax.checkpoint(lambda x: jnp.tanh(x) @ A)(x)
        y = jax.lax.cond(y[0, 0] > 0, jnp.sin, jnp.cos, y)
        y, _ = jax.lax.scan(lambda h, row: (h * row, h), y, y)
        return [jax.lax.while_loop(lambda c: c.sum() > 0, lambda c: c - 1, y)]

    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))
    program = trace(f, [x])
    control = [eqn for eqn in program.equations if isinstance(eqn, ControlFlow)]
    assert [eqn.primitive for eqn in control] == ["remat", "cond", "scan", "while"]
    assert [len(eqn.bodies) for eqn in control] == [1, 2, 1, 2]
    np.testing.assert_allclose(evaluate(program, [x]), f(x))


def test_paths_join_and_lose_the_names_of_transforms():
    def f(x):
        with jax.named_scope("Net"):
            inner = jax.checkpoint(jax.named_scope("Block_0")(lambda x: jnp.sin(jnp.cos(x))))
            return [jax.vmap(inner)(x)]

    program = trace(f, [jnp.ones((2, 3))])
    assert [eqn.path for eqn in program.equations] == ["Net/Block_0", "Net/Block_0"]


def test_lines_inside_library_calls_are_those_of_the_caller():
    program = trace(lambda x: [jax.nn.softplus(x)], [1.0])
    assert program.equations
    assert all("test_inline.py" in eqn.source for eqn in program.equations)


@pytest.mark.parametrize("file", ["/tmp/ipykernel_7/12345.py", "<ipython-input-3-12345>"])
def test_lines_of_a_notebook_are_those_of_its_cells(file, monkeypatch):
    shell = SimpleNamespace(format_code_name=lambda name: ("Cell", "In[3]") if name == file else None)
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(compile=shell))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    scope = {"jnp": jnp}
    exec(compile("def f(x):\n    return [jnp.sin(x)]", file, "exec"), scope)
    (eqn,) = trace(scope["f"], [1.0]).equations
    assert eqn.source == "In[3]:2 (f)"
    monkeypatch.setattr(ipython, "get_ipython", lambda: None)
    test_lines_inside_library_calls_are_those_of_the_caller()


def test_constants_are_variables_each_once():
    c = jnp.asarray(A)
    program = trace(lambda x: [x @ c, x @ c], [jnp.ones((2, 3))])
    assert len(program.constants) == 1


def test_a_constant_has_the_precision_of_its_trace():
    w = np.linspace(-1, 1, 36).reshape(6, 6)
    f = lambda x: (x[..., None] * w).sum(-2)
    jax.make_jaxpr(jax.jit(lambda x: x @ w))(np.ones((2, 6)))  # JAX remembers w in double precision
    with jax.enable_x64(False):
        x = jnp.ones((2, 6), jnp.float32)
        assert {v.dtype for v in trace(lambda x: [f(x)], [x]).constants} == {np.dtype(np.float32)}
        np.testing.assert_allclose(jrlrp.relevance(f, rules=jrlrp.epsilon(), target=0)(x), x * w[:, 0], rtol=1e-4)


# Of the newest JAX alone.
POLYNOMIAL = getattr(jax.lax, "polynomial", lambda x, parts: (parts[2] * x + parts[1]) * x + parts[0])
ONE_LESS_SQUARE = getattr(jax.lax, "one_minus_square", lambda x: 1 - jax.lax.square(x))

X = np.linspace(0.3, 2.0, 6)
FORMULAS = {
    "log2": (jnp.log2, lambda x: jnp.log(x) / np.log(2)),
    "1 - x²": (ONE_LESS_SQUARE, lambda x: 1 - jax.lax.square(x)),
    "polynomial": (lambda x: POLYNOMIAL(x, [0.1, jnp.cos(x), 3.0]), lambda x: (3 * x + jnp.cos(x)) * x + 0.1),
    "frexp": (lambda x: jnp.ldexp(jnp.frexp(x)[0], 1) + x, lambda x: 2 * jnp.frexp(x)[0] + x),
}


@pytest.mark.parametrize("rules", [jrlrp.default(), jrlrp.relative(), jrlrp.gradient_times_input()])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_that_some_jax_has_a_primitive_for_is_read_as_it_is_spelled(name, rules):
    one, spelled = FORMULAS[name]
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    found, expected = (jrlrp.relevance(lambda x: f(x) @ weights, rules=rules, target="all")(X) for f in (one, spelled))  # noqa: B023
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    assert np.abs(expected).max() > 0
