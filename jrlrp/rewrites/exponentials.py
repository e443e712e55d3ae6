"""Exponentials in any spelling, and the shifts under them that are no layers."""

import math

import jax.numpy as jnp

from jrlrp.primitives.row import Op
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.canonical import Writer
from jrlrp.trace.program import Equation, Literal, Region, Var


def exponential(w: Writer, eqn: Equation) -> bool:
    """A power of a constant is an exponential: a^x = exp(x log a)."""
    if eqn.op is Op.EXP2:
        base, x = 2.0, eqn.inputs[0]
    elif eqn.op is Op.POW and (number := w.forms.number(eqn.inputs[0])) is not None and number > 0:
        base, x = number, eqn.inputs[1]
    else:
        return False
    if x not in w.dependent or x.shape != eqn.output.shape or not jnp.issubdtype(x.dtype, jnp.floating):
        return False
    factor = math.log(base)
    exponent = _unscaled(w, x, factor)
    if exponent is None:
        scale = Literal(factor, x.dtype)
        exponent = w.add(named("mul"), [x, scale], lambda x, c: x * jnp.asarray(c, x.dtype), x)
    return w.read_as(eqn, named("exp"), [exponent])


def exponential_less_one(w: Writer, eqn: Equation) -> bool:
    """expm1(x) + 1 is an exponential."""
    for k, v in enumerate(eqn.inputs) if eqn.op is Op.ADD else ():
        made = w.forms.made_by(w.forms.plain(v), Op.EXPM1)
        if made is not None and w.forms.number(eqn.inputs[1 - k]) == 1 and v.shape == eqn.output.shape:
            return w.read_as(eqn, named("exp"), [made.data[0]])
    return False


def _unscaled(w: Writer, x: Var, factor: float) -> Var | None:
    """Return what `x` is, times `factor`, if the two make one: log₂(e) · v, times log(2), is v."""
    made = w.forms.made_by(x, Op.MUL, Op.DIV)
    for v in made.data if made is not None else ():
        other = [u for u in made.inputs if u is not v] if made is not None else []
        number = w.forms.number(other[0]) if len(other) == 1 else None
        if number and math.isclose((number if made.op is Op.MUL else 1 / number) * factor, 1, rel_tol=1e-6):  # type: ignore[union-attr]
            return v
    return None


def shift_under_exponential(w: Writer, eqn: Equation) -> bool:
    """x − max x under an exponential that belongs to no softmax: a shift that is no layer."""
    if eqn.op is not Op.EXP:
        return False
    v = eqn.data[0]
    while (made := w.forms.made_by(v, Op.NEG, Op.CAST, Op.MUL, Op.DIV)) is not None:
        own = [x for x in made.data if x in w.dependent]
        if len(own) != 1 or any(w.forms.number(x) is None for x in made.data if x not in own):
            break
        v = own[0]
    made = w.forms.made_by(v, Op.SUB)
    if made is None or isinstance(made, Region):
        return False
    for k, x in enumerate(made.inputs):
        if x in w.dependent and x.shape == v.shape and _is_maximum(w, made.inputs[1 - k]):
            return w.read_as(made, ADDED[Op.IDENTITY] if k == 0 else named("neg"), [x])
    return False


_KEEPS_MAXIMUM = (
    Op.CAST,
    Op.STOP,
    Op.SELECT,
    Op.MAX,
    Op.MIN,
    Op.CLAMP,
    Op.GATHER,
    Op.BROADCAST,
    Op.RESHAPE,
    Op.SQUEEZE,
)
_MAXIMA = (Op.MAXIMUM, Op.MINIMUM, Op.SCATTER_MAX, Op.CHOICE, Op.COLLECTIVE, Op.WINDOW_MAXIMUM)


def _is_maximum(w: Writer, v: Var) -> bool:
    """Tell whether a value is a maximum of others, held or not."""
    pending, seen = [v], set()
    while pending:
        v = pending.pop()
        eqn = w.forms.definition.get(v)
        if eqn is None or v in seen or v not in w.dependent:
            continue
        seen.add(v)
        if eqn.op in _MAXIMA or (eqn.op is Op.MAX and all(x in w.dependent for x in eqn.inputs)):
            return True
        if eqn.op in _KEEPS_MAXIMUM or eqn.row.moves:
            pending += eqn.data if eqn.op is not Op.STOP else eqn.inputs
    return False
