"""The softmax family in any spelling: softmax, log-sum-exp, log-softmax, and shares of a total.

A value y is a share if it is t / Σ t over a group of entries (along axes, or in segments), however that is written. If
t is an exponential it is a softmax, of what the exponential is taken of. Whatever is the same in all of a group and
was added before is no part of that: a shift by a maximum, say.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np

from jrlrp.primitives.axes import image
from jrlrp.primitives.row import Axis, Op
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.canonical import Writer
from jrlrp.rewrites.forms import Place, Total
from jrlrp.rewrites.shifts import peeled, terms_of, unshifted
from jrlrp.trace.groups import Axes, Group
from jrlrp.trace.program import Equation, Literal, Var

Masks = frozenset[tuple[Place, bool]]
Product = tuple[float, dict[Place, float]]  # a number, and the powers of values


def share(w: Writer, eqn: Equation) -> bool:
    """t / Σ t, by whatever product or quotient, masked or not."""
    if eqn.op not in (Op.DIV, Op.MUL, Op.SELECT):
        return False
    masks, quotient = _unmasked(w, eqn.output)
    for total, rest in _divisions(w, quotient):
        if total.part.shape != eqn.output.shape:
            continue
        own, part = _unmasked(w, total.part)
        whole = not masks and _is(w, rest, total.part)
        further, inner = _unmasked_product(w, rest)
        if whole or (masks | further == own and _is(w, inner, part)):
            return _as_softmax(w, eqn, total) or _as_share(w, eqn, total)
    return False


def _unmasked_product(w: Writer, product: Product) -> tuple[Masks, Product]:
    """Return the masks of a product that is one value, and that value without them."""
    number, powers = product
    if list(powers.values()) != [1.0]:
        return frozenset(), product
    ((place, _),) = powers.items()
    masks, inner = _unmasked(w, place.core)
    whole = all(d in (k, None) for k, d in enumerate(place.dims))
    return (masks, (number, {w.forms.place(inner): 1.0})) if masks and whole else (frozenset(), product)


def _unmasked(w: Writer, v: Var) -> tuple[Masks, Var]:
    """Return a value without the masks that make some of its entries 0, by choice or by product."""
    masks: set[tuple[Place, bool]] = set()
    while (eqn := w.forms.made_by(w.forms.plain(v), Op.SELECT, Op.MUL)) is not None:
        found = _mask(w, eqn)
        if found is None:
            break
        masks.add(found[0])
        v = found[1]
    return frozenset(masks), v


def _mask(w: Writer, eqn: Equation) -> tuple[tuple[Place, bool], Var] | None:
    """Return the mask that an equation applies to a value, and that value."""
    if eqn.op is Op.SELECT and len(eqn.inputs) == 3:
        for k, kept in ((1, 2), (2, 1)):
            if w.forms.number(eqn.inputs[k]) == 0:
                return (w.forms.place(eqn.inputs[0]), kept == 2), eqn.inputs[kept]
    for a, b in (eqn.data, eqn.data[::-1]) if eqn.op is Op.MUL else ():
        mask = w.forms.mask(b) if a in w.dependent else None
        if mask is not None:
            return (mask, True), a
    return None


def _divisions(w: Writer, v: Var) -> list[tuple[Total, Product]]:
    """Return the totals that a product is divided by, each with the product of all else."""
    if not w.forms.may_cancel(v):
        return []
    number, powers = w.forms.factors(v)
    found = []
    for place, power in powers.items():
        total = w.forms.total_at(place, v.shape) if power == -1 else None
        if total is not None:
            found.append((total, (number, {p: n for p, n in powers.items() if p != place})))
    return found


def _is(w: Writer, product: Product, v: Var) -> bool:
    """Tell whether a product is a value."""
    eps = 8 * float(jnp.finfo(v.dtype).eps)
    return any(
        product[1] == powers and math.isclose(product[0], number, rel_tol=eps)
        for number, powers in ((1.0, {w.forms.place(v): 1.0}), w.forms.factors(v))
    )


def _as_softmax(w: Writer, eqn: Equation, total: Total) -> bool:
    logits = logits_of(w, total.part, total.group)
    if logits is None or (total.rest is not None and not is_sink(w, total)):
        return False
    return w.read_as(eqn, ADDED[Op.SOFTMAX], [logits], group=total.group)


def is_sink(w: Writer, total: Total) -> bool:
    """Tell whether what is added to a total depends on explained inputs by the shift of the exponentials alone."""
    rest = total.rest
    assert rest is not None
    if rest not in w.dependent:
        return True
    own, other = (w.forms.made_by(w.forms.plain(w.forms.place(v).core), Op.EXP) for v in (total.part, rest))
    if own is None or other is None:
        return False
    _, shifts, _ = peeled(w, own.data[0], total.group)
    added = terms_of(w, other.data[0], 1)
    return {term for term in added if term[0] in w.dependent} <= shifts


def _as_share(w: Writer, eqn: Equation, total: Total) -> bool:
    """Note that parts of a total that are not negative lie in [0, 1]."""
    if w.facts.interval(total.part)[0] < 0 or eqn.op is Op.SELECT:
        return False
    w.rewrite(eqn, replace(eqn, row=replace(eqn.row, interval=lambda eqn, k, x: (0.0, 1.0))))
    return True


def logits_of(w: Writer, v: Var, group: Group | None) -> Var | None:
    """Return what a value is the exponential of, but for a factor that is the same in all of a group; None if none.

    Without a group there is no such factor. A masked value is that of −∞; weights of a softmax that were moved or
    picked are those of the moved logits.
    """
    redo: list[Callable[[Var], Var | None]] = []
    while True:
        v = w.forms.plain(v)
        masks, inner = _unmasked(w, v)
        eqn = w.forms.definition.get(v)
        if masks and inner is not v and eqn is not None:
            redo.append(partial(_with_mask, w, eqn))
            found = _mask(w, eqn)
            assert found is not None
            v = found[1]
        elif eqn is None:
            return None
        elif eqn.op is Op.EXP:
            z: Var | None = unshifted(w, eqn.data[0], group)
            break
        elif eqn.op is Op.SOFTMAX and eqn.params["group"] == group:
            z = eqn.data[0]
            break
        elif eqn.op in (Op.MUL, Op.DIV) and (kept := _steady_factor(w, eqn, group)) is not None:
            v = kept
        elif (source := _picked_from(w, eqn, v, group)) is not None:
            redo.append(source[1])
            v, group = source[0], _before(eqn, source[0], group)
        else:
            return None
    for step in reversed(redo):
        z = None if z is None else step(z)
    return z


def _before(eqn: Equation, x: Var, group: Group | None) -> Group | None:
    """Return a group of what an equation moves or picks in the dimensions of what it does that to; None if it mixes."""
    if not isinstance(group, Axes):
        return group
    k, out = eqn.inputs.index(x), eqn.output
    there = [image(eqn, k, Axis(d, n)) if n > 1 else None for d, n in enumerate(x.shape)]
    came = {axis.dim: d for d, axis in enumerate(there) if axis is not None and axis.is_whole}
    if x.ndim == out.ndim:  # a part of a dimension was taken
        came.update({d: d for d in range(out.ndim) if d not in came and d not in came.values()})
    wide = {d for d in group.dims if out.shape[d] > 1}
    return Axes(frozenset(came[d] for d in wide)) if wide <= came.keys() else None


def _steady_factor(w: Writer, eqn: Equation, group: Group | None) -> Var | None:
    """Return what an equation multiplies by something positive that is the same in all of a group."""
    for a, b in (eqn.data, eqn.data[::-1]) if eqn.op is Op.MUL else (eqn.inputs[:2],):
        if a.shape == eqn.output.shape and w.forms.is_steady(b, group) and w.facts.interval(b)[0] >= 0:
            return a
    return None


def _with_mask(w: Writer, eqn: Equation, z: Var) -> Var:
    """Return the logits of a masked value: −∞ where it is 0."""
    low = Literal(-np.inf, z.dtype)
    choose = lambda p, a, b: jnp.where(p, jnp.asarray(b, z.dtype), jnp.asarray(a, z.dtype))
    if eqn.op is Op.SELECT:
        first = w.forms.number(eqn.inputs[1]) == 0
        return w.add(named("select_n"), [eqn.inputs[0], *((low, z) if first else (z, low))], choose, z)
    mask = next(v for v in eqn.data if w.forms.mask(v) is not None)
    kept = w.add(named("gt"), [mask, Literal(0.0, mask.dtype)], lambda m, zero: m > zero, Var(z.shape, np.dtype(bool)))
    return w.add(named("select_n"), [kept, low, z], choose, z)


def _picked_from(w: Writer, eqn: Equation, v: Var, group: Group | None) -> tuple[Var, Callable[[Var], Var]] | None:
    """Return the softmax's weights that an equation moves or picks, and how it would move the logits."""
    if not isinstance(group, Axes) or len(eqn.data) != 1 or not (eqn.row.moves or eqn.op is Op.CHOICE):
        return None
    (x,) = eqn.data
    made = w.forms.made_by(w.forms.plain(x), Op.SOFTMAX, Op.EXP)
    if made is None:
        return None
    if made.op is Op.SOFTMAX:  # its total must be the same in all of the new group
        own = made.params["group"]
        if not isinstance(own, Axes):
            return None
        for d in w.facts.varying(x) - own.dims:
            there = image(eqn, 0, Axis(d, x.shape[d]))
            if there is None or not there.is_whole or there.dim in group.dims:
                return None
    if eqn.row.moves:
        return x, lambda z: w.apply(eqn, z, v)
    if len(eqn.outputs) != 2 or v is not eqn.outputs[0] or "k" not in eqn.params:
        return None
    axis = eqn.params.get("axis", x.ndim - 1)
    take = lambda z, i: jnp.take_along_axis(z, i.astype(np.int32), axis=axis)
    return x, lambda z: w.add(ADDED[Op.PICK], [z, eqn.outputs[1]], take, v, changed=(axis,))
