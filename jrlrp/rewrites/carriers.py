"""Integer inputs have no cotangent: beside each explained one travels a float carrier of its shape, all zeros.

A carrier follows its ids through index arithmetic and movement. Where the ids become numbers (an embedding lookup, a
cast, a one-hot code) the carrier is added to the numbers, so that its cotangent is the relevance of each id.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jrlrp.analyses.facts import Facts
from jrlrp.primitives.axes import image
from jrlrp.primitives.row import Op
from jrlrp.primitives.table import named
from jrlrp.rewrites.companions import Companions, Spread, become_numbers, broadcast_to, decode, differing, moved_along
from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.inline import opened
from jrlrp.trace.program import Added, Equation, Program, Var


def add_carriers(program: Program, ids: Sequence[Var]) -> tuple[Program, dict[Var, Var], frozenset[Var]]:
    """Return the program with a carrier for each integer input in `ids`, those carriers, and all that have one."""
    if not ids:
        return program, {}, frozenset()
    companions = Companions(ids, Facts(program), ids)
    inputs = dict(companions.carrier)
    equations = (*companions.ones(), *_follow(companions, program))
    constants = {**program.constants, **companions.constants}
    extended = Program((*program.inputs, *inputs.values()), constants, equations, program.outputs)
    return extended, inputs, frozenset(companions.carrier)


def _follow(companions: Companions, program: Program) -> tuple[Equation, ...]:
    """Return the equations of a program and all that stands beside them for carriers."""
    equations: list[Equation] = []
    for eqn in program.equations:
        companions.look_at(eqn)
        if companions.carrier.keys() & set(eqn.inputs):
            equations += _carry(eqn, companions)
        elif companions.codes.keys() & set(eqn.inputs):
            equations += decode(eqn, companions)
        else:
            equations.append(eqn)
    return tuple(equations)


def _carry(eqn: Equation, companions: Companions) -> list[Equation]:
    """Return the equation and whatever has to stand beside it for the carriers of its inputs."""
    if not eqn.outputs:  # a debug print, say
        return [eqn]
    if isinstance(eqn, ControlFlow):
        return _enter(eqn, companions)
    if eqn.row.kind == "control" and eqn.rule is None:
        return _open(eqn, companions)
    carrier, out = companions.carrier, eqn.output
    carried = [k for k, v in enumerate(eqn.inputs) if v in carrier]
    data = eqn.data_operands
    if eqn.op in (Op.GATHER, Op.DYNAMIC_SLICE) and 0 not in carried:
        return _look_up(eqn, carried, companions)
    if jnp.issubdtype(out.dtype, jnp.inexact):
        if eqn.op is Op.CAST or (eqn.op is Op.SELECT and carried == [0]):
            along = differing(out, companions, *(eqn.inputs[k] for k in carried))
            return become_numbers(eqn, carried, companions, broadcast_to(out.shape), along)
        return _cast_first(eqn, carried, companions) if eqn.op is Op.DOT else [eqn]
    if eqn.op in (Op.CAST, Op.IDENTITY):
        if out.dtype != np.bool_ and eqn.inputs[0] in carrier:
            carrier[out] = carrier[eqn.inputs[0]]
        return [eqn]
    if eqn.row.moves and set(data).intersection(carried):
        return _move(eqn, data, companions)
    arithmetic = eqn.row.pointwise and jnp.issubdtype(out.dtype, jnp.integer)
    if arithmetic or (eqn.op is Op.EQUAL and _is_one_hot(eqn, carried, companions.facts)):
        along = differing(out, companions, *(eqn.inputs[k] for k in carried))
        return _add(eqn, carried, companions, broadcast_to(out.shape), along)
    return [eqn]


def _open(eqn: Equation, companions: Companions) -> list[Equation]:
    """Return what a kept call calls, with all that stands beside it for the carriers of its inputs."""
    program = opened(eqn)
    companions.constants.update(program.constants)
    return list(_follow(companions, program))


def _look_up(eqn: Equation, carried: Sequence[int], companions: Companions) -> list[Equation]:
    """Spread the carriers of the indices over what they look up, the components of an index added."""
    shape = eqn.output.shape
    if eqn.op is Op.DYNAMIC_SLICE:  # an index for each dimension, each a scalar
        spread, along = Spread(lambda c: jnp.broadcast_to(c, shape), lambda axis: None), frozenset[int]()
    else:
        features = eqn.params["dimension_numbers"].offset_dims
        kept = tuple(1 if d in features else n for d, n in enumerate(shape))
        value = lambda c: jnp.broadcast_to(jnp.reshape(jnp.sum(c, axis=-1), kept), shape)
        spread = Spread(value, lambda axis: image(eqn, 1, axis))
        along = frozenset(d for d in range(len(shape)) if d not in features)
    if jnp.issubdtype(eqn.output.dtype, jnp.inexact):
        return become_numbers(eqn, carried, companions, spread, along)
    return _add(eqn, carried, companions, spread, along)


def _add(
    eqn: Equation, carried: Sequence[int], companions: Companions, spread: Spread, along: frozenset[int]
) -> list[Equation]:
    """Let the output's carrier be the sum of the inputs', spread over the output; it differs `along` dimensions."""

    def add(*carriers):
        return [sum(map(spread.value, carriers))]

    inputs = [companions.carrier[eqn.inputs[k]] for k in carried]
    added = companions.beside(eqn, inputs, add, lambda operand, axis: spread.places(axis))
    companions.varying[companions.carrier[eqn.output]] = along
    return added


def _move(eqn: Equation, data: Sequence[int], companions: Companions) -> list[Equation]:
    """Let the carriers move as their ids do."""
    carrier = companions.carrier
    inputs = [carrier.get(v, v) if k in data else v for k, v in enumerate(eqn.inputs)]
    plain = [k for k in data if eqn.inputs[k] not in carrier]
    overrides = {"fill_value": 0.0} if "fill_value" in eqn.params else {}

    def move(*values):
        moved = [0 * jnp.asarray(v).astype(np.float32) if k in plain else v for k, v in enumerate(values)]
        return eqn.bind_all(moved, **overrides)

    moved = companions.beside(eqn, inputs, move, lambda operand, axis: image(eqn, operand, axis))
    if len(data) == 1:
        companions.varying[carrier[eqn.output]] = moved_along(eqn, data[0], companions.differs(eqn.inputs[data[0]]))
    return moved


def _cast_first(eqn: Equation, carried: Sequence[int], companions: Companions) -> list[Equation]:
    """Let integers (counts of words, say) become numbers before the matrix product that takes them as such."""
    equations: list[Equation] = []
    inputs = list(eqn.inputs)
    for k in carried:
        number = Var(eqn.inputs[k].shape, eqn.output.dtype)
        cast = lambda x, dtype=number.dtype: [jnp.asarray(x).astype(dtype)]
        made = Added(named("convert_element_type"), (eqn.inputs[k],), (number,), {}, eqn.path, eqn.source, None, cast)
        equations += become_numbers(made, [0], companions, broadcast_to(number.shape))
        inputs[k] = number
    return [*equations, replace(eqn, inputs=tuple(inputs))]


def _is_one_hot(eqn: Equation, carried: Sequence[int], facts: Facts) -> bool:
    """Tell a comparison of ids with all their possible values, along an axis of its own, from any other."""
    if len(carried) != 1:
        return False
    ids, other = eqn.inputs[carried[0]], eqn.inputs[1 - carried[0]]
    return bool(facts.varying(other) - facts.varying(ids))


def _enter(eqn: ControlFlow, outside: Companions) -> list[Equation]:
    """Return control flow whose bodies take in the carriers of their inputs, and give out those of their outputs."""
    if eqn.op is Op.WHILE:
        return [eqn]  # of unknown length: nothing comes back through it
    inner = [_inside(eqn, body, outside) for body in eqn.bodies]
    carrying = sorted(
        {
            result
            for body, (found, _) in zip(eqn.bodies, inner, strict=True)
            for v, result in zip(body.program.outputs, body.results, strict=True)
            if v in found.carrier and result is not None
        }
    )
    before: list[Equation] = []
    operands: list[int] = []  # which operand each carrier among the new operands is the carrier of
    bodies = []
    for body, (found, equations) in zip(eqn.bodies, inner, strict=True):
        bodies.append(_widened(eqn, body, found, equations, carrying, len(eqn.inputs) + 2 * len(operands)))
        own = [body.operands[k] for k, v in enumerate(body.program.inputs) if v in found.inputs]
        for v in (eqn.inputs[k] for k in own):
            before += [] if v in outside.carrier else outside.zeros(v)
        operands += own
    inputs = [v for k in operands for v in outside.pair(eqn.inputs[k])]
    outputs = [v for k in carrying for v in outside.new(eqn.outputs[k])]
    params = dict(eqn.params)
    for name, chosen in (("in_specs", operands), ("out_specs", carrying)):
        if name in params:
            params[name] = (*params[name], *(params[name][k] for k in chosen for _ in range(2)))
    wide = replace(
        eqn, inputs=(*eqn.inputs, *inputs), outputs=(*eqn.outputs, *outputs), params=params, bodies=tuple(bodies)
    )
    return [*before, wide]


def _inside(eqn: ControlFlow, body: Body, outside: Companions) -> tuple[Companions, list[Equation]]:
    """Return the companions of a body's variables, and its equations with all that stands beside them."""
    inputs, outputs = body.program.inputs, body.program.outputs
    ids = {k for k, operand in enumerate(body.operands) if eqn.inputs[operand] in outside.carrier}
    looped = {start for _, start in body.carried}
    while True:
        fixed = [inputs[k] for k in ids if eqn.inputs[body.operands[k]] in outside.fixed and k not in looped]
        found = Companions([inputs[k] for k in sorted(ids)], outside.facts, fixed)
        equations = list(_follow(found, body.program))
        later = {start for turn, start in body.carried if outputs[turn] in found.carrier}
        if later <= ids:
            break
        ids |= later
    for turn, start in body.carried:
        if start in ids and outputs[turn] not in found.carrier:
            equations += found.zeros(outputs[turn])
    return found, equations


def _widened(
    eqn: ControlFlow, body: Body, found: Companions, equations: list[Equation], carrying: Sequence[int], first: int
) -> Body:
    """Return the body with the carriers and masks of its ids: its further operands have the numbers from `first` on."""
    program, results = body.program, body.results
    ids = [k for k, v in enumerate(program.inputs) if v in found.inputs]
    made = [results.index(result) for result in carrying]
    for k in made:
        equations += [] if program.outputs[k] in found.carrier else found.zeros(program.outputs[k])
    new_inputs = {k: len(program.inputs) + 2 * n for n, k in enumerate(ids)}
    new_outputs = {k: len(program.outputs) + 2 * n for n, k in enumerate(made)}

    def both(new: dict[int, int], old: frozenset[int]) -> frozenset[int]:
        return old | {new[k] + half for k in new if k in old for half in (0, 1)}

    carried = [
        (new_outputs[turn] + half, new_inputs[start] + half)
        for turn, start in body.carried
        if start in new_inputs
        for half in (0, 1)
    ]
    return Body(
        program=Program(
            (*program.inputs, *(v for k in ids for v in found.pair(program.inputs[k]))),
            {**program.constants, **found.constants},
            tuple(equations),
            (*program.outputs, *(v for k in made for v in found.pair(program.outputs[k]))),
        ),
        operands=(*body.operands, *range(first, first + 2 * len(ids))),
        results=(*results, *range(len(eqn.outputs), len(eqn.outputs) + 2 * len(made))),
        carried=(*body.carried, *carried),
        sliced=both(new_inputs, body.sliced),
        stacked=both(new_outputs, body.stacked),
    )
