"""Whether each node that the library recognised is what its definition says, by numbers: a false match is found so."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.graph.layers import layer_of
from jrlrp.graph.nodes import Affine, LogSumExp, Normalisation, Softmax, Sum
from jrlrp.trace.groups import Axes
from jrlrp.trace.program import evaluated
from jrlrp.transform import options, trace_function


def faults(f, x, bound=1e-6):
    """Return what is wrong with the nodes of f, evaluated at x; those inside of control flow are left out."""
    traced = trace_function(f, (x,), {}, options(f))
    program = traced.graph.program
    start = {**program.constants, program.inputs[0]: jnp.asarray(x)}
    values = evaluated([eqn for eqn in program.equations if eqn.eqn is None or not eqn.has_effects], start)
    found = []
    for node in traced.graph.own_nodes:
        check = next((check for kind, check in CHECKS.items() if isinstance(node, kind)), None)
        if check is None or any(v not in values for v in (*node.inputs, *node.outputs, *node.constants)):
            continue
        inputs = [np.asarray(values[v], np.float64) for v in node.inputs]
        made, expected = check(node, inputs, values)
        made, expected = np.asarray(made, np.float64), np.asarray(expected, np.float64)
        rounding = max(bound, 30 * float(jnp.finfo(node.output.dtype).eps))
        size = max(np.max(np.abs(made), initial=0), 1e-30)
        if made.shape != expected.shape or not np.all(np.abs(made - expected) <= rounding * size):
            found.append(f"{node!r}: {made.ravel()[:4]} is not {expected.ravel()[:4]}")
    return found


def _output(node, values):
    return values[node.output]


def _in_segments(p, group, values, reduce):
    """Return for each entry what `reduce(entries, axis)` makes of its segment."""
    lead = p.shape[: group.lead]
    index = np.asarray(values[group.index]).reshape(*lead, p.shape[group.dim])
    total, moved = np.zeros_like(p), np.moveaxis(p, group.dim, group.lead)
    for at in np.ndindex(lead):
        same = index[at][:, None] == index[at][None]
        for k, own in enumerate(same):
            np.moveaxis(total, group.dim, group.lead)[(*at, k)] = reduce(moved[at][own], 0)
    return total


def _softmax(node, inputs, values):
    """exp(x) / Σ exp(x), or less where a sink takes part of it: ratios within a group are exp(x_i − x_j)."""
    (x,) = inputs
    y = np.asarray(_output(node, values), np.float64)
    if isinstance(node.group, Axes):
        axes = tuple(node.group.dims)
        expected = np.asarray(jax.nn.softmax(x, axes))
        return y, np.where(np.isnan(expected) & (y == 0), 0, expected) * y.sum(axes, keepdims=True)
    over = lambda v, reduce: _in_segments(v, node.group, values, reduce)
    p = np.exp(x - over(x, np.max))
    return y, p / over(p, np.sum) * over(y, np.sum)


def _log_sum_exp(node, inputs, values):
    axes = None if node.group is None else tuple(node.group.dims)
    expected = np.logaddexp(*inputs) if axes is None else np.asarray(jax.nn.logsumexp(inputs[0], axes))
    return _output(node, values), expected.reshape(node.shape)


def _normalisation(node, inputs, values):
    """Affine in its input once the statistics are held, which then gives the output."""
    layer = layer_of(
        node, [jnp.asarray(v) for v in inputs], [values[v] for v in node.constants], [jnp.ones(node.shape)]
    )
    (x,) = inputs
    other = np.random.default_rng(0).normal(size=x.shape)
    half = layer.map(jnp.asarray(x)) / 2 + layer.map(jnp.asarray(other)) / 2
    np.testing.assert_allclose(layer.map(jnp.asarray((x + other) / 2)), half, rtol=1e-4, atol=1e-4 * np.abs(half).max())
    return _output(node, values), layer.map(jnp.asarray(x)) + layer.bias


def _affine(node, inputs, values):
    """Linear in its input, but for the bias."""
    constants = [values[v] for v in node.constants]
    layer = layer_of(node, [jnp.asarray(v) for v in inputs], constants, [jnp.ones(node.shape)])
    z = layer.map(jnp.asarray(inputs[0]))
    return _output(node, values), z if layer.bias is None else z + layer.bias


def _sum(node, inputs, values):
    """The signed summands, but for a constant: what is left does not change with the summands."""
    run = lambda scale: node.run(
        [jnp.asarray(scale * x).astype(v.dtype) for x, v in zip(inputs, node.inputs, strict=True)],
        [values[v] for v in node.constants],
    )[0]
    if any(eqn.flat != (eqn,) for eqn in node.equations):  # evaluated by what it was read from
        total = sum(sign * x for sign, x in zip(node.signs, inputs, strict=True))
        made, total = np.asarray(_output(node, values), np.float64), np.broadcast_to(total, node.shape)
        constants = [np.asarray(values[v], np.float64) for v in node.constants]
        signs = itertools.product((0, 1, -1), repeat=len(constants))  # some are held, and no summands
        totals = [total + sum(s * c for s, c in zip(own, constants, strict=True)) for own in signs]
        total = min(totals, key=lambda total: np.abs(made - total).max(initial=0))
        return np.where(_swallowed(made, total), total, made), total
    signed = np.broadcast_to(sum(sign * x for sign, x in zip(node.signs, inputs, strict=True)), node.shape)
    constant = np.asarray(run(0.0), np.float64)
    return np.where(_swallowed(constant, signed), signed, np.asarray(run(1.0), np.float64) - constant), signed


def _swallowed(constant, summands):
    """Return where a constant, such as -1e30 of a mask, leaves nothing of a sum."""
    return np.abs(constant) > 1e9 * np.max(np.abs(summands), initial=0)


CHECKS = {
    Softmax: _softmax,
    LogSumExp: _log_sum_exp,
    Normalisation: _normalisation,
    Affine: _affine,
    Sum: _sum,
}
