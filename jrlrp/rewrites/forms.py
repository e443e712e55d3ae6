"""Values seen through what does not change them: the vocabulary in which rewrites compare two spellings."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.analyses.facts import Facts
from jrlrp.primitives.axes import image
from jrlrp.primitives.row import Axis, Op
from jrlrp.trace.groups import Axes, Group, Segments
from jrlrp.trace.program import Equation, Literal, Var

_MANY = 32  # factors of a product, beyond which its parts are not looked at one by one
_SMALL = 1e-3  # a number added to a sum of parts that is smaller stabilises a division by it, and means nothing else


@dataclass(frozen=True)
class Place:
    """A value as another one seen along other dimensions: dimension d of it is dimension `dims[d]` of `core`."""

    core: Var
    dims: tuple[int | None, ...]

    def seen_at(self, dims: Sequence[int | None]) -> "Place":
        """Return the place of what lies along `dims` of a value that has this place."""
        return Place(self.core, tuple(None if d is None or not self.dims else self.dims[d] for d in dims))


@dataclass(frozen=True)
class Total:
    """What a value is the sum of, over groups, in the dimensions of that value.

    `rest` is what else is added to it, that is the same in a group: a sink of a softmax; None for nothing.
    """

    part: Var
    group: Group
    rest: Var | None = None


class Forms:
    """Reads the equations of one program; `equal` are values that equal an earlier one, each with that one."""

    def __init__(self, facts: Facts, equal: Mapping[Var, Var] = MappingProxyType({})):
        self.facts, self.equal = facts, equal
        self.definition: dict[Var, Equation] = {}
        self.uses: Counter[Var] = Counter()
        self._places: dict[Var, Place] = {}
        self.multiplied: set[Var] = set()  # what the program multiplies or divides
        self._factors: dict[Var, int] = {}  # how many there are, at most
        self._cancelling: set[Var] = set()
        self._indices: dict[Hashable, Var] = {}

    def take(self, eqn: Equation) -> None:
        """Take in the next equation of the program."""
        for v in eqn.outputs:
            self.definition[v] = eqn
            self._places[v] = self._place(eqn, v)
        if self._cancels(eqn):
            self._cancelling.update(eqn.outputs)
        if eqn.op in (Op.MUL, Op.DIV):
            self._factors[eqn.output] = sum(self._factors.get(v, 1) for v in eqn.data)

    def _cancels(self, eqn: Equation) -> bool:
        if eqn.op is Op.DIV or (eqn.row.exponent is not None and eqn.row.exponent(eqn) < 0):
            return True
        passes = eqn.op is Op.MUL or eqn.row.moves or eqn.row.exponent is not None
        return passes and any(v in self._cancelling or self.number(v) is not None for v in eqn.data)

    def may_cancel(self, v: Var) -> bool:
        """Tell whether a product has divisors or numbers in it, so that factors of it may cancel.

        Of a long product the parts are not looked at one by one: the whole is.
        """
        is_part = v in self.multiplied and self.uses[v] <= 1 and self._factors.get(v, 1) > _MANY
        return v in self._cancelling and not is_part

    def made_by(self, v: Var, *ops: Op) -> Equation | None:
        """Return the equation that makes a value, if it is one of these operations."""
        eqn = self.definition.get(v)
        return eqn if eqn is not None and eqn.op in ops else None

    def plain(self, v: Var) -> Var:
        """Return the value before casts between floats, and what changes nothing."""
        while (eqn := self.made_by(v, Op.CAST, Op.IDENTITY)) is not None and _keeps_kind(eqn):
            v = eqn.data[0]
        return v

    def place(self, v: Var) -> Place:
        v = self.equal.get(v, v)
        if isinstance(v, Literal) or v not in self._places:
            return Place(v, self._alive(v, range(v.ndim)))
        return self._places[v]

    def _alive(self, v: Var, dims: range) -> tuple[int | None, ...]:
        varying = self.facts.varying(v)
        return tuple(d if d in varying else None for d in dims)

    def _place(self, eqn: Equation, v: Var) -> Place:
        if len(eqn.data) != 1 or len(eqn.outputs) != 1:
            return Place(v, self._alive(v, range(v.ndim)))
        (x,) = eqn.data
        before = self.place(x)
        if eqn.op in (Op.CAST, Op.STOP, Op.IDENTITY) and _keeps_kind(eqn) and x.shape == v.shape:
            return before
        if eqn.op is Op.ABS and self.facts.interval(x)[0] >= 0:
            return before
        came_from = _dimensions(eqn, x, v)
        if came_from is None:
            return Place(v, self._alive(v, range(v.ndim)))
        return before.seen_at(came_from)

    def same(self, a: Var, b: Var) -> bool:
        """Tell whether two values are equal, entry by entry."""
        return a is b or self.place(a) == self.place(b)

    def number(self, v: Var) -> float | None:
        """Return the number that stands in the program for a value, None if there is none."""
        fact = self.facts[v]
        return fact.interval[0] if fact.number and fact.interval[0] == fact.interval[1] else None

    def mask(self, v: Var) -> Place | None:
        """Return where a number that multiplies others is 1 and else 0, if it is such a mask."""
        place = self.place(v)
        cast = self.made_by(place.core, Op.CAST)
        if cast is not None and cast.inputs[0].dtype == bool:
            return self.place(cast.inputs[0]).seen_at(place.dims)
        known = self.facts.numbers.get(place.core)
        return place if known is not None and known.dtype.kind == "f" and known.min() == 0 else None

    def is_steady(self, v: Var, group: Group | None) -> bool:
        """Tell whether a value, of the dimensions that the group is of, is the same in all of a group."""
        if group is None:
            return False
        if isinstance(group, Axes):
            return not self.facts.varying(v) & group.dims if v.ndim else True
        if not v.ndim or group.dim not in self.facts.varying(v):
            return True
        gathered = self.definition.get(self.place(v).core)
        return gathered is not None and gathered.op is Op.GATHER and self.index(gathered) == group.along

    def index(self, eqn: Equation) -> tuple[Var, int, int] | None:
        """Return the index by which an equation gathers or scatters along one dimension, that, and `Segments.lead`.

        None if the index is another, or entries do not stay where they are along the others.
        """
        d, v, x = eqn.params["dimension_numbers"], eqn.inputs[1], eqn.inputs[0]
        gathers = eqn.op is Op.GATHER
        dims = d.collapsed_slice_dims if gathers else d.inserted_window_dims
        targets = d.start_index_map if gathers else d.scatter_dims_to_operand_dims
        window = d.offset_dims if gathers else d.update_window_dims
        shared = d.start_indices_batching_dims if gathers else d.scatter_indices_batching_dims
        lead = len(d.operand_batching_dims)
        if len(dims) != 1 or tuple(dims) != tuple(targets) or v.ndim != lead + 2 or v.shape[-1] != 1:
            return None
        (dim,) = map(int, dims)
        rest = tuple(k for k in range(lead, x.ndim) if k != dim)
        if tuple(window) != rest or not tuple(d.operand_batching_dims) == tuple(shared) == tuple(range(lead)):
            return None
        while (made := self.definition.get(v)) is not None:
            if made.op in (Op.CAST, Op.RESHAPE, Op.BROADCAST, Op.SQUEEZE) and made.inputs[0].size == v.size:
                v = made.inputs[0]
            elif made.op is Op.SELECT and self._is_wrapped(made):
                v = made.inputs[1]
            else:
                break
        return self._indices.setdefault(self._entries(v), v), dim, lead

    def _entries(self, v: Var) -> Hashable:
        """Return what two indices have in common that are the same: the variable, or the numbers if these are known."""
        known = self.facts.numbers.get(v)
        return v if known is None else (known.shape, known.astype(np.int64).tobytes())

    def _is_wrapped(self, eqn: Equation) -> bool:
        """Tell where(i < 0, i + n, i), as indexing makes it of an index, or where(False, i + n, i)."""
        if self.facts.interval(eqn.inputs[0]) == (0, 0):
            return True
        test, added = self.definition.get(eqn.inputs[0]), self.definition.get(eqn.inputs[2])
        return (
            test is not None
            and added is not None
            and added.op is Op.ADD
            and test.op is Op.LESS
            and test.inputs[0] is eqn.inputs[1]
            and eqn.inputs[1] in added.inputs
        )

    def total(self, v: Var) -> Total | None:
        """Return what a value, brought back to the dimensions of its parts, is the sum of; None if it is no sum."""
        return self.total_at(self.place(v), v.shape)

    def total_at(self, place: Place, shape: tuple[int, ...]) -> Total | None:
        """Return the total that a value seen at a place, in dimensions of a shape, is."""
        eqn = self.definition.get(place.core)
        if not place.dims:  # a scalar is as good as an array of it
            place = Place(place.core, (None,) * len(shape))
        if eqn is None or len(place.dims) != len(shape):
            return None
        if eqn.op in (Op.ADD, Op.MAX, Op.SELECT) and len(eqn.data) == 2:
            return self._stabilised(eqn, place, shape)
        if eqn.op is Op.GATHER:
            return self._segments(eqn, place)
        found = self.summed(place.core)
        if found is None:
            return None
        part, dims, operand = found
        if part.ndim != len(shape):
            return None
        varying = self.facts.varying(eqn.output)
        for d, n in enumerate(part.shape):
            there = None if d in dims or n == 1 else image(eqn, operand, Axis(d, n))
            own = None if there is None or there.dim not in varying else there.dim
            if place.dims[d] != own or (d not in dims and shape[d] not in (1, n)):
                return None
        return Total(part, Axes(frozenset(dims)))

    def summed(self, v: Var) -> tuple[Var, frozenset[int], int] | None:
        """Return what a value is the sum of over whole dimensions, over which, and which operand that is.

        None if it is no such sum.
        """
        eqn = self.definition.get(v)
        if eqn is None:
            return None
        if eqn.op is Op.SUM:
            return eqn.data[0], frozenset(eqn.params["axes"]), 0
        if eqn.op is Op.WINDOW_SUM:
            p, x = eqn.params, eqn.data[0]
            alone = {tuple(pair) for pair in p["padding"]} <= {(0, 0)} and {*p["base_dilation"]} <= {1}
            windows = list(zip(p["window_dimensions"], p["window_strides"], x.shape, strict=True))
            whole = all(w == n or (w == stride == 1) for w, stride, n in windows)
            dims = frozenset(d for d, (w, _, n) in enumerate(windows) if w == n > 1)
            return (x, dims, 0) if alone and whole else None
        if eqn.op is Op.DOT:
            contract, _ = eqn.params["dimension_numbers"]
            for k in (0, 1):
                if self.facts.interval(eqn.inputs[1 - k]) == (1, 1):
                    return eqn.inputs[k], frozenset(contract[k]), k
        return None

    def _stabilised(self, eqn: Equation, place: Place, shape: tuple[int, ...]) -> Total | None:
        """Return the total that a small number, or the sink of a softmax, is added to, or a number stands in for."""
        for a, b in (eqn.data, eqn.data[::-1]):
            number = self.number(b)
            small = self._is_small(b) and self.facts.interval(a)[0] >= 0
            if eqn.op is Op.SELECT:
                small = number is not None and self._guards(eqn, a)
                if not small:
                    continue
            if not small and (eqn.op is Op.MAX or self.facts.interval(b)[0] < 0 or self.facts.interval(a)[0] < 0):
                continue
            inner = self.place(a)
            found = self.total_at(inner.seen_at(place.dims), shape)
            if found is not None and found.rest is None:
                return found if small else Total(found.part, found.group, b)
        return None

    def unstabilised(self, place: Place) -> Place:
        """Return what a small number is added to, or stands in for, seen at the same place; the value itself else."""
        while (eqn := self.made_by(place.core, Op.ADD, Op.MAX)) is not None:
            inner = [a for a, b in (eqn.data, eqn.data[::-1]) if self._is_small(b) and self.facts.interval(a)[0] >= 0]
            if not inner:
                break
            place = self.place(inner[0]).seen_at(place.dims)
        return place

    def _is_small(self, v: Var) -> bool:
        number = self.number(v)
        return number is not None and 0 <= number <= _SMALL

    def _guards(self, eqn: Equation, total: Var) -> bool:
        """Tell whether a choice takes a total wherever that is not 0, or next to it."""
        test = self.made_by(self.place(eqn.inputs[0]).core, Op.EQUAL, Op.LESS, Op.GREATER, Op.COMPARE)
        if test is None:
            return False
        for a, b in (test.inputs, test.inputs[::-1]):
            if self.place(a).core is self.place(total).core and self._is_small(b):
                return True
        return False

    def _segments(self, eqn: Equation, place: Place) -> Total | None:
        """Return the total of segments: what was scattered by an index, gathered by it again."""
        made = self.definition.get(self.plain(eqn.inputs[0]))
        if made is None or made.op is not Op.SCATTER_ADD or self.facts.interval(made.inputs[0]) != (0, 0):
            return None
        along, part = self.index(made), made.inputs[2]
        straight = all(d is None or d == k for k, d in enumerate(place.dims))
        if along is None or self.index(eqn) != along or part.shape != eqn.output.shape or not straight:
            return None
        index, dim, lead = along
        return Total(part, Segments(dim, index, made.output.shape[dim], lead))

    def factors(self, v: Var) -> tuple[float, dict[Place, float]]:
        """Return a number and the powers of the values that a value is the product of."""
        number, powers, pending = 1.0, dict[Place, float](), [(v, 1.0)]
        while pending:
            u, power = pending.pop()
            known = self.number(u)
            if known is not None and (known > 0 or (known and power == int(power))):
                number *= known**power
                continue
            eqn = self.definition.get(self.plain(u))
            if (moved := self._moved_reciprocal(u)) is not None:
                powers[moved] = powers.get(moved, 0.0) - power
            elif eqn is None or not (u is v or self._may_open(eqn, u)):
                powers[self.place(u)] = powers.get(self.place(u), 0.0) + power
            elif eqn.op is Op.MUL:
                pending += [(a, power) for a in eqn.data]
            elif eqn.op is Op.DIV:
                pending += [(eqn.inputs[0], power), (eqn.inputs[1], -power)]
            elif (raised := self._exponent(eqn)) is not None:
                pending.append((eqn.inputs[0], raised * power))
            else:
                powers[self.place(u)] = powers.get(self.place(u), 0.0) + power
        return number, {place: power for place, power in powers.items() if power}

    def inverts(self, eqn: Equation) -> bool:
        """Tell 1 / x, and x to the power of −1."""
        return eqn.row.exponent(eqn) == -1 if eqn.row.exponent is not None else self.number(eqn.inputs[0]) == 1

    def _moved_reciprocal(self, v: Var) -> Place | None:
        """Return what a value is the reciprocal of, seen where that was moved to."""
        place = self.place(v)
        eqn = self.made_by(self.plain(place.core), Op.DIV, Op.POWER) if place.core is not self.plain(v) else None
        if eqn is None or not self.inverts(eqn) or eqn.data[-1].shape != place.core.shape:
            return None
        return self.place(eqn.data[-1]).seen_at(place.dims)

    def _exponent(self, eqn: Equation) -> float | None:
        """Return the exponent of a power that distributes over a product."""
        if eqn.row.exponent is None:
            return None
        exponent = eqn.row.exponent(eqn)
        return exponent if exponent == int(exponent) or self.facts.interval(eqn.inputs[0])[0] >= 0 else None

    def _may_open(self, eqn: Equation, u: Var) -> bool:
        """Tell whether a factor is looked into: it is nothing by itself, used once, or a number's multiple."""
        if eqn.op is Op.POWER or (eqn.op is Op.DIV and self.number(eqn.inputs[0]) is not None):
            return True
        scaled = eqn.op in (Op.MUL, Op.DIV) and any(self.number(v) is not None for v in eqn.inputs)
        return scaled or (self.uses[u] <= 1 and self.uses[eqn.output] <= 1)


def laid_out(x: jax.Array, dims: Sequence[int | None], shape: Sequence[int]) -> jax.Array:
    """Return an array of a shape whose dimension d is dimension `dims[d]` of another, new where that is None."""
    kept = [d for d in dims if d is not None]
    order = sorted(range(len(kept)), key=kept.__getitem__)
    x = x[tuple(slice(None) if d in kept else 0 for d in range(x.ndim))]
    x = jnp.transpose(x, [order.index(k) for k in range(len(kept))])
    return jnp.broadcast_to(jnp.expand_dims(x, [k for k, d in enumerate(dims) if d is None]), shape)


def _keeps_kind(eqn: Equation) -> bool:
    """Tell whether floats stay floats."""
    return jnp.issubdtype(eqn.data[0].dtype, jnp.floating) and jnp.issubdtype(eqn.output.dtype, jnp.floating)


def _dimensions(eqn: Equation, x: Var, v: Var) -> list[int | None] | None:
    """Return which dimension of the operand each of the output's is, None for one that is new; None if they mix."""
    if eqn.op is Op.BROADCAST:
        images = {d: image(eqn, eqn.inputs.index(x), Axis(d, n)) for d, n in enumerate(x.shape)}
        placed = {there.dim: d for d, there in images.items() if there is not None}
        return [placed.get(d) for d in range(v.ndim)]
    if eqn.op is Op.TRANSPOSE:
        return list(eqn.params["permutation"])
    if eqn.op is Op.SQUEEZE or (eqn.op is Op.RESHAPE and _only_ones_differ(x.shape, v.shape)):
        own = [d for d, n in enumerate(x.shape) if n != 1]
        kept = iter(own)
        return [None if n == 1 else next(kept) for n in v.shape]
    return None


def _only_ones_differ(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return [n for n in a if n != 1] == [n for n in b if n != 1]
