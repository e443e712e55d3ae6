"""Every primitive has a row, and every row is right by numbers: on the equations that some hundreds of calls emit."""

import dataclasses
import functools
import importlib.util
import warnings
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import primitives as exported

from jrlrp.primitives import table
from jrlrp.primitives.axes import image, varying_along
from jrlrp.primitives.intervals import of_literal
from jrlrp.primitives.row import ROW_KINDS, Axis, Op, Row
from jrlrp.trace import compat
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.inline import trace
from jrlrp.trace.spellings import FORMULAS

_SPEC = importlib.util.spec_from_file_location("calls", Path(__file__).with_name("calls.py"))
calls = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(calls)

# What is no function of its operands alone, or needs devices, a mesh or a key to run: not checked by numbers.
NOT_RUN = {
    *"""axis_index random_bits random_fold_in random_seed random_split random_wrap random_unwrap random_clone
    rng_bit_generator rng_uniform random_gamma debug_print platform_index device_put pcast pvary""".split(),
    *(row.name for row in table.rows() if row.op is Op.COLLECTIVE),
}
FUNCTIONS = calls.calls()
INTERVALS = [(-2.0, 3.0), (0.0, 1.0), (0.25, 2.0), (-3.0, -0.5), (0.0, np.inf), (-np.inf, np.inf), (1.0, 1.0)]


def inner(jaxpr):
    """Yield the primitives of a jaxpr, those of all jaxprs in its equations' parameters too."""
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield eqn.primitive
        holds = lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        for v in jax.tree.leaves(list(eqn.params.values()), is_leaf=holds):
            if holds(v):
                yield from inner(v)


def test_every_primitive_that_jax_exports_has_a_row():
    names = [name for name in dir(exported) if name.endswith("_p")]
    assert len(names) > 150
    assert [name for name in names if table.row_of(getattr(exported, name)) is None] == []


@pytest.mark.parametrize("group", range(8))
def test_all_that_the_calls_emit_has_a_row(group):
    found = {**FUNCTIONS, **calls.COLLECTIVES}
    missing = defaultdict(list)
    for name, (f, args) in list(found.items())[group::8]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = jax.make_jaxpr(f)(*args)
        for primitive in inner(traced):
            if table.row_of(primitive) is None:
                missing[primitive.name].append(name)
    assert len(found) > 500
    assert not missing


@pytest.mark.parametrize("row", [*table.rows(), *table.ADDED.values()], ids=lambda row: row.name)
def test_each_field_has_a_value_or_an_explicit_none(row):
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(Row))
    assert isinstance(row.op, Op) and row.kind in ROW_KINDS and row.name
    for name in ("pointwise", "constancy", "bends", "rising"):
        assert isinstance(fields[name], bool), name
    for name in ("axes", "interval", "linear", "exponent"):
        assert fields[name] is None or callable(fields[name]), name
    assert callable(row.data)
    assert not (row.rising and not row.pointwise)


def test_no_two_rows_are_of_one_name_and_a_user_s_primitive_has_none():
    names = [row.name for row in table.rows()]
    assert len(set(names)) == len(names)
    from jax.extend.core import Primitive

    for name in ("tile", "add", "call_hi_primitive", "reshard", "made up"):
        assert table.row_of(Primitive(name)) is None


@pytest.mark.parametrize("name", compat._OUTSIDE)
def test_where_a_primitive_is_looked_for_can_be_traced(name):
    jax.make_jaxpr(compat._OUTSIDE[name])(compat._ARRAY)


@functools.cache
def equations():
    """Return equations of each primitive, at most eight of one, that differ in shapes or parameters."""
    found, seen = defaultdict(list), set()

    def add(program):
        for eqn in program.equations:
            if isinstance(eqn, ControlFlow):
                for body in eqn.bodies:
                    add(body.program)
            key = (eqn.row.name, str(eqn.params), tuple((v.shape, str(v.dtype)) for v in (*eqn.inputs, *eqn.outputs)))
            runs = not isinstance(eqn, ControlFlow) and eqn.row.name not in NOT_RUN and eqn.outputs
            if runs and key not in seen and len(found[eqn.row.name]) < 8:
                seen.add(key)
                found[eqn.row.name].append(eqn)

    for f, args in FUNCTIONS.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            add(trace(lambda *x, f=f: jax.tree.leaves(f(*x)), args))
    return found


NAMES = sorted(row.name for row in table.rows() if row.kind != "control" and row.name not in NOT_RUN)
LIKE_LINEAR = ("nextafter", "reduce", "cholesky")  # on the numbers here
# No public call emits them on its own, or none does on a CPU.
UNSEEN = set(
    """add_jaxvals after_all copy create_token custom_lin empty2 eq_to get layout_constraint mesh_cast name
    optimization_barrier ragged_all_to_all reshard select_and_scatter sharding_constraint swap threefry2x32""".split()
) | set(FORMULAS)
OLD = {"le_to", "lt_to"}  # the newest JAX sorts without them


@pytest.fixture(params=NAMES)
def emitted(request):
    found = equations().get(request.param, [])
    if not found:
        assert request.param in UNSEEN | OLD
        pytest.skip("no call emits it")
    return found


def drawn(v, rng, interval=(-2.0, 3.0)):
    """Return random values of a variable within an interval, its ends among them."""
    lo, hi = max(interval[0], -5.0), min(interval[1], 5.0)
    if v.dtype == np.bool_:
        return rng.uniform(size=v.shape) < 0.5
    if jnp.issubdtype(v.dtype, jnp.integer):
        lo = max(lo, 0) if jnp.issubdtype(v.dtype, jnp.unsignedinteger) else lo
        lo = int(np.ceil(lo))
        return np.asarray(rng.integers(lo, max(int(np.floor(hi)), lo) + 1, size=v.shape), v.dtype)
    x = np.where(rng.uniform(size=v.shape) < 0.2, rng.choice([lo, hi], size=v.shape), rng.uniform(lo, hi, size=v.shape))
    if jnp.issubdtype(v.dtype, jnp.complexfloating):
        x = x + 1j * rng.uniform(-1, 1, size=v.shape)
    return np.asarray(jnp.asarray(x, v.dtype))


def operands(eqn, rng, *intervals):
    """Return values of an equation's operands, each within an interval: one value for each variable."""
    known = {}
    for v, interval in zip(eqn.inputs, intervals or [(-2.0, 3.0)] * len(eqn.inputs), strict=True):
        if v not in known:
            known[v] = np.asarray(v.value, v.dtype) if hasattr(v, "value") else drawn(v, rng, interval)
    return [known[v] for v in eqn.inputs]


def ran(eqn, values):
    return [np.asarray(y) for y in eqn.run([jnp.asarray(x, v.dtype) for x, v in zip(values, eqn.inputs, strict=True)])]


def equal(a, b):
    kind = np.result_type(a)
    if jnp.issubdtype(kind, jnp.inexact):
        a, b = (np.asarray(x, complex if jnp.issubdtype(kind, jnp.complexfloating) else float) for x in (a, b))
        return np.isclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)
    return a == b


def is_real(v):
    return not jnp.issubdtype(v.dtype, jnp.complexfloating)


def test_the_rows_that_no_call_emits_are_these():
    assert set(NAMES) - set(equations()) - OLD == UNSEEN


def test_values_lie_in_the_interval(emitted):
    rng = np.random.default_rng(0)
    for eqn in emitted:
        if eqn.row.interval is None or not all(map(is_real, (*eqn.inputs, *eqn.outputs))):
            continue
        for trial in range(14):
            chosen = [INTERVALS[trial % 7 if trial < 7 else rng.integers(7)] for _ in eqn.inputs]
            chosen = [chosen[eqn.inputs.index(v)] for v in eqn.inputs]
            values = operands(eqn, rng, *chosen)
            known = [
                (float(x.min()), float(x.max())) if x.size and not jnp.issubdtype(v.dtype, jnp.inexact) else interval
                for v, x, interval in zip(eqn.inputs, values, chosen, strict=True)
            ]
            known = [of_literal(v.value) if hasattr(v, "value") else k for v, k in zip(eqn.inputs, known, strict=True)]
            for k, y in enumerate(ran(eqn, values)):
                lo, hi = eqn.row.interval(eqn, k, known)
                y, dtype = y.astype(float), eqn.outputs[k].dtype
                y = y[~np.isnan(y)]
                rounded = 1e-3 if eqn.row.name == "reduce_precision" or not jnp.issubdtype(dtype, jnp.inexact) else 0
                wide = max(rounded, 8 * float(jnp.finfo(dtype).eps) if not rounded else 0) * np.clip(np.abs(y), 1, 1e9)
                assert (lo <= y + wide).all() and (y - wide <= hi).all(), (eqn, known, (lo, hi), y)


def axes_of(n, dim):
    """Yield an axis of a dimension of n entries, whole and where a reshape could have merged it with others."""
    yield Axis(dim, n)
    for size in (2, 3):
        if n % size == 0 and n > size:
            yield Axis(dim, size, n // size, 1)
            yield Axis(dim, size, 1, n // size)


def slots(shape, axis):
    """Return for each entry of an array the number of the slice that it is in."""
    number = (np.arange(shape[axis.dim]) // axis.inner) % axis.size
    return np.broadcast_to(number.reshape([-1 if d == axis.dim else 1 for d in range(len(shape))]), shape)


def test_slices_stay_apart_along_the_axis_that_is_found(emitted):
    rng = np.random.default_rng(1)
    for eqn in emitted:
        for k, v in enumerate(eqn.inputs):
            for axis in (axis for dim in range(v.ndim) for axis in axes_of(v.shape[dim], dim)):
                there = image(eqn, k, axis)
                if there is None or axis.size == 0 or hasattr(v, "value"):
                    continue
                assert there.size == axis.size, eqn
                values, other = operands(eqn, rng), drawn(v, rng)
                before = ran(eqn, values)
                for number in range(axis.size):
                    values_then = list(values)
                    values_then[k] = np.where(slots(v.shape, axis) == number, other, values[k])
                    for y, z in zip(before, ran(eqn, values_then), strict=True):
                        if y.shape == eqn.outputs[0].shape:
                            elsewhere = slots(y.shape, there) != number
                            assert equal(y, z)[elsewhere].all(), (eqn, k, axis, there)


def test_outputs_vary_along_no_other_axes_than_operands(emitted):
    rng = np.random.default_rng(2)
    for eqn in emitted:
        if not (eqn.row.pointwise or eqn.row.constancy):
            continue
        for trial in range(6):
            varying = [frozenset(d for d in range(v.ndim) if trial and rng.uniform() < 0.4) for v in eqn.inputs]
            found = varying_along(eqn, varying)
            if found is None:
                continue
            values = [
                np.broadcast_to(x[tuple(slice(None) if d in dims else slice(0, 1) for d in range(x.ndim))], x.shape)
                for x, dims in zip(operands(eqn, rng), varying, strict=True)
            ]
            for y in ran(eqn, values):
                first = y[tuple(slice(None) if d in found else slice(0, 1) for d in range(y.ndim))]
                assert equal(y, np.broadcast_to(first, y.shape)).all(), (eqn, varying, found)


def test_a_pointwise_function_sees_one_place(emitted):
    rng = np.random.default_rng(3)
    for eqn in emitted:
        if not eqn.row.pointwise:
            continue
        shape = eqn.outputs[0].shape
        fits = lambda v, shape=shape: all(n in (1, m) for n, m in zip(v.shape, shape, strict=v.ndim > 0))
        assert all(map(fits, eqn.inputs)), eqn
        for k, v in enumerate(eqn.inputs):
            if not v.size or not shape or v.shape != shape:
                continue
            values = operands(eqn, rng)
            before, place = ran(eqn, values), tuple(rng.integers(n) for n in shape)
            changed = values[k].copy()
            changed[place] = drawn(v, rng)[place]
            for y, z in zip(before, ran(eqn, [changed if n == k else x for n, x in enumerate(values)]), strict=True):
                elsewhere = np.arange(y.size).reshape(shape) != np.ravel_multi_index(place, shape)
                assert equal(y, z)[elsewhere].all(), (eqn, k)


def test_data_that_is_no_data_are_indices_and_truth_values(emitted):
    for eqn in emitted:
        assert set(eqn.data_operands) <= set(range(len(eqn.inputs)))
        for k, v in enumerate(eqn.inputs):
            if k not in eqn.data_operands and eqn.row.name not in ("select_and_scatter_add", "select_and_gather_add"):
                assert not jnp.issubdtype(v.dtype, jnp.inexact), (eqn, k)


def _is_linear_in(eqn, names, rng):
    """Tell whether an equation is linear in some operands at once, the others held."""
    a, b = operands(eqn, rng), operands(eqn, rng)
    held = [n for n in range(len(a)) if n not in names]
    for n in held:
        b[n] = a[n]
    both = [a[n] if n in held else np.asarray(1.5 * a[n] - 0.5 * b[n], a[n].dtype) for n in range(len(a))]
    triples = zip(*(ran(eqn, values) for values in (a, b, both)), strict=True)
    return all(equal(z, np.asarray(1.5 * x - 0.5 * y, z.dtype)).all() for x, y, z in triples)


def is_wide(v):
    return v.dtype in (np.float64, np.complex128)


def test_what_is_linear_is_linear_and_what_bends_is_not(emitted):
    rng = np.random.default_rng(4)
    bent = []
    for eqn in emitted:
        names = [] if eqn.row.linear is None else list(eqn.row.linear(eqn))
        assert set(names) <= set(eqn.data_operands)
        data = [eqn.inputs[k] for k in eqn.data_operands]
        if not all(map(is_wide, (*data, *eqn.outputs))) or not data:
            continue
        if eqn.params.get("fill_value"):  # a number where nothing is read: affine
            continue
        if names:
            tries = [names, *([k] for k in names)] if len(names) > 1 else [names]
            together, *alone = (_is_linear_in(eqn, some, rng) for some in tries)
            assert together or (alone and all(alone)), eqn
            assert not eqn.row.bends
        elif eqn.row.bends and eqn.row.name not in LIKE_LINEAR:
            bent.append(_is_linear_in(eqn, list(eqn.data_operands), rng))
    assert not bent or not all(bent)


def test_what_rises_rises(emitted):
    for eqn in emitted:
        if not eqn.row.rising or not is_real(eqn.inputs[0]) or jnp.issubdtype(eqn.inputs[0].dtype, jnp.integer):
            continue
        assert len(eqn.inputs) == 1
        for x in np.split(np.linspace(-1.55, 1.55, 40 * max(eqn.inputs[0].size, 1)), 40):
            y = ran(eqn, [x.reshape(eqn.inputs[0].shape)])[0].reshape(-1).astype(float)
            assert (np.diff(y[~np.isnan(y)]) >= 0).all(), eqn


def test_a_known_exponent_is_that_of_a_power(emitted):
    rng = np.random.default_rng(5)
    for eqn in emitted:
        if eqn.row.exponent is not None and is_wide(eqn.inputs[0]) and is_real(eqn.inputs[0]):
            values = operands(eqn, rng, *[(0.25, 2.0)] * len(eqn.inputs))
            np.testing.assert_allclose(ran(eqn, values)[0], values[0] ** eqn.row.exponent(eqn), rtol=1e-6)


def test_movements_and_choices_make_no_new_values(emitted):
    rng = np.random.default_rng(6)
    for eqn in emitted:
        if not (eqn.row.moves or eqn.row.kind == "max_pool") or eqn.op is Op.CAST:
            continue
        if not all(map(is_real, (*eqn.inputs, *eqn.outputs))):
            continue
        values = operands(eqn, rng)
        given = [values[k].reshape(-1).astype(float) for k in eqn.data_operands]
        fill = eqn.params.get("fill_value")
        known = np.concatenate([*given, [0.0, np.inf, -np.inf], [] if fill is None else [fill]])
        outputs = ran(eqn, values)
        for y in outputs if eqn.op in (Op.PART,) or eqn.row.name == "sort" else outputs[:1]:
            y = y.astype(float)
            assert np.isin(y[~np.isnan(y)], known).all(), eqn


def test_sums_do_not_fall_where_what_they_sum_rises(emitted):
    rng = np.random.default_rng(7)
    for eqn in emitted:
        if eqn.row.kind == "average_pool" and is_wide(eqn.inputs[0]) and is_real(eqn.inputs[0]):
            values = operands(eqn, rng)
            more = [x + rng.uniform(0, 1, size=x.shape) for x in values]
            assert (ran(eqn, more)[0] >= ran(eqn, values)[0]).all(), eqn


def test_rows_of_collectives_hold_over_devices():
    """What each device gets lies in the interval that follows from that of all devices' values."""
    for name, (f, args) in calls.COLLECTIVES.items():
        (flow,) = [e for e in trace(lambda x, f=f: jax.tree.leaves(f(x)), args).equations if isinstance(e, ControlFlow)]
        for eqn in flow.bodies[0].program.equations:
            if eqn.row.op is Op.COLLECTIVE and name != "pmean":
                lo, hi = eqn.row.interval(eqn, 0, [(0.5, 2.0)] * len(eqn.inputs))
                y = np.asarray(jax.jit(f)(np.random.default_rng(0).uniform(0.5, 2, size=args[0].shape)))
                assert lo <= y.min() and y.max() <= hi, name


def test_compat_names_only_what_it_can_find():
    for name, f in compat._OUTSIDE.items():
        assert name in {row.name for row in table.rows()} and callable(f)
