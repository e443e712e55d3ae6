"""Integer inputs have no cotangent: beside each explained one travels a float carrier of its shape, all zeros.

A carrier follows its ids through index arithmetic and movement. Where the ids become numbers (an embedding lookup, a
cast, a one-hot code) the carrier is added to the numbers, so that its cotangent is the relevance of each id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from jrlrp.graph.axes import varying_axes
from jrlrp.graph.kinds import meaning_of
from jrlrp.trace.inline import Added, Equation, Program, Var

CARRY = "carry"  # a carrier that moves along with its ids
EMBEDDING = "embedding"  # the place where ids become numbers

_ARITHMETIC = frozenset("add sub mul neg max min clamp rem".split())
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

    def new(self, eqn: Equation, components: int) -> Var:
        out = self.carrier[eqn.output] = _like(eqn.output.shape)
        self.components[out] = components
        return out


def add_carriers(program: Program, ids: Sequence[Var]) -> tuple[Program, dict[Var, Var]]:
    """Return the program with a carrier for each of the integer inputs `ids`, and the carrier of each."""
    if not ids:
        return program, {}
    companions = _Companions(program, ids)
    inputs = dict(companions.carrier)
    equations: list[Equation] = []
    for eqn in program.equations:
        equations.extend(_carry(eqn, companions) if companions.carrier.keys() & set(eqn.inputs) else [eqn])
    extended = Program((*program.inputs, *inputs.values()), program.constants, tuple(equations), program.outputs)
    return extended, inputs


def _like(shape: tuple[int, ...]) -> Var:
    return Var(shape, np.dtype(np.float32))


def _carry(eqn: Equation, companions: _Companions) -> list[Equation]:
    """Return the equation and whatever has to stand beside it for the carriers of its inputs."""
    carrier, out, primitive = companions.carrier, eqn.output, eqn.primitive
    carried = [v for v in eqn.inputs if v in carrier]
    if jnp.issubdtype(out.dtype, jnp.inexact):
        if primitive == "convert_element_type":
            return _become_numbers(eqn, carrier[eqn.inputs[0]], lambda c: c)
        if primitive == "gather" and eqn.inputs[0] not in carrier:
            index = carrier[eqn.inputs[1]]
            return _become_numbers(eqn, index, _lookup(eqn, companions.components[index]))
        return [eqn]
    if primitive == "convert_element_type" and out.dtype != np.bool_:
        carrier[out] = carrier[eqn.inputs[0]]
        return [eqn]
    if primitive in _ARITHMETIC or (primitive == "eq" and _is_one_hot(eqn, carried, companions.varying)):
        return [eqn, _beside_arithmetic(eqn, carried, companions)]
    if meaning_of(primitive) == "movement" or primitive == "select_n":
        data = _data_operands(eqn)
        if any(eqn.inputs[k] in carrier for k in data):
            return [eqn, _beside_movement(eqn, data, companions)]
    return [eqn]


def _data_operands(eqn: Equation) -> Sequence[int]:
    if eqn.primitive == "select_n":
        return range(1, len(eqn.inputs))
    return _DATA.get(eqn.primitive, range(len(eqn.inputs)))


def _beside_arithmetic(eqn: Equation, carried: Sequence[Var], companions: _Companions) -> Equation:
    inputs = tuple(companions.carrier[v] for v in carried)
    out = companions.new(eqn, max(companions.components[c] for c in inputs))

    def mean(*carriers):
        return sum(jnp.broadcast_to(c, out.shape) for c in carriers) / len(carriers)

    return Added(CARRY, inputs, (out,), {}, eqn.path, eqn.source, None, mean)


def _beside_movement(eqn: Equation, data: Sequence[int], companions: _Companions) -> Equation:
    carrier = companions.carrier
    components = [companions.components[carrier[eqn.inputs[k]]] for k in data if eqn.inputs[k] in carrier]
    out = companions.new(eqn, sum(components) if eqn.primitive == "concatenate" else max(components))
    inputs = tuple(carrier.get(v, v) if k in data else v for k, v in enumerate(eqn.inputs))
    plain = [k for k in data if eqn.inputs[k] not in carrier]
    overrides = {"fill_value": 0.0} if "fill_value" in eqn.params else {}

    def move(*values):
        moved = [jnp.zeros(jnp.shape(v), np.float32) if k in plain else v for k, v in enumerate(values)]
        return eqn.bind(moved, **overrides)

    return Added(CARRY, inputs, (out,), {}, eqn.path, eqn.source, None, move)


def _become_numbers(eqn: Equation, carrier: Var, expand: Callable) -> list[Equation]:
    number = Var(eqn.output.shape, eqn.output.dtype)
    plain = Equation(eqn.primitive, eqn.inputs, (number,), eqn.params, eqn.path, eqn.source, eqn.eqn)

    def spread(c, x):  # broadcast before the cast, so that the cotangent is summed in the carrier's precision
        return jnp.broadcast_to(expand(c), x.shape).astype(x.dtype)

    def share(x, c):
        return x + spread(c, x)

    def gradient(x, c):
        return x * (1 + spread(c, x))

    inputs = (number, carrier)
    return [plain, Lookup(EMBEDDING, inputs, eqn.outputs, {}, eqn.path, eqn.source, None, share, gradient)]


def _lookup(eqn: Equation, components: int) -> Callable:
    """Spread an index's carrier over the features that it looks up; several explained components share alike."""
    numbers, out = eqn.params["dimension_numbers"], eqn.output
    shape = tuple(1 if d in numbers.offset_dims else n for d, n in enumerate(out.shape))
    shares = components if eqn.inputs[1].shape[-1] > 1 else 1

    def expand(c):
        return jnp.reshape(jnp.sum(c, axis=-1) / shares, shape)

    return expand


def _is_one_hot(eqn: Equation, carried: Sequence[Var], varying: dict[Var, frozenset[int]]) -> bool:
    """Tell a comparison of ids with all their possible values, along an axis of its own, from any other."""
    if len(carried) != 1:
        return False
    others = [v for v in eqn.inputs if v is not carried[0]]
    return any(varying.get(v, frozenset()) - varying[carried[0]] for v in others)
