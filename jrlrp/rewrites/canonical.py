"""The canonical program: one form for all spellings of the same mathematics, before anything is recognised.

Equations are read in order, and some are read as another operation: a quotient as a softmax, say. A value keeps its
variable, and is computed as the user's program computes it (see `Region`); only what it means changes. What is read
later sees what was read before.
"""

import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from jrlrp.analyses.activity import dependent_on
from jrlrp.analyses.facts import Facts
from jrlrp.primitives import axes as at
from jrlrp.primitives.row import Op, Row
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.forms import Forms, Place, laid_out
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.groups import Group, Segments
from jrlrp.trace.program import Added, Equation, Literal, Program, Region, Var

# A rewrite gets the writer and an equation; it returns whether it gave the equation's output another meaning.
Rewrite = Callable[["Writer", Equation], bool]


def canonical(program: Program, explained: Iterable[Var], passes: Sequence[Sequence[Rewrite]]) -> Program:
    """Return the program with each equation read as what it means.

    Args:
      program: the program.
      explained: its inputs that are explained.
      passes: what to try with each equation in turn, in one pass after the other.
    """
    explained = tuple(explained)
    for rewrites in passes:
        program = _rewritten(program, Facts(program), dependent_on(program, explained), rewrites)
    return program


def _rewritten(program: Program, facts: Facts, dependent: set[Var], rewrites: Sequence[Rewrite]) -> Program:
    writer = Writer(program, facts, dependent)
    for eqn in program.equations:
        eqn = eqn.reading(writer.same)
        if isinstance(eqn, ControlFlow):
            bodies = (_rewritten(body.program, facts, dependent, rewrites) for body in eqn.bodies)
            pairs = zip(eqn.bodies, bodies, strict=True)
            eqn = replace(eqn, bodies=tuple(replace(body, program=inner) for body, inner in pairs))
            writer.write(eqn)
        elif not writer.merge(eqn):
            writer.write(eqn)
            if _is_value(eqn) and eqn.output in dependent:
                for rewrite in rewrites:
                    if rewrite(writer, eqn):
                        eqn = writer.forms.definition[eqn.output]
    outputs = tuple(writer.same.get(v, v) for v in program.outputs)
    return replace(program, equations=tuple(writer.equations), outputs=outputs)


def expanded(program: Program) -> Program:
    """Return the program with the user's equations in the place of regions."""
    equations: list[Equation] = []
    made: set[Var] = set()
    for eqn in program.equations:
        if isinstance(eqn, ControlFlow):
            eqn = replace(eqn, bodies=tuple(replace(body, program=expanded(body.program)) for body in eqn.bodies))
        for inner in eqn.flat:
            if not made.intersection(inner.outputs):
                equations.append(inner)
                made.update(inner.outputs)
    return replace(program, equations=tuple(equations))


def _is_value(eqn: Equation) -> bool:
    """Tell whether an equation makes one array of numbers, by means that the library knows."""
    return len(eqn.outputs) == 1 and jnp.issubdtype(eqn.output.dtype, jnp.inexact) and eqn.rule is None


class Writer:
    """A program being written.

    Attributes:
      equations: what is written so far.
      forms: reads it.
      same: for each variable that is gone, an equal one that takes its place.
      dependent: the variables whose values depend on the explained inputs.
    """

    def __init__(self, program: Program, facts: Facts, dependent: set[Var]):
        self.equations: list[Equation] = []
        self.facts, self.dependent = facts, dependent
        self._equal: dict[Var, Var] = {}
        self.forms = Forms(facts, self._equal)
        self.same: dict[Var, Var] = {}
        self.forms.uses.update(v for eqn in program.equations for v in eqn.inputs)
        self.forms.uses.update(program.outputs)
        self.forms.multiplied.update(v for eqn in program.equations if eqn.op in _PRODUCTS for v in eqn.inputs)
        self._position: dict[Var, int] = {}
        self._clock = 0
        self._written: set[Var] = set()  # what the user's program does not have
        self._seen: dict[Hashable, Equation] = {}

    def write(self, eqn: Equation) -> None:
        self._clock += 1
        self._position.update(dict.fromkeys(eqn.outputs, self._clock))
        self.equations.append(eqn)
        self.forms.take(eqn)

    def merge(self, eqn: Equation) -> bool:
        """Let the outputs of an equation be those of an equal one before it, and tell whether it is gone.

        A layer that is applied twice stays two layers, as the turns of a loop are; but its outputs are known as equal.
        """
        key = _key(eqn, self._equal)
        earlier = eqn if key is None else self._seen.setdefault(key, eqn)
        if earlier is eqn:
            return False
        if eqn.row.kind in _LAYERS:
            self._equal.update(zip(eqn.outputs, earlier.outputs, strict=True))
            return False
        self.same.update(zip(eqn.outputs, earlier.outputs, strict=True))
        for v, kept in zip(eqn.outputs, earlier.outputs, strict=True):
            self.forms.uses[kept] += self.forms.uses[v]
        return True

    def add(
        self,
        row: Row,
        inputs: Sequence[Var],
        function: Callable,
        like: Var,
        *,
        changed: Sequence[int] = (),
        to: Sequence[int] | None = None,
        near: Equation | None = None,
        **params: Any,
    ) -> Var:
        """Write a new equation of a value that the program does not have, and return its variable.

        Args:
          row: what it computes.
          inputs: its operands.
          function: computes it, from their values.
          like: a variable of the output's shape and dtype.
          near: the equation with whose path and source it goes, the one that makes `like` if none is given.
          changed: the dimensions that are others than the operands'.
          to: where each dimension of the operands is in the output; None if it stays where it is.
          params: what the row asks of the equation.
        """

        def places(operand: int, axis: Any) -> Any:
            if to is None and (inputs[operand].ndim != out.ndim or axis.dim in changed):
                return None
            dim = axis.dim if to is None else to[axis.dim]
            return replace(axis, dim=dim) if inputs[operand].shape[axis.dim] == out.shape[dim] else None

        out = Var(like.shape, like.dtype)
        near = self.forms.definition.get(like) if near is None else near
        path, line = (near.path, near.source) if near is not None else ("", "")
        row = replace(row, axes=at.AS_TOLD)
        self._take(Added(row, tuple(inputs), (out,), params, path, line, None, lambda *x: [function(*x)], places))
        return out

    def again(self, row: Row, data: Sequence[Var], like: Equation, function: Callable | None = None) -> Var:
        """Write an operation like that of an equation, with its parameters, and return its variable."""
        function = _FUNCTIONS[row.op] if function is None else function
        out = Var(like.output.shape, like.output.dtype)
        own = (row, tuple(data), (out,), like.params, like.path, like.source)
        self._take(Added(*own, None, lambda *values: [function(*values)]))
        return out

    def add_softmax(self, logits: Var, part: Var, total: Var, group: Group, near: Equation) -> Var:
        """Write a softmax of logits that is computed as part / total, and return its variable."""
        out = Var(part.shape, part.dtype)
        share = lambda p, t: [(p / t).astype(p.dtype)]
        divide = Added(named("div"), (part, total), (out,), {}, near.path, near.source, None, share)
        held = (part, total, *([group.index] if isinstance(group, Segments) else []))
        row, params = ADDED[Op.SOFTMAX], {"group": group}
        self._take(Region(row, (logits, *held), (out,), params, near.path, near.source, None, equations=(divide,)))
        return out

    def position(self, v: Var) -> int:
        """Return when a value was written; -1 for the inputs and constants of the program."""
        return self._position.get(v, -1)

    def laid_out(self, place: Place, like: Var, near: Equation) -> Var:
        """Write what is seen at a place, in the shape of another variable, and return its variable."""
        core, dims = place.core, place.dims or (None,) * like.ndim
        if core.shape == like.shape and all(d in (k, None) for k, d in enumerate(dims)):
            return core
        to = [dims.index(d) if d in dims else 0 for d in range(core.ndim)]
        lay_out = lambda x: laid_out(x, dims, like.shape)
        return self.add(ADDED[Op.BROADCAST], [core], lay_out, Var(like.shape, core.dtype), to=to, near=near)

    def apply(self, eqn: Equation, x: Var, like: Var, k: int = 0) -> Var:
        """Write an equation again with another k-th operand, and return what it makes in place of `like`."""
        outputs = tuple(Var(v.shape, x.dtype if not _changes_dtype(eqn) else v.dtype) for v in eqn.outputs)
        inputs = tuple(x if n == k else v for n, v in enumerate(eqn.inputs))
        self._take(eqn.again(inputs, outputs))
        return outputs[eqn.outputs.index(like)]

    def _take(self, eqn: Equation) -> None:
        self.facts.add(eqn)
        if any(v in self.dependent for v in eqn.inputs):
            self.dependent.update(eqn.outputs)
        self.forms.uses.update([*eqn.inputs, *eqn.outputs])
        self._written.update(eqn.outputs)
        self.write(eqn)

    def rewrite(self, old: Equation, new: Equation) -> None:
        """Write an equation in the place of another that makes the same variable."""
        k = next(k for k in range(len(self.equations) - 1, -1, -1) if self.equations[k].outputs == old.outputs)
        self.facts.add(new)
        if any(v in new.inputs for later in self.equations[k + 1 :] for v in later.outputs):
            del self.equations[k]
            self.write(new)
        else:
            self.equations[k] = new
            self.forms.take(new)

    def read_as(
        self,
        eqn: Equation,
        row: Row,
        data: Sequence[Var],
        like: Equation | None = None,
        function: Callable | None = None,
        **params: Any,
    ) -> bool:
        """Let an equation's output mean another operation.

        Args:
          eqn: the last of the equations that compute it.
          row: the operation.
          data: the variables that it is a function of; all else is held.
          like: an equation of the same primitive with the same parameters, by which a rule may apply it.
          function: applies it, where there is no such equation and a rule may need to: a linear map.
          params: what the row asks of the equation, if there is no such one.
        """
        params = params if like is None else like.params
        function = _FUNCTIONS.get(row.op) if like is None and function is None else function
        self.rewrite(eqn, self._region(eqn, row, data, params, function, None if like is None else like.eqn))
        return True

    def read_as_turned(
        self,
        eqn: Equation,
        row: Row,
        data: Sequence[Var],
        function: Callable,
        dims: Sequence[int | None],
        **params: Any,
    ) -> bool:
        """Let an equation's output mean what an operation makes, dimension d of it being dimension `dims[d]` of that.

        A dimension of size 1 is new where `dims` says None.
        """
        (out,) = eqn.outputs
        kept = {k: d for d, k in enumerate(dims) if k is not None}
        order = [kept[k] for k in range(len(kept))]
        if order == list(range(out.ndim)):
            return self.read_as(eqn, row, data, function=function, **params)
        turned = Var(tuple(out.shape[d] for d in order), out.dtype)
        back, path, line = lambda x: [laid_out(x, order, turned.shape)], eqn.path, eqn.source
        there = lambda operand, axis: None if dims[axis.dim] is None else replace(axis, dim=dims[axis.dim])
        turn = Added(ADDED[Op.BROADCAST], (out,), (turned,), {}, path, line, None, back, there)
        region = self._region(eqn, row, data, params, function, None)
        self._take(replace(region, outputs=(turned,), equations=(*region.equations, turn)))
        lay_out = lambda x: [laid_out(x, dims, out.shape)]
        places = lambda operand, axis: replace(axis, dim=order[axis.dim])
        self.rewrite(eqn, Added(ADDED[Op.BROADCAST], (turned,), (out,), {}, path, line, None, lay_out, places))
        return True

    def _region(
        self, eqn: Equation, row: Row, data: Sequence[Var], params: dict, function: Callable | None, applied: Any
    ) -> Region:
        """Return the region that ends at an equation; `applied` is the jaxpr's equation by which a rule applies it."""
        inner = self._between(self._sources(data), eqn)
        made = {v for e in inner for v in e.outputs}
        read = dict.fromkeys(v for e in inner for v in e.inputs if not isinstance(v, Literal))
        group = params.get("group")
        if isinstance(group, Segments):
            read[group.index] = None
        held = tuple(v for v in read if v not in made and v not in data)
        own = (row, (*data, *held), eqn.outputs, params, eqn.path, eqn.source, applied)
        return Region(*own, equations=inner, count=len(data), function=function)

    def _sources(self, data: Sequence[Var]) -> list[Var]:
        """Return variables with those of the user's program that they were written from."""
        found, pending = [], list(data)
        while pending:
            v = pending.pop()
            found.append(v)
            if v in self._written:
                pending += [u for u in self.forms.definition[v].inputs if u in self.dependent]
        return found

    def _between(self, start: Sequence[Var], eqn: Equation) -> tuple[Equation, ...]:
        """Return the equations by which `start` comes to an equation's output, in order, that equation the last."""
        first = min((self._position.get(v, -1) for v in start), default=-1)
        reaches: dict[Var, bool] = dict.fromkeys(start, True)
        found: dict[int, Equation] = {}
        pending = [v for v in eqn.inputs if v in self._position]
        order: list[Var] = []
        while pending:  # all that comes after the start and before the equation, made of cheap operations
            v = pending.pop()
            if v in reaches or self._position[v] <= first:
                continue
            reaches[v] = False
            order.append(v)
            inner = self.forms.definition[v]
            if v in self.dependent and _is_cheap(inner):
                pending += [u for u in inner.inputs if u in self._position]
        for v in sorted(order, key=self._position.__getitem__):
            inner = self.forms.definition[v]
            if _is_cheap(inner) and any(reaches.get(u) for u in inner.inputs):
                reaches[v] = True
                found[self._position[v]] = inner
        return (*(found[k] for k in sorted(found)), eqn)


def _changes_dtype(eqn: Equation) -> bool:
    return eqn.op is Op.CAST and eqn.inputs[0].dtype != eqn.output.dtype


# The functions of operations that need not be given with them.
_FUNCTIONS: Mapping[Op, Callable] = {
    Op.ADD: operator.add,
    Op.SUB: operator.sub,
    Op.MUL: operator.mul,
    Op.DIV: operator.truediv,
    Op.NEG: operator.neg,
    Op.IDENTITY: lambda x: x,
}
_PRODUCTS = (Op.MUL, Op.DIV)
_LAYERS = ("dense", "conv", "linear", "average_pool")
_DEAR = frozenset({Op.DOT, Op.CONV, Op.SCAN, Op.COND, Op.WHILE, Op.REMAT, Op.SHARD_MAP})


def _is_cheap(eqn: Equation) -> bool:
    """Tell whether an equation may be computed again within another: it neither multiplies matrices nor loops."""
    return eqn.op not in _DEAR and eqn.row.kind not in ("opaque", "linear") and eqn.rule is None


def equal_values(program: Program) -> dict[Var, Var]:
    """Return the values that equal an earlier one (those of a layer that is applied twice, say), each with that one."""
    seen: dict[Hashable, Equation] = {}
    equal: dict[Var, Var] = {}
    for eqn in program.equations:
        key = _key(eqn, equal)
        earlier = eqn if key is None else seen.setdefault(key, eqn)
        if earlier is not eqn:
            equal.update(zip(eqn.outputs, earlier.outputs, strict=True))
    return equal


def _key(eqn: Equation, equal: Mapping[Var, Var]) -> Hashable | None:
    """Return what two equations that compute the same have in common; None for those that may have effects."""
    if eqn.has_effects or eqn.rule is not None or (not eqn.inputs and eqn.op is not Op.COUNT):
        return None
    operands: list[Hashable] = [
        ("number", str(v.value), str(v.dtype)) if isinstance(v, Literal) else equal.get(v, v) for v in eqn.inputs
    ]
    if eqn.op in (Op.ADD, Op.MUL, Op.MAX, Op.MIN):  # the order of two operands does not matter
        operands.sort(key=lambda operand: (isinstance(operand, tuple), id(operand) if isinstance(operand, Var) else 0))
    shapes = tuple((v.shape, str(v.dtype)) for v in eqn.outputs)
    try:
        params = frozenset(eqn.params.items())
        hash(params)
    except TypeError:
        return None
    return eqn.row.name, tuple(operands), params, shapes
