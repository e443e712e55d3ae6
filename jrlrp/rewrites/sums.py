"""Sums and quotients in any spelling."""

import jax.numpy as jnp

from jrlrp.primitives.row import Op
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.canonical import Writer
from jrlrp.trace.program import Equation, Literal, Region, Var


def moved_reciprocal(w: Writer, eqn: Equation) -> bool:
    """What is moved after it was divided by could have been moved before."""
    if not eqn.row.moves or len(eqn.data) != 1 or eqn.op is Op.CAST:
        return False
    made = w.forms.made_by(w.forms.plain(eqn.data[0]), Op.DIV, Op.POWER)
    if made is None or isinstance(made, Region):
        return False
    if not w.forms.inverts(made):
        return False
    x = made.data[-1]
    if x.shape != made.output.shape or x.dtype != eqn.data[0].dtype:
        return False
    moved = w.apply(eqn, x, eqn.output, eqn.data_operands[0])
    return w.read_as(eqn, named("integer_pow"), [moved], y=-1)


def factor_of_a_sum(w: Writer, eqn: Equation) -> bool:
    """Σ (x · n) is (Σ x) · n, for a number n."""
    scaled = eqn.data[0]
    made = w.forms.made_by(scaled, Op.MUL, Op.DIV) if eqn.op is Op.SUM and w.forms.uses[scaled] <= 1 else None
    if made is None or isinstance(made, Region):
        return False
    for k in (0, 1) if made.op is Op.MUL else (0,):
        x, number = made.data[k], made.data[1 - k]
        if isinstance(number, Literal) and x in w.dependent and x.shape == scaled.shape:
            total = w.apply(eqn, x, eqn.output)
            return w.read_as(eqn, made.row, [total, number] if k == 0 else [number, total])
    return False


def padded(w: Writer, eqn: Equation) -> bool:
    """A convolution, or a sum over windows, of what was padded with zeros pads by itself."""
    if eqn.op not in (Op.CONV, Op.WINDOW_SUM) or isinstance(eqn, Region):
        return False
    conv, p = eqn.op is Op.CONV, eqn.params
    dims = p["dimension_numbers"].lhs_spec[2:] if conv else range(eqn.inputs[0].ndim)
    name = "lhs_dilation" if conv else "base_dilation"
    x, padding, apart = eqn.inputs[0], list(p["padding"]), list(p[name])
    while (made := w.forms.made_by(x, Op.PAD)) is not None and made.data[0] in w.dependent:
        edges = [tuple(edge) for edge in made.params["padding_config"]]
        others = {edge for d, edge in enumerate(edges) if d not in dims} | {(0, 0, 0)}
        if w.facts.interval(made.inputs[1]) != (0, 0) or len(others) > 1 or min(map(min, edges)) < 0:
            break
        for k, d in enumerate(dims):
            low, high, between = edges[d]
            padding[k] = (padding[k][0] + low * apart[k], padding[k][1] + high * apart[k])
            apart[k] *= 1 + between
        x = made.data[0]
    if x is eqn.inputs[0]:
        return False
    like = eqn.with_params(**{"padding": tuple(padding), name: tuple(apart)})
    return w.read_as(eqn, eqn.row, [x, *eqn.inputs[1:]], like=like)


def masked_sum(w: Writer, eqn: Equation) -> bool:
    """A product with a mask, summed as a matrix product is, is the sum of what is masked."""
    contract, batch = eqn.params["dimension_numbers"] if eqn.op is Op.DOT else ((), ((), ()))
    for k, own in enumerate(contract):
        x, mask = eqn.inputs[k], eqn.inputs[1 - k]
        whole = w.forms.mask(mask) is not None and mask.ndim == len(own) and not batch[0]
        in_order = tuple(own) == tuple(sorted(own)) and tuple(contract[1 - k]) == (*range(mask.ndim),)
        if whole and in_order and x in w.dependent:
            masked, axes = _masked(w, eqn, x, mask, tuple(own)), tuple(own)
            return w.read_as(
                eqn, named("reduce_sum"), [masked], function=lambda x, axes=axes: jnp.sum(x, axes), axes=axes
            )
    return False


def _masked(w: Writer, near: Equation, x: Var, mask: Var, dims: tuple[int, ...]) -> Var:
    """Write x times a mask along some of its dimensions."""
    wide = lambda m: jnp.broadcast_to(jnp.expand_dims(m, [d for d in range(x.ndim) if d not in dims]), x.shape)
    like = Var(x.shape, mask.dtype)
    spread = w.add(ADDED[Op.BROADCAST], [mask], wide, like, near=near, broadcast_dimensions=dims)
    return w.add(named("mul"), [x, spread], lambda x, m: x * m, x, near=near)
