"""Shares of a total that divide by it late: (p · v) / Σ p is (p / Σ p) · v, whatever linear lies between.

Attention that divides after its product with the values is one case; weighted means and sums over the edges of a graph
are others.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from jrlrp.primitives.axes import image
from jrlrp.primitives.row import Axis, Op
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.canonical import Writer
from jrlrp.rewrites.forms import Place, Total
from jrlrp.rewrites.softmax import is_sink, logits_of
from jrlrp.trace.groups import Axes, Segments
from jrlrp.trace.program import Equation, Literal, Region, Var

_GOES_THROUGH = (Op.MUL, Op.DOT, Op.SUM, Op.SCATTER_ADD)  # beside what moves values


@dataclass(frozen=True)
class _Way:
    """How the parts of a total come to a product: each equation, and the operand by which they enter it.

    `divisor` is the total, seen in the dimensions of the parts.
    """

    total: Total
    divisor: Place
    steps: tuple[tuple[Equation, int], ...]


def divided_late(w: Writer, eqn: Equation) -> bool:
    """Divide the parts of a total by it where they are made, not after products and sums."""
    if eqn.op not in (Op.DIV, Op.MUL) or isinstance(eqn, Region) or not w.forms.may_cancel(eqn.output):
        return False
    number, powers = w.forms.factors(eqn.output)
    for divisor in [place for place, power in powers.items() if power == -1]:
        part = _part(w, divisor.core)
        for place in [place for place, power in powers.items() if power == 1 and part is not None]:
            rest = {other: power for other, power in powers.items() if other not in (divisor, place)}
            way = _way(w, place, divisor, part) if all(abs(power) == 1 for power in rest.values()) else None
            if way is not None and (way.steps or rest) and (share := _share(w, way, eqn)) is not None:
                return _read_as_product(w, eqn, way, share, place, number, rest)
    return False


def _part(w: Writer, total: Var) -> Var | None:
    """Return what a value is the sum of, whatever stabilises it; None if it is no sum."""
    pending, seen = [total], set[Var]()
    while pending:
        v = pending.pop()
        eqn = w.forms.definition.get(v)
        if v in seen or eqn is None:
            continue
        seen.add(v)
        if (found := w.forms.summed(v)) is not None:
            return found[0]
        if eqn.op is Op.SCATTER_ADD:
            return eqn.inputs[2]
        if eqn.op in (Op.ADD, Op.MAX, Op.SELECT):
            pending += [w.forms.place(u).core for u in eqn.data]
    return None


def _way(w: Writer, place: Place, divisor: Place, part: Var | None) -> _Way | None:
    """Return how a factor is linear in the parts of a total, if all that the total varies along stays apart."""
    at = _brought_back(divisor, place.core.ndim, {k: d for d, k in enumerate(place.dims) if k is not None})
    if part is None or at is None:
        return None
    after = w.position(w.forms.place(part).core)
    pending: list[tuple[Var, Place, _Steps, _Along | None]] = [(place.core, at, None, None)]
    seen = set[Var]()
    while pending:
        v, at, steps, index = pending.pop()
        if v in seen or w.position(w.forms.place(v).core) < after:
            continue
        seen.add(v)
        if (total := _total_over(w, v, part, at, index)) is not None:
            return _Way(total, at, tuple(_unrolled(steps)))
        eqn = w.forms.definition.get(v)
        if eqn is None or not _goes_through(eqn):
            continue
        for k in eqn.row.linear(eqn) if eqn.row.linear is not None else ():
            x = eqn.inputs[k]
            where = {d: there.dim for d, n in enumerate(x.shape) if (there := _whole_image(eqn, k, d, n)) is not None}
            within = index
            if eqn.op is Op.SCATTER_ADD:
                within = w.forms.index(eqn) if k == 2 and index is None else None
                if within is None:
                    continue
                where[within[1]] = within[1]
            before = _brought_back(at, x.ndim, where)
            if before is not None and not isinstance(x, Literal):
                pending.append((x, before, (eqn, k, steps), within))
    return None


# What an equation gathers or scatters by; see `Forms.index`.
_Along = tuple[Var, int, int]
# The equations after a value and the operands by which it enters them, the first of them first.
_Steps = tuple[Equation, int, Any] | None


def _unrolled(steps: _Steps) -> Iterator[tuple[Equation, int]]:
    while steps is not None:
        eqn, k, steps = steps
        yield eqn, k


def _goes_through(eqn: Equation) -> bool:
    if isinstance(eqn, Region):
        return eqn.function is not None
    return eqn.op in _GOES_THROUGH or (eqn.row.moves and len(eqn.outputs) == 1)


def _whole_image(eqn: Equation, k: int, dim: int, size: int) -> Axis | None:
    there = image(eqn, k, Axis(dim, size)) if size > 1 else None
    return there if there is not None and there.is_whole else None


def _brought_back(divisor: Place, ndim: int, where: Mapping[int, int]) -> Place | None:
    """Return a divisor in the dimensions of an operand, `where[d]` being dimension d of it; None if some are gone."""
    if not divisor.dims:
        return Place(divisor.core, (None,) * ndim)
    gone = set(range(len(divisor.dims))) - set(where.values())
    if any(divisor.dims[d] is not None for d in gone):
        return None
    return Place(divisor.core, tuple(divisor.dims[where[d]] if d in where else None for d in range(ndim)))


def _total_over(w: Writer, v: Var, part: Var, divisor: Place, along: _Along | None) -> Total | None:
    """Return what a divisor is in the dimensions of `v`, if that is the part that it is the total of."""
    own, other = w.forms.place(v), w.forms.place(part)
    if own.core is not other.core or [d for d in own.dims if d is not None] != [d for d in other.dims if d is not None]:
        return None
    if along is not None:
        return _segments_over(w, v, divisor, along)
    own_dims, other_dims = ([d for d, k in enumerate(place.dims) if k is not None] for place in (own, other))
    here = dict(zip(other_dims, own_dims, strict=True))  # they may differ in dimensions of size 1
    seen = tuple(divisor.dims[here[d]] if d in here else None for d in range(part.ndim))
    total = w.forms.total_at(Place(divisor.core, seen), part.shape)
    if total is None or not isinstance(total.group, Axes):
        return None
    return Total(v, Axes(frozenset(here[d] for d in total.group.dims if d in here)), total.rest)


def _segments_over(w: Writer, v: Var, divisor: Place, along: _Along) -> Total | None:
    divisor = w.forms.unstabilised(divisor)
    made = w.forms.made_by(divisor.core, Op.SCATTER_ADD)
    straight = all(d is None or d == k for k, d in enumerate(divisor.dims))
    if made is None or not straight or w.forms.index(made) != along or made.inputs[2].shape != v.shape:
        return None
    empty = w.facts.interval(made.inputs[0]) == (0, 0)
    index, dim, lead = along
    return Total(made.inputs[2], Segments(dim, index, made.output.shape[dim], lead)) if empty else None


def _share(w: Writer, way: _Way, eqn: Equation) -> Var | None:
    """Write p / Σ p, as a softmax if p is an exponential; None if p may be negative."""
    part, group = way.total.part, way.total.group
    logits = logits_of(w, part, group)
    if logits is not None and way.total.rest is not None and not is_sink(w, way.total):
        logits = None
    if logits is None and w.facts.interval(part)[0] < 0:
        return None
    if isinstance(group, Segments):
        dim, shape = group.dim, [n if d < group.lead or d == group.dim else 1 for d, n in enumerate(part.shape)]
        dims = tuple(d if k != dim else dim for k, d in enumerate(way.divisor.dims))
        total = w.laid_out(replace(way.divisor, dims=dims), _each(part, group), eqn)
        take = lambda t, i: jnp.take_along_axis(t, i.reshape(shape), axis=dim, mode="fill", fill_value=1)
        total = w.add(ADDED[Op.PICK], [total, group.index], take, part, changed=(dim,), near=eqn)
    else:
        total = w.laid_out(way.divisor, part, eqn)
    if logits is None:
        row = replace(named("div"), interval=lambda eqn, k, x: (0.0, 1.0))
        return w.add(row, [part, total], lambda p, t: p / t, part, near=eqn)
    return w.add_softmax(logits, part, total, group, eqn)


def _each(part: Var, group: Segments) -> Var:
    """Return a variable with an entry for each segment in place of each part."""
    return Var((*part.shape[: group.dim], group.count, *part.shape[group.dim + 1 :]), part.dtype)


def _read_as_product(
    w: Writer,
    eqn: Equation,
    way: _Way,
    share: Var,
    place: Place,
    number: float,
    rest: Mapping[Place, float],
) -> bool:
    """Let an equation's output be what the same products and sums make of shares, times what else it is made of."""
    one = math.isclose(number, 1, rel_tol=8 * float(jnp.finfo(eqn.output.dtype).eps))
    straight = place.core.shape == eqn.output.shape and all(d in (k, None) for k, d in enumerate(place.dims))
    x = share
    for n, (step, k) in enumerate(way.steps):
        data = [x if j == k else v for j, v in enumerate(step.inputs)]
        last = n + 1 == len(way.steps)
        if last and one and straight and not rest:
            if isinstance(step, Region):
                return w.read_as(eqn, step.row, data[: step.count], step, step.function)
            return w.read_as(eqn, step.row, data, step)
        x = w.apply(step, x, step.output, k)
    x = w.laid_out(Place(x, place.dims), eqn.output, eqn)
    others = [(power, w.laid_out(other, eqn.output, eqn)) for other, power in rest.items()]
    return w.read_as(eqn, named("mul"), [x, _product(w, eqn, [] if one else [number], others)])


def _product(w: Writer, eqn: Equation, numbers: Sequence[float], others: Sequence[tuple[float, Var]]) -> Var:
    """Write the product of a number, if there is one, and of values and reciprocals."""
    made: Var = Literal(numbers[0] if numbers else 1.0, eqn.output.dtype)
    for power, v in sorted(others, key=lambda pair: -pair[0]):
        if power < 0:
            made = w.add(named("div"), [made, v], lambda a, b: a / b, v, near=eqn)
        else:
            plain = isinstance(made, Literal) and made.value == 1
            made = v if plain else w.add(named("mul"), [made, v], lambda a, b: a * b, v, near=eqn)
    return made
