"""Programs in fewer forms: what changes nothing goes, what is implicit is written out."""

from collections.abc import Iterable
from dataclasses import replace

import jax.numpy as jnp

from jrlrp.analyses.activity import dependent_on
from jrlrp.primitives.row import Op
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.fast import respelled
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.program import Added, Equation, Literal, Program, Region, Var

# Operand number → the number that leaves the other operand as it is.
_NEUTRAL = {Op.ADD: {0: 0, 1: 0}, Op.SUB: {1: 0}, Op.MUL: {0: 1, 1: 1}, Op.DIV: {1: 1}}


def spelled_out(program: Program, explained: Iterable[Var]) -> tuple[Program, dict[Var, Var]]:
    """Return a program of the same values, and for each variable that is gone the one that takes its place.

    - x + 0 and 1·x are x.
    - A dependent operand of elementwise arithmetic is broadcast by an equation of its own.
    - A scatter that adds to an array is a sum of that array and of what is scattered.
    - Depthwise convolutions by constant weights, and max-pools, get a spelling that is fast on CPUs.
    """
    return _spelled_out(program, dependent_on(program, explained))


def _spelled_out(program: Program, dependent: set[Var]) -> tuple[Program, dict[Var, Var]]:
    same: dict[Var, Var] = {}
    equations: list[Equation] = []
    for eqn in program.equations:
        eqn = eqn.reading(same)
        if isinstance(eqn, ControlFlow):
            bodies = (replace(body, program=_spelled_out(body.program, dependent)[0]) for body in eqn.bodies)
            equations.append(replace(eqn, bodies=tuple(bodies)))
        elif (unchanged := _unchanged(eqn)) is not None:
            same[eqn.output] = unchanged
        elif eqn.row.pointwise and not isinstance(eqn, Region) and dependent.intersection(eqn.inputs):
            *wide, eqn = _broadcasts(eqn, dependent)
            equations += [*wide, respelled(eqn)]
        elif eqn.op is Op.SCATTER_ADD and not isinstance(eqn, Region) and dependent.intersection(eqn.data):
            equations += _scattered(eqn, program.definition)
        elif [v in dependent for v in eqn.inputs] in ([True], [True, False]):
            equations.append(respelled(eqn))
        else:
            equations.append(eqn)
    outputs = tuple(same.get(v, v) for v in program.outputs)
    return replace(program, equations=tuple(equations), outputs=outputs), same


def _unchanged(eqn: Equation) -> Var | None:
    """Return the operand that an equation like x + 0 or 1·x returns, as `sum([a, b])` begins."""
    for k, number in _NEUTRAL.get(eqn.op, {}).items():
        v, other = eqn.inputs[k], eqn.inputs[1 - k]
        same_kind = (other.shape, other.dtype) == (eqn.output.shape, eqn.output.dtype)
        if isinstance(v, Literal) and v.value == number and same_kind:
            return other
    return None


def _broadcasts(eqn: Equation, dependent: set[Var]) -> list[Equation]:
    equations, inputs = [], list(eqn.inputs)
    for k, v in enumerate(eqn.inputs):
        may_be_scalar = (eqn.op, k) in ((Op.SELECT, 0), (Op.CLAMP, 0), (Op.CLAMP, 2))
        if v in dependent and v.shape != eqn.output.shape and not (may_be_scalar and not v.shape):
            inputs[k] = Var(eqn.output.shape, v.dtype)
            equations.append(_broadcast(v, inputs[k], eqn))
    return [*equations, replace(eqn, inputs=tuple(inputs))]


def _broadcast(v: Var, wide: Var, eqn: Equation) -> Equation:
    def function(x):
        return [jnp.broadcast_to(x, wide.shape)]

    def places(operand, axis):
        return axis if v.shape[axis.dim] == wide.shape[axis.dim] else None

    return Added(ADDED[Op.BROADCAST], (v,), (wide,), {}, eqn.path, eqn.source, None, function, places)


def _scattered(eqn: Equation, definition: dict[Var, Equation]) -> list[Equation]:
    target, indices, updates = eqn.inputs[:3]
    made = definition.get(target)
    if made is not None and made.op is Op.BROADCAST and getattr(made.inputs[0], "value", None) == 0:
        return [eqn]
    empty, scattered = (Var(target.shape, target.dtype) for _ in range(2))

    def zeros():
        return [jnp.zeros(empty.shape, empty.dtype)]

    def add(a, b):
        return [a + b]

    path, source = eqn.path, eqn.source
    return [
        Added(ADDED[Op.FULL], (), (empty,), {}, path, source, None, zeros),
        replace(eqn, inputs=(empty, indices, updates), outputs=(scattered,)),
        Added(named("add"), (target, scattered), eqn.outputs, {}, path, source, None, add),
    ]
