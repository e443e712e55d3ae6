"""The softmax family in any spelling: softmax, log-sum-exp, log-softmax, and shares of a total.

A value y is a share if it is t / Σ t over a group of entries (along axes, or in segments), however that is written. If
t is an exponential it is a softmax, of what the exponential is taken of. Whatever is the same in all of a group and
was added before is no part of that: a shift by a maximum, say.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.primitives.axes import image
from jrlrp.primitives.row import Axis, Op
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.canonical import Writer
from jrlrp.rewrites.forms import Place, Total
from jrlrp.trace.groups import Axes, Group
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
    exponent = _unscaled(w, x, factor) or w.add(named("mul"), [x, Literal(factor, x.dtype)], lambda x, c: x * jnp.asarray(c, x.dtype), x)
    return w.read_as(eqn, named("exp"), [exponent], [x])


def _unscaled(w: Writer, x: Var, factor: float) -> Var | None:
    """Return what `x` is, times `factor`, if the two make one: log₂(e) · v, times log(2), is v."""
    made = w.forms.made_by(x, Op.MUL, Op.DIV)
    for v in made.data if made is not None else ():
        other = [u for u in made.inputs if u is not v] if made is not None else []
        number = w.forms.number(other[0]) if len(other) == 1 else None
        if number and math.isclose((number if made.op is Op.MUL else 1 / number) * factor, 1, rel_tol=1e-6):  # type: ignore[union-attr]
            return v
    return None


Masks = frozenset[tuple[Place, bool]]


def share(w: Writer, eqn: Equation) -> bool:
    """t / Σ t, by whatever product or quotient, masked or not."""
    if eqn.op not in (Op.DIV, Op.MUL, Op.SELECT):
        return False
    masks, quotient = _unmasked(w, eqn.output)
    for total, rest in _divisions(w, quotient):
        own, part = _unmasked(w, total.part)
        whole = not masks and _is(w, rest, total.part)
        if (whole or (masks == own and _is(w, rest, part))) and total.part.shape == eqn.output.shape:
            return _as_softmax(w, eqn, total) or _as_share(w, eqn, total)
    return False


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
    for a, b in (eqn.inputs, eqn.inputs[::-1]) if eqn.op is Op.MUL else ():
        place = w.forms.place(b)
        cast = w.forms.made_by(place.core, Op.CAST)
        if cast is not None and cast.inputs[0].dtype == bool and a in w.dependent:
            return (w.forms.place(cast.inputs[0]).seen_at(place.dims), True), a
    return None


def _divisions(w: Writer, v: Var) -> list[tuple[Total, tuple[float, dict[Place, float]]]]:
    """Return the totals that a product is divided by, each with the product of all else."""
    number, powers = w.forms.factors(v)
    found = []
    for place, power in powers.items():
        total = w.forms.total_at(place, v.shape) if power == -1 else None
        if total is not None:
            found.append((total, (number, {p: n for p, n in powers.items() if p != place})))
    return found


def _is(w: Writer, product: tuple[float, dict[Place, float]], v: Var) -> bool:
    """Tell whether a product is a value."""
    eps = 8 * float(jnp.finfo(v.dtype).eps)
    return any(
        product[1] == powers and math.isclose(product[0], number, rel_tol=eps)
        for number, powers in ((1.0, {w.forms.place(v): 1.0}), w.forms.factors(v))
    )


def _as_softmax(w: Writer, eqn: Equation, total: Total) -> bool:
    logits = logits_of(w, total.part, total.group)
    if logits is None or (total.rest is not None and not _is_sink(w, total)):
        return False
    return w.read_as(eqn, ADDED[Op.SOFTMAX], [logits], [total.part], group=total.group)


def _is_sink(w: Writer, total: Total) -> bool:
    """Tell whether what is added to a total depends on explained inputs by the shift of the exponentials alone."""
    rest = total.rest
    assert rest is not None
    if rest not in w.dependent:
        return True
    own, other = (w.forms.made_by(w.forms.plain(w.forms.place(v).core), Op.EXP) for v in (total.part, rest))
    if own is None or other is None:
        return False
    _, shifts = peeled(w, own.data[0], total.group)
    added = _terms_of(w, other.data[0], 1)
    return {term for term in added if term[0] in w.dependent} <= shifts


def _as_share(w: Writer, eqn: Equation, total: Total) -> bool:
    """Note that parts of a total that are not negative lie in [0, 1]."""
    if w.facts.interval(total.part)[0] < 0 or eqn.op is Op.SELECT:
        return False
    w.rewrite(eqn, replace(eqn, row=replace(eqn.row, interval=lambda eqn, k, x: (0.0, 1.0))))
    return True


def logits_of(w: Writer, v: Var, group: Group | None) -> Var | None:
    """Return what a value is the exponential of, but for a factor that is the same in all of a group; None if none.

    Without a group there is no such factor. A masked value is that of −∞; weights of a softmax that were moved or picked are those of the moved logits.
    """
    redo: list[Callable[[Var], Var | None]] = []
    while True:
        v = w.forms.plain(v)
        masks, inner = _unmasked(w, v)
        eqn = w.forms.definition.get(v)
        if masks and inner is not v and eqn is not None:
            redo.append(lambda z, eqn=eqn: _with_mask(w, eqn, z))
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
            v = source[0]
        else:
            return None
    for step in reversed(redo):
        z = None if z is None else step(z)
    return z


def _steady_factor(w: Writer, eqn: Equation, group: Group | None) -> Var | None:
    """Return what an equation multiplies by something positive that is the same in all of a group."""
    for a, b in (eqn.inputs, eqn.inputs[::-1]) if eqn.op is Op.MUL else (eqn.inputs,):
        if a.shape == eqn.output.shape and w.forms.is_steady(b, group) and w.facts.interval(b)[0] >= 0:
            return a
    return None


def _with_mask(w: Writer, eqn: Equation, z: Var) -> Var:
    """Return the logits of a masked value: −∞ where it is 0."""
    low = lambda z: jnp.asarray(-jnp.inf, z.dtype)
    if eqn.op is Op.SELECT:
        k = 1 if w.forms.number(eqn.inputs[1]) == 0 else 2
        choose = lambda p, z: jnp.where(p, *((z, low(z)) if k == 1 else (low(z), z)))
        return w.add(ADDED[Op.SELECT], [eqn.inputs[0], z], choose, z, data=(1,))
    mask = next(v for v in eqn.inputs if w.forms.made_by(w.forms.place(v).core, Op.CAST) is not None)
    return w.add(ADDED[Op.SELECT], [mask, z], lambda m, z: jnp.where(m > 0, z, low(z)), z, data=(1,))


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
    return x, lambda z: w.add(ADDED[Op.GATHER], [z, eqn.outputs[1]], take, v, data=(0,), changed=(axis,))


def unshifted(w: Writer, u: Var, group: Group | None) -> Var:
    """Return a value without anything that was added to it and is the same in all of a group."""
    path: list[tuple[Equation, int, bool]] = []  # from the value down: what is gone through, and whether it stays
    v = u
    while (step := _step_down(w, v, group)) is not None:
        path.append(step)
        v = step[0].inputs[step[1]]
    dropped = [n for n, (_, _, stays) in enumerate(path) if not stays]
    if not dropped:
        return u
    eqn, k, _ = path[dropped[-1]]
    z = eqn.inputs[k]
    for eqn, k, stays in reversed(path[: dropped[-1] + 1]):
        if stays:
            z = w.apply(eqn, z, eqn.output, k)
        elif eqn.op is Op.SUB and k == 1:  # c − x without c
            z = w.add(named("neg"), [z], lambda z: -z, z)
    return z


def _step_down(w: Writer, v: Var, group: Group | None) -> tuple[Equation, int, bool] | None:
    eqn = w.forms.definition.get(v)
    if eqn is None or v not in w.dependent or isinstance(eqn, Region):
        return None
    own = [k for k, x in enumerate(eqn.inputs) if x in w.dependent and x.shape == v.shape]
    if eqn.op in (Op.ADD, Op.SUB):
        for k in own:
            if w.forms.is_steady(eqn.inputs[1 - k], group):
                return eqn, k, False
        return next(((eqn, k, True) for k in own if _is_shifted(w, eqn.inputs[k], group)), None)
    if eqn.op in (Op.CAST, Op.NEG) and own == [0]:
        return eqn, 0, True
    if eqn.op in (Op.MUL, Op.DIV):
        for k in own if eqn.op is Op.MUL else own[:1]:
            if (eqn.op is Op.MUL or k == 0) and w.forms.is_steady(eqn.inputs[1 - k], group):
                return eqn, k, True
    if eqn.op is Op.SELECT and len(own) == 1 and own[0] > 0 and len(eqn.inputs) == 3:
        other = w.forms.number(eqn.inputs[3 - own[0]])
        if other is not None and other < -1e3:
            return eqn, own[0], True
    return None


def _is_shifted(w: Writer, v: Var, group: Group | None) -> bool:
    eqn = w.forms.made_by(w.forms.plain(v), Op.ADD, Op.SUB)
    return eqn is not None and any(w.forms.is_steady(x, group) for x in eqn.inputs)


def peeled(w: Writer, u: Var, group: Group) -> tuple[Var, frozenset[tuple[Var, int]]]:
    """Return a value without its shifts, and the values that these are, each with its sign."""
    shifts: list[tuple[Var, int]] = []
    while (step := _step_down(w, w.forms.plain(u), group)) is not None and not step[2]:
        eqn, k, _ = step
        if eqn.op is Op.SUB and k == 1:
            break
        shifts += _terms_of(w, eqn.inputs[1 - k], -1 if eqn.op is Op.SUB else 1)
        u = eqn.inputs[k]
    return w.forms.plain(u), frozenset(shifts)


def _terms_of(w: Writer, v: Var, sign: int) -> list[tuple[Var, int]]:
    """Return what a value is the sum of, by the values that these are copies of."""
    found, pending = [], [(v, sign)]
    while pending:
        v, sign = pending.pop()
        core = w.forms.place(v).core
        eqn = w.forms.made_by(core, Op.ADD, Op.SUB, Op.NEG)
        if eqn is None or isinstance(eqn, Region):
            found.append((core, sign))
        elif eqn.op is Op.NEG:
            pending.append((eqn.inputs[0], -sign))
        else:
            pending += [(eqn.inputs[0], sign), (eqn.inputs[1], sign if eqn.op is Op.ADD else -sign)]
    return found


def log_sum_exp(w: Writer, eqn: Equation) -> bool:
    """log Σ exp(x), and that with what was taken from x before added again."""
    if eqn.op is Op.LOG:
        core = w.forms.place(eqn.data[0]).core
        found = w.forms.summed(core)
        if found is None or found[0].ndim < eqn.output.ndim:
            return False
        part, dims, _ = found
        rows = math.prod(n for d, n in enumerate(part.shape) if d not in dims)
        logits = logits_of(w, part, None) if eqn.output.size == rows else None
        return logits is not None and w.read_as(
            eqn, ADDED[Op.LOG_SUM_EXP], [logits], [part], group=Axes(dims), shift=()
        )
    if eqn.op not in (Op.ADD, Op.SUB):
        return False
    for k, v in enumerate(eqn.inputs):
        made = w.forms.made_by(w.forms.place(v).core, Op.LOG_SUM_EXP)
        if made is None or (eqn.op is Op.SUB and k == 1) or len(made.data) > 1:
            continue
        base, shifts = peeled(w, made.data[0], made.params["group"])
        back = {(core, -sign) for core, sign in _terms_of(w, eqn.inputs[1 - k], 1 if eqn.op is Op.ADD else -1)}
        if shifts and back == shifts and eqn.output.size == made.output.size:
            logits = unshifted(w, made.data[0], made.params["group"])
            return w.read_as(eqn, made.row, [logits], [base], group=made.params["group"])
    return _log_softmax(w, eqn)


def _log_softmax(w: Writer, eqn: Equation) -> bool:
    """x − log Σ exp(x), or its negative, whatever both were shifted by: a sum of the two."""
    for x, total, sign in ((*eqn.inputs, 1), (*eqn.inputs[::-1], -1)) if eqn.op is Op.SUB else ():
        made = w.forms.made_by(w.forms.place(total).core, Op.LOG_SUM_EXP)
        if made is None or len(made.data) > 1 or x.shape != eqn.output.shape or x.shape != made.data[0].shape:
            continue
        group = made.params["group"]
        if not w.forms.is_steady(total, group):
            continue
        (base, shifts), (own, others) = peeled(w, x, group), peeled(w, made.data[0], group)
        if w.forms.same(base, own) and shifts == others and shifts:
            logits = unshifted(w, x, group)
            axes = tuple(sorted(group.dims))
            rows = Var(tuple(1 if d in axes else n for d, n in enumerate(x.shape)), x.dtype)
            function = lambda x: jax.nn.logsumexp(x, axis=axes, keepdims=True)
            scale = w.add(ADDED[Op.LOG_SUM_EXP], [logits], function, rows, changed=axes, group=group)
            scale = w.add(ADDED[Op.BROADCAST], [scale], lambda s: jnp.broadcast_to(s, x.shape), x, changed=axes)
            return w.read_as(eqn, named("sub"), [logits, scale] if sign > 0 else [scale, logits], [base])
    return False


def log_add_exp(w: Writer, eqn: Equation) -> bool:
    """log(exp(a) + exp(b)), by max(a, b) + log1p(exp(−|a − b|))."""
    for a, b in (eqn.inputs, eqn.inputs[::-1]) if eqn.op is Op.ADD else ():
        larger, rest = w.forms.made_by(w.forms.plain(a), Op.MAX), w.forms.made_by(w.forms.plain(b), Op.LOG1P)
        chain = rest
        for op in (Op.EXP, Op.NEG, Op.ABS, Op.SUB):
            chain = chain and w.forms.made_by(w.forms.plain(chain.inputs[0]), op)
        if larger is None or chain is None or set(chain.inputs) != set(larger.inputs):
            continue
        if all(v in w.dependent and v.shape == eqn.output.shape for v in chain.inputs):
            return w.read_as(eqn, ADDED[Op.LOG_SUM_EXP], list(chain.inputs), group=None)
    return False


def exponential_of_logarithm(w: Writer, eqn: Equation) -> bool:
    """exp(x − log Σ exp(x)) is a softmax."""
    made = w.forms.made_by(w.forms.plain(eqn.data[0]), Op.SUB) if eqn.op is Op.EXP else None
    if made is None or len(made.data) != 2:
        return False
    x, total = made.data
    scale = w.forms.made_by(w.forms.place(total).core, Op.LOG_SUM_EXP)
    if scale is None or len(scale.data) != 1 or not w.forms.same(x, scale.data[0]):
        return False
    group = scale.params["group"]
    if x.shape != eqn.output.shape or not w.forms.is_steady(total, group):
        return False
    return w.read_as(eqn, ADDED[Op.SOFTMAX], [unshifted(w, x, group)], [x], group=group)


def shift_under_exponential(w: Writer, eqn: Equation) -> bool:
    """x − max x under an exponential that belongs to no softmax: a shift that is no layer."""
    if eqn.op is not Op.EXP:
        return False
    made = w.forms.made_by(eqn.data[0], Op.SUB)
    if made is None or isinstance(made, Region) or made.inputs[0].shape != made.output.shape:
        return False
    x, shift = made.inputs
    if x not in w.dependent or not _is_maximum(w, shift):
        return False
    return w.read_as(made, ADDED[Op.IDENTITY], [x])


_KEEPS_MAXIMUM = (Op.CAST, Op.STOP, Op.SELECT, Op.MAX, Op.MIN, Op.CLAMP, Op.GATHER, Op.BROADCAST, Op.RESHAPE, Op.SQUEEZE)
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
