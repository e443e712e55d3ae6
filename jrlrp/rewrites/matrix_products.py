"""Matrix products in any spelling: as a sum of products entry by entry, or over nothing."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jrlrp.primitives.row import Op
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.canonical import Writer
from jrlrp.rewrites.forms import Place
from jrlrp.trace.program import Equation, Region, Var


def sum_of_products(w: Writer, eqn: Equation) -> bool:
    """Σ a·b, over axes along which both vary, is a matrix product: of a layer's input with its weights, say."""
    if eqn.op is not Op.SUM:
        return False
    product = w.forms.plain(eqn.data[0])
    made = w.forms.made_by(product, Op.MUL)
    if made is None or isinstance(made, Region) or w.forms.uses[product] > 1 or w.forms.uses[eqn.data[0]] > 1:
        return False
    places = [w.forms.place(v) for v in made.data]
    masked = any(w.forms.mask(v) is not None for v in made.data)
    if masked or w.forms.same(*made.data) or not all(place.dims for place in places):
        return False  # Σ x·x is a statistic
    first, second = ({d for d, k in enumerate(place.dims) if k is not None} for place in places)
    wide = {d for d, n in enumerate(product.shape) if n != 1}
    summed = wide & set(eqn.params["axes"])
    if not summed or not summed <= first & second or first | second != wide:
        return False
    if all(place.core in w.dependent for place in places) and (
        not _are_apart(w, *(place.core for place in places)) or any(_is_product(w, v) for v in made.data)
    ):
        return False  # three factors share alike, in whatever order they are multiplied
    kept = [d for d in range(len(product.shape)) if d not in eqn.params["axes"]]
    operands = [_operand(w, place, made) for place in places]
    turned = operands[::-1]
    if _dimension_numbers(turned, summed, kept)[1] == [*range(len(kept))]:  # as the program has them
        operands = turned
    numbers, dims = _dimension_numbers(operands, summed, kept)

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        dtype = jnp.promote_types(a.dtype, b.dtype)
        return jax.lax.dot_general(a.astype(dtype), b.astype(dtype), numbers, precision=jax.lax.Precision.HIGHEST)

    data = [v for v, _ in operands]
    return w.read_as_turned(eqn, named("dot_general"), data, dot, dims, dimension_numbers=numbers)


def _is_product(w: Writer, v: Var) -> bool:
    """Tell whether a value is itself the product of two that depend on inputs, and nothing else."""
    made = w.forms.made_by(w.forms.plain(v), Op.MUL, Op.DIV)
    return made is not None and all(x in w.dependent for x in made.data) and w.forms.uses[v] == 1


def _are_apart(w: Writer, a: Var, b: Var) -> bool:
    """Tell whether neither of two values is a function of the other entry by entry, as gates are, or a statistic."""
    roots = [_roots(w, v) for v in (a, b)]
    made = [w.forms.definition.get(v) for v in roots[0] | roots[1]]
    return not roots[0] & roots[1] and not any(eqn is not None and eqn.op in _STATISTICS for eqn in made)


_STATISTICS = (Op.SUM, Op.WINDOW_SUM, Op.MAXIMUM, Op.MINIMUM)


def _roots(w: Writer, v: Var) -> set[Var]:
    """Return the values that one is made of by functions of each entry and by movements."""
    roots, pending, seen = set[Var](), [v], set[Var]()
    while pending:
        v = pending.pop()
        if v in seen or v not in w.dependent:
            continue
        seen.add(v)
        eqn = w.forms.definition.get(v)
        if eqn is None or not (eqn.row.pointwise or eqn.row.moves):
            roots.add(v)
        else:
            pending += eqn.operands
    return roots


def _operand(w: Writer, place: Place, product: Equation) -> tuple[Var, list[int]]:
    """Return a factor with only the dimensions that it varies along, and which of the product's these are."""
    own = [d for d, k in enumerate(place.dims) if k is not None]
    if place.core.ndim == len(own):
        return place.core, [place.dims.index(k) for k in range(len(own))]
    shape = tuple(product.output.shape[d] for d in own)
    alone = Place(place.core, tuple(place.dims[d] for d in own))
    return w.laid_out(alone, Var(shape, place.core.dtype), product), own


def _dimension_numbers(
    operands: Sequence[tuple[Var, list[int]]], summed: set[int], kept: Sequence[int]
) -> tuple[tuple, list[int | None]]:
    """Return those of the matrix product of two factors, and which dimension of it each that is kept is."""
    (_, a), (_, b) = operands
    batch = [d for d in a if d in b and d not in summed]
    made = [*batch, *(d for d in a if d not in b), *(d for d in b if d not in a)]
    places = lambda dims: (tuple(map(a.index, dims)), tuple(map(b.index, dims)))
    return (places(sorted(summed)), places(batch)), [made.index(d) if d in made else None for d in kept]


def scaled_factor(w: Writer, eqn: Equation) -> bool:
    """(k · ab) · c is k · (ab · c), so that the factors of a product are one product whatever scales a part of it."""
    if eqn.op not in (Op.MUL, Op.DIV) or any(v not in w.dependent for v in eqn.data):
        return False
    found = [_scales(w, v, eqn.op is Op.DIV and n == 1) for n, v in enumerate(eqn.data)]
    scales = [scale for _, own in found for scale in own]
    if not scales or any(v.shape != eqn.output.shape for v, _ in found):
        return False
    value = w.again(eqn.row, [v for v, _ in found], eqn)
    *before, (op, factors) = scales
    for inner, others in before:
        value = w.again(named(inner), [value, *others], eqn)
    return w.read_as(eqn, named(op), [value, *factors])


def _scales(w: Writer, v: Var, divides: bool) -> tuple[Var, list[tuple[str, list[Var]]]]:
    """Return the product of several values that another is made of by scales alone, and the operations that are those.

    The value itself, and none, if there is no such product.
    """
    core, scales = v, list[tuple[str, list[Var]]]()
    while (made := w.forms.made_by(w.forms.plain(core), Op.MUL, Op.DIV, Op.NEG)) is not None:
        own = [k for k, x in enumerate(made.data) if x in w.dependent]
        if len(own) != 1 or (made.op is Op.DIV and own == [1]) or w.forms.uses[core] > 1:
            break
        scale = "neg" if made.op is Op.NEG else "div" if (made.op is Op.DIV) != divides else "mul"
        scales.append((scale, [x for k, x in enumerate(made.data) if k != own[0]]))
        core = made.data[own[0]]
    if not scales or core.shape != v.shape or not _is_product(w, core):
        return v, []
    factors = w.forms.definition[w.forms.plain(core)].data
    spread = any(k is None and n > 1 for x in factors for k, n in zip(w.forms.place(x).dims, v.shape, strict=True))
    return (v, []) if spread else (core, scales)  # x over a statistic of it is a norm, and its scale the gain


def outer_product(w: Writer, eqn: Equation) -> bool:
    """A matrix product that sums over nothing is a product entry by entry, of its operands spread out."""
    if eqn.op is not Op.DOT or any(eqn.params["dimension_numbers"][0]):
        return False
    _, batch = eqn.params["dimension_numbers"]
    free = [[d for d in range(v.ndim) if d not in own] for v, own in zip(eqn.data, batch, strict=True)]
    first = len(batch[0]), len(batch[0]) + len(free[0])
    spread = []
    for v, shared, own, start in zip(eqn.data, batch, free, first, strict=True):
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
    return w.add(ADDED[Op.BROADCAST], [v], spread, Var(out.shape, v.dtype), to=to, near=eqn)
