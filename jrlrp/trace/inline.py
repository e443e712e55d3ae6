"""Function → `Program`: one flat list of equations, every call inlined, name stack and source line kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.primitives.register import look_up
from jrlrp.primitives.row import Op, Row
from jrlrp.primitives.table import named, opaque
from jrlrp.trace import compat, custom_call, shards, spellings
from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.program import Added, Equation, Literal, Program, Var


def trace(
    fun: Callable, args: Sequence[Any], declared: Mapping[str, Any] = MappingProxyType({}), keep_custom: bool = False
) -> Program:
    """Trace `fun(*args)`, a function of flat arrays returning a flat list of arrays.

    Calls of the primitives in `declared` stay as they are, with what is declared of them. With `keep_custom`, so do
    calls that bring their own derivative (`jax.custom_jvp`, `jax.custom_vjp`).
    """
    jaxpr, consts = compat.parts(compat.make_jaxpr(fun, args))
    inliner = _Inliner(declared, keep_custom, {})
    inputs = tuple(_variable(v) for v in jaxpr.invars)
    outputs = inliner.inline(jaxpr, consts, inputs, "", "")
    return Program(inputs, inliner.constants, tuple(inliner.equations), tuple(outputs))


@dataclass(frozen=True, eq=False)
class KeptCall(Equation):
    """A call that stays one for its own derivative; `body` is what it computes."""

    @cached_property
    def body(self) -> tuple[Equation, ...]:
        return tuple(inner for eqn in opened(self).equations for inner in computed_by(eqn))


def computed_by(eqn: Equation) -> tuple[Equation, ...]:
    """Return the equations that an equation is computed by, those of kept calls too."""
    return eqn.body if isinstance(eqn, KeptCall) else eqn.flat


def opened(eqn: Equation) -> Program:
    """Return what a kept call calls, with the call's own inputs and outputs."""
    inliner = _Inliner({}, True, {})
    jaxpr, consts = compat.parts(compat.called(eqn.eqn))
    results = inliner.inline(jaxpr, consts, eqn.inputs, eqn.path, eqn.source)
    made = {v for inner in inliner.equations for v in inner.outputs}
    own: dict[Var, Var] = {}
    copies: list[Equation] = []
    for v, out in zip(results, eqn.outputs, strict=True):
        if v in made and v not in own:
            own[v] = out
        else:  # an input, a literal, or an output that there is twice
            cast = lambda x, out=out: [jnp.asarray(x, out.dtype)]
            copies.append(Added(named("copy"), (own.get(v, v),), (out,), {}, eqn.path, eqn.source, None, function=cast))
    equations = (
        replace(inner.reading(own), outputs=tuple(own.get(v, v) for v in inner.outputs)) for inner in inliner.equations
    )
    return Program(eqn.inputs, inliner.constants, (*equations, *copies), eqn.outputs)


def _variable(v: Any) -> Var:
    return Var(v.aval.shape, v.aval.dtype, shards.varying_axes(v.aval))


def _keeps_values(cast: Equation) -> bool:
    """Tell whether a cast rounds no number."""
    (x,), z = cast.inputs, cast.output
    return jnp.issubdtype(x.dtype, jnp.inexact) and jnp.promote_types(x.dtype, z.dtype) == z.dtype


_DEAR = (Op.DOT, Op.CONV)


def _is_heavy(jaxpr: Any) -> bool:
    """Tell whether a jaxpr holds matrix products, convolutions or control flow."""
    for eqn in compat.parts(jaxpr)[0].eqns:
        inner = compat.called(eqn)
        if look_up(eqn.primitive)[0].op in _DEAR or (_is_heavy(inner) if inner is not None else compat.bodies(eqn)):
            return True
    return False


class _Inliner:
    def __init__(self, declared: Mapping[str, Any], keep_custom: bool, mesh: Mapping[str, int]) -> None:
        self.declared, self.keep_custom, self.mesh = declared, keep_custom, mesh
        self.equations: list[Equation] = []
        self.constants: dict[Var, Any] = {}
        self._known: dict[int, Var] = {}
        self._alive: list[Any] = []
        self._made: dict[Var, Equation] = {}

    def constant(self, value: Any, like: Any) -> Var:
        """Return one variable for each distinct array."""
        if id(value) not in self._known:
            v, own = _variable(like), value
            # JAX may remember a NumPy array in double precision, from a trace that allowed it.
            if isinstance(value, np.ndarray) and (dtype := jax.dtypes.canonicalize_dtype(v.dtype)) != v.dtype:
                v, own = Var(v.shape, dtype, v.varying), np.asarray(value).astype(dtype)
            self._known[id(value)] = v
            self._alive.append(value)  # and so its id is no other's
            self.constants[v] = own
        return self._known[id(value)]

    def inline(self, jaxpr: Any, consts: Sequence, inputs: Sequence[Var], path: str, source: str) -> list[Var]:
        # JAX shares variables between the caller's jaxpr and the called one: every call has its own scope.
        scope: dict[Any, Var] = dict(zip(jaxpr.invars, inputs, strict=True))
        scope.update({v: self.constant(c, v) for v, c in zip(jaxpr.constvars, consts, strict=True)})

        def read(atom: Any) -> Var:
            return Literal(atom.val, atom.aval.dtype) if compat.is_literal(atom) else scope[atom]

        for eqn in jaxpr.eqns:
            here = "/".join(part for part in (path, compat.path_of(eqn)) if part)
            line = compat.source_of(eqn) or source
            arguments = [read(v) for v in eqn.invars]
            row, rule, declared = look_up(eqn.primitive, self.declared)
            rule = custom_call.rule_of(eqn) or rule
            kept = declared or rule is not None or (self.keep_custom and eqn.primitive.name in compat.CUSTOM)
            inner, layouts = (None, None) if kept else (compat.called(eqn), compat.bodies(eqn))
            spelled = None if kept else self._spelled(eqn, row)
            if not kept and (pieces := self._pieces(eqn, row, arguments)):
                shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in pieces]
                spelled, arguments = spellings.product_of_pieces(eqn, shapes), pieces
            unread = row.op is Op.OTHER and row.kind == "control" and not kept and inner is None
            if spelled is None and (unread or (row.op is Op.SCATTER and spellings.applies_function(eqn))):
                row = opaque(row)
            if layouts is not None and row.op is Op.REMAT and not _is_heavy(layouts[0][0]):
                # A remat of operations that cost little is a mere call: what stands around them may belong with them.
                inner = layouts[0][0]
            if inner is not None or spelled is not None:
                inner, inner_consts = compat.parts(spelled or inner)
                outputs = self.inline(inner, inner_consts, arguments, here, line)
            elif eqn.primitive.name in compat.IDENTITIES and not kept:
                outputs = arguments
            else:
                outputs = [_variable(v) for v in eqn.outvars]
                params = {**eqn.params, **shards.devices(eqn, self.mesh)} if row.op is Op.COLLECTIVE else eqn.params
                own = (row, tuple(arguments), tuple(outputs), params, here, line, eqn)
                if layouts is None:
                    custom = rule is None and eqn.primitive.name in compat.CUSTOM
                    self._write(KeptCall(*own) if custom else Equation(*own, rule=rule))
                else:
                    mesh = {**self.mesh, **shards.mesh_sizes(eqn)} if row.op is Op.SHARD_MAP else self.mesh
                    bodies = tuple(self._body(*inside, here, line, mesh) for inside in layouts)
                    self._write(ControlFlow(*own, bodies=bodies))
            scope.update(zip(eqn.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _write(self, eqn: Equation) -> None:
        self.equations.append(eqn)
        self._made.update(dict.fromkeys(eqn.outputs, eqn))

    def _spelled(self, eqn: Any, row: Row) -> Any | None:
        """Return a jaxpr of simpler equations in the place of one, None for those that stay."""
        if row.op is Op.SCATTER and spellings.applies_function(eqn):
            return spellings.applied_at(eqn)
        if row.op is Op.PRODUCT and jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact):
            return spellings.product_of_slices(eqn)
        if row.op is Op.FORMULA:
            return jax.make_jaxpr(spellings.FORMULAS[row.name])(*(v.aval for v in eqn.invars))
        if any(shards.varying_axes(v.aval) for v in eqn.invars):  # what has to be told to vary inside a shard_map
            return spellings.reduced(eqn)
        return compat.expanded(eqn) or spellings.reduced(eqn)

    def _pieces(self, eqn: Any, row: Row, arguments: Sequence[Var]) -> list[Var]:
        """Return what is stacked along the one axis over which an equation multiplies; empty if nothing is.

        So `jnp.stack([f, g]).prod(0)` is f · g. A sum over a stack stays a pool: states of a loop have one, too.
        """
        if row.op is not Op.PRODUCT or len(eqn.params["axes"]) != 1:
            return []
        (axis,), made = eqn.params["axes"], self._made.get(arguments[0])
        while made is not None and made.op is Op.CAST and _keeps_values(made):
            made = self._made.get(made.inputs[0])
        if made is None or not all(jnp.issubdtype(v.dtype, jnp.inexact) for v in made.inputs):
            return []
        if made.op is Op.STACK and made.params["axis"] == axis:
            return list(made.inputs)
        joined = made.op is Op.CONCATENATE and made.params["dimension"] == axis
        if joined and all(v.shape[axis] == 1 for v in made.inputs):
            return [self._without_axis(v, axis) for v in made.inputs]
        return []

    def _without_axis(self, v: Var, axis: int) -> Var:
        """Return a value before it was given an axis of size 1, or itself if it was not."""
        made = self._made.get(v)
        if made is None or made.op not in (Op.BROADCAST, Op.RESHAPE):
            return v
        x, dims = made.inputs[0], tuple(d for d in range(v.ndim) if d != axis)
        laid = made.op is Op.RESHAPE or tuple(made.params["broadcast_dimensions"]) == dims
        return x if laid and x.shape == tuple(v.shape[d] for d in dims) else v

    def _body(self, jaxpr: Any, layout: compat.Layout, path: str, source: str, mesh: Mapping[str, int]) -> Body:
        jaxpr, consts = compat.parts(jaxpr)
        inner = _Inliner(self.declared, self.keep_custom, mesh)
        inputs = tuple(_variable(v) for v in jaxpr.invars)
        outputs = inner.inline(jaxpr, consts, inputs, path, source)
        program = Program(inputs, inner.constants, tuple(inner.equations), tuple(outputs))
        return Body(**vars(layout), program=program)
