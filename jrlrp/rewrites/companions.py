"""The carriers of a program's integers, and where those become numbers; see `carriers`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.analyses.facts import Facts
from jrlrp.primitives.axes import image, varying_along
from jrlrp.primitives.row import Axis, Op
from jrlrp.primitives.table import ADDED
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.program import Added, Equation, Region, Var


@dataclass(frozen=True)
class Code:
    """Numbers that code ids by nothing but numbers of the program, as a one-hot code does; without their carrier.

    `beside` are the carrier and the mask that they have, which differ along the dimensions `varying` alone.
    """

    plain: Var
    beside: tuple[Var, Var]
    varying: frozenset[int]


@dataclass(frozen=True)
class Spread:
    """How a carrier spreads over an equation's output: its values, and where its axes go."""

    value: Callable
    places: Callable


class Companions:
    """The carrier of each variable of a program that has one, and beside each carrier a mask: how many ids it sums.

    Attributes:
      varying: along which dimensions carriers differ, where that is not all of them.
      fixed: those variables that are computed from ids, and numbers of the program, alone.
      codes: such variables that are floats.
      constants: those of calls that were opened.
    """

    def __init__(self, ids: Sequence[Var], facts: Facts, fixed: Sequence[Var]):
        self.facts, self.inputs = facts, tuple(ids)
        self.carrier = {v: like(v.shape) for v in ids}
        self.mask = {carrier: like(carrier.shape) for carrier in self.carrier.values()}
        self.varying: dict[Var, frozenset[int]] = {}
        self.fixed, self.codes = set(fixed), dict[Var, Code]()
        self.constants: dict[Var, Any] = {}

    def ones(self) -> list[Equation]:
        """Return the equations of the inputs' masks."""

        def one(ids):
            return [0 * ids.astype(np.float32) + 1]

        return [
            Added(ADDED[Op.FULL], (ids,), (self.mask[carrier],), {}, "", "", None, one)
            for ids, carrier in self.carrier.items()
        ]

    def beside(self, eqn: Equation, inputs: Sequence[Var], function: Callable, places: Callable) -> list[Equation]:
        """Return an equation with those of its outputs' carriers and masks, `function` of those among `inputs`."""
        pairs = [self.new(v) for v in eqn.outputs]
        carriers, masks = zip(*pairs, strict=True)
        masked = tuple(self.mask.get(v, v) for v in inputs)
        rest = (eqn.path, eqn.source, None, function, places)
        return [
            eqn,
            Added(ADDED[Op.CARRY], tuple(inputs), carriers, {}, *rest),
            Added(ADDED[Op.CARRY], masked, masks, {}, *rest),
        ]

    def new(self, v: Var) -> tuple[Var, Var]:
        """Return a new carrier of a variable, and its mask."""
        carrier, mask = like(v.shape), like(v.shape)
        self.carrier[v], self.mask[carrier] = carrier, mask
        return carrier, mask

    def pair(self, v: Var) -> tuple[Var, Var]:
        """Return the carrier and the mask of a variable."""
        return self.carrier[v], self.mask[self.carrier[v]]

    def zeros(self, v: Var) -> list[Equation]:
        """Return the equations of a carrier and mask for a variable that depends on no explained id."""
        zero = lambda like: [jnp.zeros(v.shape, np.float32) + 0 * jnp.asarray(like).astype(np.float32)]
        return [Added(ADDED[Op.FULL], (v,), (made,), {}, "", "", None, zero) for made in self.new(v)]

    def look_at(self, eqn: Equation) -> None:
        """Take in what an equation of the program makes."""
        if self.fixed.intersection(eqn.inputs) and all(v in self.fixed or self.facts[v].fixed for v in eqn.inputs):
            self.fixed.update(eqn.outputs)

    def differs(self, v: Var) -> frozenset[int]:
        """Return along which dimensions the carrier of a variable differs."""
        every = frozenset(d for d, n in enumerate(v.shape) if n > 1)
        return every & self.varying.get(self.carrier[v], every) if v in self.carrier else frozenset()

    def add_code(self, plain: Var, out: Var, varying: frozenset[int]) -> tuple[Var, Var]:
        """Take a variable for a code, and return its carrier and mask, new ones."""
        beside = like(out.shape), like(out.shape)
        self.codes[out] = Code(plain, beside, varying)
        return beside


def like(shape: tuple[int, ...]) -> Var:
    return Var(shape, np.dtype(np.float32))


def broadcast_to(shape: tuple[int, ...]) -> Spread:
    def places(axis):
        return axis if axis.dim < len(shape) and axis.size * axis.inner * axis.outer == shape[axis.dim] else None

    return Spread(lambda c: jnp.broadcast_to(c, shape), places)


def differing(v: Var, companions: Companions, *inputs: Var) -> frozenset[int]:
    """Return along which dimensions of a value the carriers of `inputs`, broadcast to it, differ."""
    found = (d for u in inputs for d in companions.differs(u) if u.shape[d] > 1)
    return frozenset(found) if all(u.ndim == v.ndim for u in inputs) else frozenset(range(v.ndim))


def moved_along(eqn: Equation, k: int, varying: frozenset[int]) -> frozenset[int]:
    """Return along which dimensions the k-th operand differs when it is moved, given it of the operand."""
    v, every = eqn.inputs[k], frozenset(d for d, n in enumerate(eqn.output.shape) if n > 1)
    if not eqn.row.constancy:
        return every
    found = varying_along(eqn, [varying if n == k else frozenset() for n in range(len(eqn.inputs))])
    there = [image(eqn, k, Axis(d, v.shape[d])) for d in range(v.ndim) if d not in varying]
    return (every if found is None else found) - {axis.dim for axis in there if axis is not None and axis.is_whole}


def become_numbers(
    eqn: Equation,
    carried: Sequence[int],
    companions: Companions,
    spread: Spread,
    along: frozenset[int] | None = None,
) -> list[Equation]:
    """Add the mean of the carriers to the numbers that ids become, so that the ids share their relevance.

    Where all else that the numbers are made of is fixed, they are a code; `along` is where its carriers differ.
    """
    carriers = [companions.carrier[eqn.inputs[k]] for k in carried]
    masks = [companions.mask[c] for c in carriers]
    equations = _with_carriers(eqn, carriers, masks, companions, spread)
    if along is None or eqn.output not in companions.fixed:
        return equations
    total = lambda *values: [sum(map(spread.value, values))]
    beside = companions.add_code(equations[0].output, eqn.output, along)
    return [
        *equations,
        *(
            _carrying(eqn, part, out, total, lambda k, axis: spread.places(axis))
            for part, out in zip((carriers, masks), beside, strict=True)
        ),
    ]


def _carrying(eqn: Equation, inputs: Sequence[Var], out: Var, function: Callable, places: Callable) -> Equation:
    return Added(ADDED[Op.CARRY], tuple(inputs), (out,), {}, eqn.path, eqn.source, None, function, places)


def _with_carriers(
    eqn: Equation, carriers: Sequence[Var], masks: Sequence[Var], companions: Companions, spread: Spread
) -> list[Equation]:
    """Return an equation with the mean of carriers added to its output."""
    number = Var(eqn.output.shape, eqn.output.dtype)

    def mean(values):  # before any cast, so that the cotangent is summed in the carrier's precision
        total, count = (sum(map(spread.value, part)) for part in (values[: len(carriers)], values[len(carriers) :]))
        return total / jnp.maximum(count, 1)

    def share(x, *values):
        carried = mean(values).astype(x.dtype)
        return [x + carried]

    def places(operand, axis):
        return axis if operand == 0 else spread.places(axis)

    inputs = (number, *carriers, *masks)
    lookup = Added(ADDED[Op.EMBEDDING], inputs, eqn.outputs, {}, eqn.path, eqn.source, None, share, places)
    return [replace(eqn, outputs=(number,)), lookup]


def decode(eqn: Equation, companions: Companions) -> list[Equation]:
    """Return an equation that reads a code of ids, with what it makes of the code.

    A product with a matrix along an axis that only the code has, not its ids, is a look-up in the matrix.
    """
    (k, *others) = [k for k, v in enumerate(eqn.inputs) if v in companions.codes]
    if others or len(eqn.outputs) != 1 or eqn.rule is not None or isinstance(eqn, ControlFlow):
        return [eqn]
    code = companions.codes[eqn.inputs[k]]

    if isinstance(eqn, Region):
        if eqn.op is Op.IDENTITY and k == 0:
            companions.codes[eqn.output] = code
        return [eqn]

    def read_from(v: Var) -> tuple[Var, ...]:
        return tuple(v if n == k else u for n, u in enumerate(eqn.inputs))

    plainly = replace(eqn, inputs=read_from(code.plain))
    if eqn.op is Op.DOT:
        spread = _contracted(eqn, k, code)
        carrier, mask = code.beside
        return [eqn] if spread is None else _with_carriers(plainly, [carrier], [mask], companions, spread)
    if not (eqn.row.moves and list(eqn.data_operands) == [k] and jnp.issubdtype(eqn.output.dtype, jnp.floating)):
        return [eqn]
    plain = Var(eqn.output.shape, eqn.output.dtype)
    beside = companions.add_code(plain, eqn.output, moved_along(eqn, k, code.varying))
    move = (lambda *values: [values[k]]) if eqn.op is Op.CAST else (lambda *values: eqn.bind_all(values))
    carrying = (
        _carrying(eqn, read_from(v), out, move, lambda operand, axis: image(eqn, operand, axis))
        for v, out in zip(code.beside, beside, strict=True)
    )
    return [eqn, replace(plainly, outputs=(plain,)), *carrying]


def _contracted(eqn: Equation, k: int, code: Code) -> Spread | None:
    """Return how a code's carrier spreads over its product with a matrix; None if the product is no look-up."""
    shape, out, gone = eqn.inputs[k].shape, eqn.output.shape, eqn.params["dimension_numbers"][0][k]
    if not gone or code.varying.intersection(gone) or not all(shape[d] for d in gone):
        return None
    index = tuple(0 if d in gone else slice(None) for d in range(len(shape)))
    there = [image(eqn, k, Axis(d, shape[d])) for d in range(len(shape)) if d not in gone]
    to = [axis.dim for axis in there if axis is not None]
    order = sorted(range(len(to)), key=to.__getitem__)
    value = lambda c: jax.lax.broadcast_in_dim(jnp.transpose(c[index], order), out, sorted(to))
    return Spread(value, lambda axis: image(eqn, k, axis)) if len(to) == len(there) else None
