"""Arithmetic in any spelling: what cancels, and mixtures of two values by a gate."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jrlrp.primitives.row import Op
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.canonical import Writer
from jrlrp.trace.program import Equation, Literal, Var


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
    """a + g (b − a) is (1 − g) a + g b, for a gate g in [0, 1]."""
    if eqn.op not in (Op.ADD, Op.SUB):
        return False
    for k in (0, 1) if eqn.op is Op.ADD else (0,):
        a, product = eqn.inputs[k], w.forms.made_by(w.forms.plain(eqn.inputs[1 - k]), Op.MUL)
        if product is None or a not in w.dependent:
            continue
        for gate, other in (product.inputs, product.inputs[::-1]):
            difference = w.forms.made_by(w.forms.plain(other), Op.SUB)
            lo, hi = w.facts.interval(gate)
            if difference is None or gate not in w.dependent or lo < 0 or hi > 1 + 1e-6 or gate.shape != a.shape:
                continue
            b, back = difference.inputs if eqn.op is Op.ADD else difference.inputs[::-1]
            if w.forms.same(a, back) and b in w.dependent and b.shape == a.shape == eqn.output.shape:
                return w.read_as(eqn, named("add"), _mixed(w, a, b, gate))
    return False


def sign(w: Writer, eqn: Equation) -> bool:
    """a − (−b) is a + b, and a + (−b) is a − b."""
    if eqn.op not in (Op.ADD, Op.SUB):
        return False
    for k in (1, 0) if eqn.op is Op.ADD else (1,):
        a, made = eqn.inputs[1 - k], w.forms.made_by(eqn.inputs[k], Op.NEG)
        if made is None or any(v not in w.dependent or v.shape != eqn.output.shape for v in (a, made.data[0])):
            continue
        return w.read_as(eqn, named("sub" if eqn.op is Op.ADD else "add"), [a, made.data[0]])
    return False


def outer_product(w: Writer, eqn: Equation) -> bool:
    """A matrix product that sums over nothing is a product entry by entry, of its operands spread out."""
    if eqn.op is not Op.DOT or any(eqn.params["dimension_numbers"][0]):
        return False
    _, batch = eqn.params["dimension_numbers"]
    free = [[d for d in range(v.ndim) if d not in own] for v, own in zip(eqn.inputs, batch, strict=True)]
    first = len(batch[0]), len(batch[0]) + len(free[0])
    spread = []
    for v, shared, own, start in zip(eqn.inputs, batch, free, first, strict=True):
        to = {**{d: n for n, d in enumerate(shared)}, **{d: start + n for n, d in enumerate(own)}}
        spread.append(_spread(w, eqn, v, [to[d] for d in range(v.ndim)]))
    return w.read_as(eqn, named("mul"), spread)


def _spread(w: Writer, eqn: Equation, v: Var, to: Sequence[int]) -> Var:
    """Return a value with its dimensions at `to` among those of an equation's output."""
    out = eqn.output
    if v.shape == out.shape and list(to) == list(range(out.ndim)):
        return v
    order = sorted(range(v.ndim), key=to.__getitem__)
    spread = lambda x: jax.lax.broadcast_in_dim(jnp.transpose(x, order), out.shape, [to[d] for d in order])
    return w.add(named("broadcast_in_dim"), [v], spread, Var(out.shape, v.dtype), to=to, near=eqn)


def _mixed(w: Writer, a: Var, b: Var, gate: Var) -> list[Var]:
    rest = w.add(named("sub"), [Literal(1.0, gate.dtype), gate], lambda one, g: 1 - g, gate)
    return [w.add(named("mul"), [x, g], lambda x, g: x * g, x) for x, g in ((a, rest), (b, gate))]
