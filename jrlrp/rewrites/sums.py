"""Sums and quotients in any spelling."""

import jax.numpy as jnp

from jrlrp.primitives.row import Op
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.canonical import Writer
from jrlrp.trace.program import Equation, Region, Var


def moved_reciprocal(w: Writer, eqn: Equation) -> bool:
    """What is moved after it was divided by could have been moved before."""
    if not eqn.row.moves or len(eqn.data) != 1 or eqn.op is Op.CAST:
        return False
    made = w.forms.made_by(w.forms.plain(eqn.data[0]), Op.DIV, Op.POWER)
    if made is None or isinstance(made, Region):
        return False
    number = w.forms.number(made.inputs[0]) if made.op is Op.DIV else 1.0
    if number != 1 or (made.op is Op.POWER and made.row.exponent(made) != -1):  # type: ignore[misc]
        return False
    x = made.data[-1]
    if x.shape != made.output.shape or x.dtype != eqn.data[0].dtype:
        return False
    moved = w.apply(eqn, x, eqn.output, eqn.data_operands[0])
    return w.read_as(eqn, named("integer_pow"), [moved], y=-1)


def masked_sum(w: Writer, eqn: Equation) -> bool:
    """A product with a mask, summed as a matrix product is, is the sum of what is masked."""
    contract, batch = eqn.params["dimension_numbers"] if eqn.op is Op.DOT else ((), ((), ()))
    for k, own in enumerate(contract):
        x, mask = eqn.inputs[k], eqn.inputs[1 - k]
        cast = w.forms.made_by(w.forms.place(mask).core, Op.CAST)
        whole = cast is not None and cast.inputs[0].dtype == bool and mask.ndim == len(own) and not batch[0]
        in_order = tuple(own) == tuple(sorted(own)) and tuple(contract[1 - k]) == (*range(mask.ndim),)
        if whole and in_order and x in w.dependent:
            return w.read_as(eqn, named("reduce_sum"), [_masked(w, eqn, x, mask, tuple(own))], axes=tuple(own))
    return False


def _masked(w: Writer, near: Equation, x: Var, mask: Var, dims: tuple[int, ...]) -> Var:
    """Write x times a mask along some of its dimensions."""
    wide = lambda m: jnp.broadcast_to(jnp.expand_dims(m, [d for d in range(x.ndim) if d not in dims]), x.shape)
    like = Var(x.shape, mask.dtype)
    spread = w.add(ADDED[Op.BROADCAST], [mask], wide, like, near=near, broadcast_dimensions=dims)
    return w.add(named("mul"), [x, spread], lambda x, m: x * m, x, near=near)
