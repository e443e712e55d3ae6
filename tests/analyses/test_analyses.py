"""Where axes go, the ranges of values, and which layer is first and last."""

import cProfile
import pstats

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp.analyses.activity import needed_for
from jrlrp.analyses.batch import batch_of
from jrlrp.analyses.facts import Facts
from jrlrp.primitives.axes import image
from jrlrp.primitives.row import Axis
from jrlrp.recognition.build import build
from jrlrp.trace.inline import trace


def example_axis(f, *shape):
    program = trace(lambda x: [f(x)], [jnp.ones(shape)])
    needed = needed_for(program, program.outputs)
    return batch_of(program, program.inputs, needed, Facts(program)).axes.get(program.outputs[0])


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda x: x.reshape(4, 15), Axis(0, 4)),
        (lambda x: x.reshape(12, 5), Axis(0, 4, 1, 3)),
        (lambda x: x.transpose(1, 0, 2).reshape(12, 5), Axis(0, 4, 3, 1)),
        (lambda x: x.transpose(1, 2, 0).reshape(3, 20), Axis(1, 4, 5, 1)),
        (lambda x: x.reshape(12, 5).reshape(4, 3, 5).transpose(2, 1, 0), Axis(2, 4)),
        (lambda x: x.sum((1, 2)), Axis(0, 4)),
        (lambda x: x.sum(1)[:, None, :] + x, Axis(0, 4)),
        (lambda x: jnp.einsum("bij,jk->kbi", x, np.ones((5, 2))), Axis(1, 4)),
        (lambda x: jnp.concatenate([x, x], 1), Axis(0, 4)),
        (lambda x: x[:, 1:], Axis(0, 4)),
        (lambda x: jnp.broadcast_to(x[None], (7, 4, 3, 5)), Axis(1, 4)),
        (lambda x: x + x.mean(0), None),
        (lambda x: x[::-1], Axis(0, 4)),
        (lambda x: x[1:], Axis(0, 3)),
        (lambda x: x + x[::-1], None),
        (lambda x: x[::-1] + x[::-1], Axis(0, 4)),
        (lambda x: jnp.concatenate([x, x], 0), Axis(0, 8)),
        (lambda x: jnp.concatenate([x, jnp.zeros((2, 3, 5))], 0)[:4] + x, Axis(0, 4)),
        (lambda x: x[jnp.array([2, 0, 1])], Axis(0, 3)),
        (lambda x: jnp.tile(x, (2, 1, 1)), Axis(0, 4, 2, 1)),
        (lambda x: x.reshape(2, 30), None),
        (lambda x: jnp.cumsum(x, 0), None),
        (lambda x: x @ x.transpose(0, 2, 1), Axis(0, 4)),
        (lambda x: x * jax.lax.stop_gradient(x.max(0)), None),
    ],
)
def test_the_axis_of_the_examples(f, expected):
    assert example_axis(f, 4, 3, 5) == expected


@pytest.mark.parametrize(
    ("f", "shape"),
    [
        (lambda x: x.transpose(2, 0, 1), (2, 3, 4)),
        (lambda x: x.reshape(6, 4), (2, 3, 4)),
        (lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0))), (2, 3, 4)),
        (lambda x: jnp.take(x, np.array([2, 0]), axis=1), (2, 3, 4)),
        (lambda x: x.at[:, 1].set(0.0), (2, 3, 4)),
        (lambda x: x.at[:, np.array([0, 2])].add(1.0), (2, 3, 4)),
        (lambda x: jnp.einsum("ijk,kl->jil", x, np.ones((4, 2))), (2, 3, 4)),
        (lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 1), (1, 1, 1), "SAME"), (2, 3, 4)),
        (lambda x: jax.lax.dynamic_slice(x, (0, 1, 0), (2, 1, 4)), (2, 3, 4)),
        (lambda x: jnp.sort(x, axis=1), (2, 3, 4)),
        (lambda x: jax.lax.top_k(x, 2)[0], (2, 3, 4)),
        (lambda x: jnp.squeeze(x[:, None], 1).swapaxes(0, 1), (2, 3, 4)),
    ],
)
def test_images_keep_slices_apart(f, shape):
    """If an axis is said to go somewhere, changing one slice of the operand changes that slice of the output alone."""
    x = np.random.default_rng(0).normal(size=shape)
    program = trace(lambda x: [f(x)], [jnp.asarray(x)])
    out = np.asarray(f(jnp.asarray(x)))
    kept = 0
    for dim, size in enumerate(shape):
        axis = example_axes_from(program, dim, size)
        if axis is None:
            continue
        kept += 1
        for k in range(size):
            changed = x.copy()
            changed[(slice(None),) * dim + (k,)] += 1.0
            difference = np.asarray(f(jnp.asarray(changed))) != out
            parts = difference.reshape(*out.shape[: axis.dim], axis.outer, size, axis.inner, *out.shape[axis.dim + 1 :])
            others = np.delete(parts, k, axis=axis.dim + 1)
            assert not others.any()
    assert kept >= 1


def example_axes_from(program, dim, size):
    axes = {program.inputs[0]: Axis(dim, size)}
    for eqn in program.equations:
        found = {image(eqn, k, axes[v]) for k, v in enumerate(eqn.inputs) if v in axes}
        if found:
            if len(found) > 1 or None in found:
                return None
            axes.update(dict.fromkeys(eqn.outputs, found.pop()))
    return axes[program.outputs[0]]


@pytest.mark.parametrize(
    ("f", "low", "high"),
    [
        (jax.nn.relu, 0, np.inf),
        (jax.nn.relu6, 0, 6),
        (jax.nn.sigmoid, 0, 1),
        (lambda x: 1 / (1 + jnp.exp(-x)), 0, 1),
        (lambda x: 0.5 * jnp.tanh(x) + 0.5, 0, 1),
        (jax.nn.hard_sigmoid, 0, 1),
        (lambda x: 1 - jax.nn.sigmoid(x), 0, 1),
        (lambda x: jnp.exp(-jnp.abs(x)), 0, 1),
        (lambda x: x * x, 0, np.inf),
        (lambda x: x**3, -np.inf, np.inf),
        (lambda x: -(x**2), -np.inf, 0),
        (lambda x: jnp.where(x > 0, x, 0.0), 0, np.inf),  # as the comparison says
        (lambda x: jax.nn.relu(x).reshape(-1).sum(), 0, np.inf),
        (lambda x: jnp.clip(x, -2, 3).max(), -2, 3),
        (lambda x: jnp.concatenate([jax.nn.sigmoid(x), -jax.nn.sigmoid(x)]), -1, 1),
        (lambda x: jnp.sqrt(x), 0, np.inf),
        (lambda x: x * 1e38 * 1e38, -np.inf, np.inf),
        (lambda x: jax.lax.sort((jax.nn.sigmoid(x), x), num_keys=1)[1], -np.inf, np.inf),
        (lambda x: x.astype(jnp.uint8), 0, np.inf),
        (lambda x: (-jax.nn.sigmoid(x) - 1).astype(jnp.int32).astype(jnp.uint8), 0, np.inf),  # wraps around
        (lambda x: (x > 0).astype(float), 0, 1),
    ],
)
def test_intervals(f, low, high):
    program = trace(lambda x: [f(x)], [jnp.ones(4)])
    lo, hi = Facts(program)[program.outputs[0]].interval
    np.testing.assert_allclose((lo, hi), (low, high), atol=1e-6)
    values = np.asarray(f(jnp.asarray(np.random.default_rng(0).normal(size=4) * 3)), np.float64)
    assert ((values >= lo - 1e-6) & (values <= hi + 1e-6) | np.isnan(values)).all()


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_gates_are_found_by_interval_in_every_dtype(dtype):
    f = lambda a, b: a * (jnp.clip(b + 3.0, 0.0, 6.0) * (1.0 / 6.0))  # 1/6 is rounded up in some dtypes
    signal, gate = jrlrp.relevance(f, (0, 1))(jnp.ones((2, 4), dtype), jnp.ones((2, 4), dtype))
    np.testing.assert_array_equal(np.asarray(gate, np.float32), 0.0)
    assert (np.asarray(signal, np.float32) != 0).any()


def test_first_and_last_are_decided_by_dataflow():
    w = np.ones((3, 3))

    def f(a, b):
        left = jax.nn.relu((a * 2 - w[0]) @ w)  # a scale layer before it mixes nothing
        right = b @ w
        return (left + right) @ w + a @ w

    nodes = jrlrp.plan(f, jnp.ones((2, 3)), jnp.ones((2, 3)), argnums=(0, 1)).nodes
    dense = [(node.first, node.last) for node in nodes if node.kind == "dense"]
    assert sorted(dense) == [(False, True), (True, False), (True, False), (True, True)]


def test_parameters_cost_nothing_and_dead_code_is_gone():
    def f(x, w):
        unused = jnp.linalg.svd(x)[1]
        del unused
        return x @ jnp.linalg.inv(w)

    plan = jrlrp.plan(f, jnp.ones((2, 3)), jnp.eye(3))
    assert [node.kind for node in plan.nodes] == ["dense"]


def test_a_residual_sum_is_never_merged_into_a_layer():
    w = np.ones((3, 3))
    nodes = jrlrp.plan(lambda x: (x @ w + x) * w[0] + w[1], jnp.ones((2, 3))).nodes
    assert [node.kind for node in nodes] == ["dense", "sum", "scale"]


def test_trace_time_is_linear_in_the_number_of_equations():
    """Not timed: the work is counted, as calls of the analyses' innermost functions."""

    def calls(depth):
        def f(x):
            for _ in range(depth):
                x = jax.nn.silu(x @ np.ones((4, 4)) + np.ones(4)) + x
            return x

        program = trace(lambda x: [f(x)], [jnp.ones((2, 4))])
        profile = cProfile.Profile()
        profile.runcall(build, program, program.inputs, program.outputs)
        return pstats.Stats(profile).total_calls

    assert calls(160) < 4.4 * calls(40)
