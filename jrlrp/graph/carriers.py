"""Integer inputs have no cotangent: beside each explained one travels a float carrier of its shape, all zeros.

A carrier follows its ids through index arithmetic and movement. Where the ids become numbers (an embedding lookup, a
cast, a one-hot code) the carrier is added to the numbers, so that its cotangent is the relevance of each id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np

from jrlrp.graph.axes import image, varying_axes
from jrlrp.graph.kinds import is_pointwise, meaning_of
from jrlrp.trace.inline import Added, Equation, Program, Var

CARRY = "carry"  # a carrier that moves along with its ids
EMBEDDING = "embedding"  # the place where ids become numbers

_DATA = {"gather": (0,), "dynamic_slice": (0,), "dynamic_update_slice": (0, 1), "scatter": (0, 2)}


@dataclass(frozen=True, eq=False)
class Lookup(Added):
    """The place where ids become numbers: `gradient` takes the place of `function` for gradient × input."""

    gradient: Callable = field(repr=False, default=lambda *values: values)


class _Companions:
    """The carrier of each variable that has one, and of how many explained components each is made."""

    def __init__(self, program: Program, ids: Sequence[Var]):
        self.carrier = {v: _like(v.shape) for v in ids}
        self.components = dict.fromkeys(self.carrier.values(), 1)
        self.varying = varying_axes(program)

    def new(self, eqn: Equation, components: int) -> tuple[Var, ...]:
        """Return the carriers of an equation's outputs."""
        carriers = tuple(_like(v.shape) for v in eqn.outputs)
        self.carrier.update(zip(eqn.outputs, carriers, strict=True))
        self.components.update(dict.fromkeys(carriers, components))
        return carriers


def add_carriers(program: Program, ids: Sequence[Var]) -> tuple[Program, dict[Var, Var], frozenset[Var]]:
    """Return the program with a carrier for each integer input in `ids`, those carriers, and all that have one."""
    if not ids:
        return program, {}, frozenset()
    companions = _Companions(program, ids)
    inputs = dict(companions.carrier)
    equations: list[Equation] = []
    for eqn in program.equations:
        equations.extend(_carry(eqn, companions) if companions.carrier.keys() & set(eqn.inputs) else [eqn])
    extended = Program((*program.inputs, *inputs.values()), program.constants, tuple(equations), program.outputs)
    return extended, inputs, frozenset(companions.carrier)


def _like(shape: tuple[int, ...]) -> Var:
    return Var(shape, np.dtype(np.float32))


def _carry(eqn: Equation, companions: _Companions) -> list[Equation]:
    """Return the equation and whatever has to stand beside it for the carriers of its inputs."""
    carrier, out, primitive = companions.carrier, eqn.output, eqn.primitive
    carried = [k for k, v in enumerate(eqn.inputs) if v in carrier]
    data = _data_operands(eqn)
    if primitive in ("gather", "dynamic_slice") and 0 not in carried:
        return _look_up(eqn, carried, companions)
    if jnp.issubdtype(out.dtype, jnp.inexact):
        if primitive == "convert_element_type" or (primitive == "select_n" and carried == [0]):
            return _become_numbers(eqn, carried, companions, _broadcast_to(out.shape))
        return [eqn]
    if primitive == "convert_element_type":
        if out.dtype != np.bool_:
            carrier[out] = carrier[eqn.inputs[0]]
        return [eqn]
    if (meaning_of(primitive) == "movement" or primitive == "select_n") and set(data).intersection(carried):
        return [eqn, _beside_movement(eqn, data, companions)]
    arithmetic = is_pointwise(primitive) and jnp.issubdtype(out.dtype, jnp.integer)
    if arithmetic or (primitive == "eq" and _is_one_hot(eqn, carried, companions.varying)):
        return [eqn, _beside(eqn, carried, companions, _broadcast_to(out.shape))]
    return [eqn]


def _data_operands(eqn: Equation) -> Sequence[int]:
    if eqn.primitive == "select_n":
        return range(1, len(eqn.inputs))
    return _DATA.get(eqn.primitive, range(len(eqn.inputs)))


@dataclass(frozen=True)
class _Spread:
    """How a carrier spreads over an equation's output: its values, and where its axes go."""

    value: Callable
    places: Callable


def _broadcast_to(shape: tuple[int, ...]) -> Callable[[int], _Spread]:
    def places(axis):
        return axis if axis.dim < len(shape) and axis.size * axis.inner * axis.outer == shape[axis.dim] else None

    return lambda operand: _Spread(lambda c: jnp.broadcast_to(c, shape), places)


def _look_up(eqn: Equation, carried: Sequence[int], companions: _Companions) -> list[Equation]:
    """Spread the carriers of the indices over what they look up; several explained components share alike."""
    shape = eqn.output.shape
    if eqn.primitive == "dynamic_slice":  # an index for each dimension, each a scalar
        spread = lambda operand: _Spread(lambda c: jnp.broadcast_to(c, shape), lambda axis: None)
    else:
        index = eqn.inputs[1]
        shares = companions.components[companions.carrier[index]] if index.shape[-1] > 1 else 1
        features = eqn.params["dimension_numbers"].offset_dims
        kept = tuple(1 if d in features else n for d, n in enumerate(shape))
        value = lambda c: jnp.broadcast_to(jnp.reshape(jnp.sum(c, axis=-1) / shares, kept), shape)
        spread = lambda operand: _Spread(value, lambda axis: image(eqn, 1, axis))
    if jnp.issubdtype(eqn.output.dtype, jnp.inexact):
        return _become_numbers(eqn, carried, companions, spread)
    return [eqn, _beside(eqn, carried, companions, spread)]


def _mean(carriers: Sequence, spreads: Sequence[_Spread]):
    return sum(spread.value(c) for c, spread in zip(carriers, spreads, strict=True)) / len(carriers)


def _beside(eqn: Equation, carried: Sequence[int], companions: _Companions, spread: Callable) -> Equation:
    """Return the equation of the output's carrier: the mean of the inputs' carriers, spread over the output."""
    inputs = tuple(companions.carrier[eqn.inputs[k]] for k in carried)
    outputs = companions.new(eqn, max(companions.components[c] for c in inputs))
    spreads = [spread(k) for k in carried]
    return Added(
        CARRY,
        inputs,
        outputs,
        {},
        eqn.path,
        eqn.source,
        None,
        lambda *carriers: [_mean(carriers, spreads)],
        lambda operand, axis: spreads[operand].places(axis),
    )


def _beside_movement(eqn: Equation, data: Sequence[int], companions: _Companions) -> Equation:
    carrier = companions.carrier
    components = [companions.components[carrier[eqn.inputs[k]]] for k in data if eqn.inputs[k] in carrier]
    outputs = companions.new(eqn, sum(components) if eqn.primitive == "concatenate" else max(components))
    inputs = tuple(carrier.get(v, v) if k in data else v for k, v in enumerate(eqn.inputs))
    plain = [k for k in data if eqn.inputs[k] not in carrier]
    overrides = {"fill_value": 0.0} if "fill_value" in eqn.params else {}

    def move(*values):
        moved = [jnp.zeros(jnp.shape(v), np.float32) if k in plain else v for k, v in enumerate(values)]
        return eqn.bind_all(moved, **overrides)

    places = lambda operand, axis: image(eqn, operand, axis)
    return Added(CARRY, inputs, outputs, {}, eqn.path, eqn.source, None, move, places)


def _become_numbers(eqn: Equation, carried: Sequence[int], companions: _Companions, spread: Callable) -> list[Equation]:
    number = Var(eqn.output.shape, eqn.output.dtype)
    plain = replace(eqn, outputs=(number,))
    spreads = [spread(k) for k in carried]
    inputs = (number, *(companions.carrier[eqn.inputs[k]] for k in carried))

    def share(x, *carriers):  # spread before the cast, so that the cotangent is summed in the carrier's precision
        return [x + _mean(carriers, spreads).astype(x.dtype)]

    def gradient(x, *carriers):
        return [x * (1 + _mean(carriers, spreads).astype(x.dtype))]

    def places(operand, axis):
        return axis if operand == 0 else spreads[operand - 1].places(axis)

    return [plain, Lookup(EMBEDDING, inputs, eqn.outputs, {}, eqn.path, eqn.source, None, share, places, gradient)]


def _is_one_hot(eqn: Equation, carried: Sequence[int], varying: dict[Var, frozenset[int]]) -> bool:
    """Tell a comparison of ids with all their possible values, along an axis of its own, from any other."""
    if len(carried) != 1:
        return False
    ids, other = eqn.inputs[carried[0]], eqn.inputs[1 - carried[0]]
    return bool(varying.get(other, frozenset()) - varying[ids])
