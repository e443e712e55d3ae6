"""Arithmetic in any spelling: what cancels, and mixtures of two values by a gate."""

import math

import jax.numpy as jnp

from jrlrp.primitives.row import Op
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.canonical import Writer
from jrlrp.trace.program import Equation, Literal, Region, Var


def reciprocal(w: Writer, eqn: Equation) -> bool:
    """a · (1 / b) is a / b, and a / (1 / b) is a · b."""
    if eqn.op not in (Op.MUL, Op.DIV):
        return False
    for k in (1, 0) if eqn.op is Op.MUL else (1,):
        a, made = eqn.data[1 - k], w.forms.made_by(eqn.data[k], Op.DIV, Op.POWER)
        if made is None or any(v not in w.dependent or v.shape != eqn.output.shape for v in (a, made.data[-1])):
            continue
        if w.forms.inverts(made):
            return w.read_as(eqn, named("div" if eqn.op is Op.MUL else "mul"), [a, made.data[-1]])
    return False


def identity(w: Writer, eqn: Equation) -> bool:
    """(x / s) · s is x, and so is n times a sum over n; a choice that only guards against NaN is its other case."""
    if eqn.op is Op.SELECT and w.facts.interval(eqn.inputs[0]) == (0, 0) and eqn.inputs[1] in w.dependent:
        return w.read_as(eqn, ADDED[Op.IDENTITY], [eqn.inputs[1]])
    if eqn.op not in (Op.MUL, Op.DIV) or not jnp.issubdtype(eqn.output.dtype, jnp.inexact):
        return False
    if not w.forms.may_cancel(eqn.output):
        return False
    number, powers = w.forms.factors(eqn.output)
    if list(powers.values()) != [1.0] or not math.isclose(
        number, 1, rel_tol=8 * float(jnp.finfo(eqn.output.dtype).eps)
    ):
        return False
    ((place, _),) = powers.items()
    x = place.core
    whole = all(d in (k, None) for k, d in enumerate(place.dims))
    if x not in w.dependent or x.shape != eqn.output.shape or x.dtype != eqn.output.dtype or not whole:
        return False
    return x not in eqn.inputs and w.read_as(eqn, ADDED[Op.IDENTITY], [x])


def mixture(w: Writer, eqn: Equation) -> bool:
    """a + g (b − a) is (1 − g) a + g b, and a − g a is (1 − g) a, for a gate g in [0, 1]."""
    if eqn.op not in (Op.ADD, Op.SUB):
        return False
    for k in (0, 1) if eqn.op is Op.ADD else (0,):
        a, product = eqn.data[k], w.forms.made_by(w.forms.plain(eqn.data[1 - k]), Op.MUL)
        if product is None or a not in w.dependent or a.shape != eqn.output.shape:
            continue
        for gate, other in (product.data, product.data[::-1]):
            lo, hi = w.facts.interval(gate)
            if gate not in w.dependent or lo < 0 or hi > 1 + 1e-6 or gate.shape != a.shape:
                continue
            if eqn.op is Op.SUB and w.forms.same(a, other):
                return w.read_as(eqn, named("mul"), [a, _rest(w, gate)])
            difference = w.forms.made_by(w.forms.plain(other), Op.SUB)
            if difference is None:
                continue
            b, back = difference.data if eqn.op is Op.ADD else difference.data[::-1]
            if w.forms.same(a, back) and b in w.dependent and b.shape == a.shape:
                return w.read_as(eqn, named("add"), _mixed(w, a, b, gate))
    return False


def sign(w: Writer, eqn: Equation) -> bool:
    """a − (−b) is a + b, and a + (−b) is a − b."""
    if eqn.op not in (Op.ADD, Op.SUB):
        return False
    for k in (1, 0) if eqn.op is Op.ADD else (1,):
        a, b = eqn.data[1 - k], _negated(w, eqn.data[k])
        if b is not None and all(v in w.dependent and v.shape == eqn.output.shape for v in (a, b)):
            return w.read_as(eqn, named("sub" if eqn.op is Op.ADD else "add"), [a, b])
    return False


def choice_of_negatives(w: Writer, eqn: Equation) -> bool:
    """−min(−x) is max(x), and −sort(−x) sorts x the other way round; what is chosen may be moved before the sign."""
    moves, made = _moved(w, eqn.data[0]) if eqn.op is Op.NEG else ([], None)
    chosen = (moves[-1] if moves else eqn).data[0]
    if made is None or isinstance(made, Region) or chosen is not made.output:
        return False
    opposite = _OPPOSITES.get(made.op)
    alone = all(w.forms.uses[v] <= 1 for v in (eqn.data[0], *(move.data[0] for move in moves)))
    data = [_negated(w, v) for v in made.data] if alone and (opposite is not None or made.op is Op.CHOICE) else [None]
    own = [v for v in data if v is not None]
    if len(own) < len(data):
        return False
    row = made.row if opposite is None else named(opposite)
    choose = lambda *values: -made.bind([-v for v in values])
    if not moves:
        return w.read_as(eqn, row, own, function=choose, **made.params)
    x = w.again(row, own, made, choose)
    *before, last = reversed(moves)
    for move in before:
        x = w.apply(move, x, move.output, move.data_operands[0])
    return w.read_as(eqn, last.row, [x if v is last.data[0] else v for v in last.inputs], last)


_OPPOSITES = {
    Op.MIN: "max",
    Op.MAX: "min",
    Op.MINIMUM: "reduce_max",
    Op.MAXIMUM: "reduce_min",
    Op.WINDOW_MINIMUM: "reduce_window_max",
    Op.WINDOW_MAXIMUM: "reduce_window_min",
}


def _moved(w: Writer, v: Var) -> tuple[list[Equation], Equation | None]:
    """Return the movements that a value went through, the last of them first, and the equation that made it."""
    moves: list[Equation] = []
    v = w.forms.plain(v)
    while (eqn := w.forms.definition.get(v)) is not None and eqn.row.moves and len(eqn.data) == len(eqn.outputs) == 1:
        moves.append(eqn)
        v = w.forms.plain(eqn.data[0])
    return moves, eqn


def _negated(w: Writer, v: Var) -> Var | None:
    """Return −v, if the program has that: v may be −x moved, or −x − y."""
    moves, eqn = _moved(w, v)
    if eqn is None or isinstance(eqn, Region):
        return None
    if eqn.op is Op.NEG:
        x = eqn.data[0]
    elif eqn.op is Op.SUB and (first := w.forms.made_by(eqn.data[0], Op.NEG)) is not None:
        data = [first.data[0], eqn.data[1]]
        if any(y not in w.dependent or y.shape != eqn.output.shape for y in data):
            return None
        x = w.add(named("add"), data, lambda a, b: a + b, eqn.output)
    else:
        return None
    for move in reversed(moves):
        x = w.apply(move, x, move.output, move.data_operands[0])
    return x


def _mixed(w: Writer, a: Var, b: Var, gate: Var) -> list[Var]:
    return [w.add(named("mul"), [x, g], lambda x, g: x * g, x) for x, g in ((a, _rest(w, gate)), (b, gate))]


def _rest(w: Writer, gate: Var) -> Var:
    """Return 1 − g."""
    made = w.forms.made_by(gate, Op.SUB)
    if made is not None and w.forms.number(made.data[0]) == 1 and made.data[1].shape == gate.shape:
        return made.data[1]
    return w.add(named("sub"), [Literal(1.0, gate.dtype), gate], lambda one, g: 1 - g, gate)
