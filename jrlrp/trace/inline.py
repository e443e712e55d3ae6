"""Function → `Program`: one flat list of equations, every call inlined, name stack and source line kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from jrlrp.trace import compat, custom_call


class Var:
    """A value of the program, known by its identity."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.shape, self.dtype = tuple(shape), dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __repr__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Literal(Var):
    """A scalar that is known when the program is traced."""

    __slots__ = ("value",)

    def __init__(self, value: Any, dtype: Any):
        super().__init__((), dtype)
        self.value = value


@dataclass(frozen=True, eq=False)
class Equation:
    """One primitive applied to variables, with the module path and the user's line it came from.

    `declared` is what was said of it for this call alone: a kind or a rule; None for nothing.
    """

    primitive: str
    inputs: tuple[Var, ...]
    outputs: tuple[Var, ...]
    params: dict[str, Any]
    path: str
    source: str
    eqn: Any = field(repr=False)
    declared: Any = field(default=None, repr=False, kw_only=True)

    @property
    def output(self) -> Var:
        return self.outputs[0]

    @property
    def has_effects(self) -> bool:
        return bool(self.eqn is not None and self.eqn.effects)

    def run(self, values: Sequence[Any]) -> list[Any]:
        """Evaluate the equation as the user's program does."""
        return compat.run(self.eqn, values)

    def bind(self, values: Sequence[Any], **overrides: Any) -> Any:
        """Apply the primitive to other values (of other dtypes, say) and return its first output."""
        return self.bind_all(values, **overrides)[0]

    def bind_all(self, values: Sequence[Any], **overrides: Any) -> list[Any]:
        """Apply the primitive to other values and return all of its outputs."""
        return compat.bind(self.eqn, values, **overrides)


@dataclass(frozen=True, eq=False)
class Added(Equation):
    """An equation that the library puts into a program.

    `function` returns its outputs in a list; `places(operand, axis)` says where an operand's axis is in the output,
    None if nowhere.
    """

    function: Callable = field(repr=False, default=lambda *values: values)
    places: Callable = field(repr=False, default=lambda operand, axis: None)

    def run(self, values: Sequence[Any]) -> list[Any]:
        return self.function(*values)


@dataclass(frozen=True, eq=False)
class Program:
    """A flat program; `constants` are the arrays that the traced function closed over."""

    inputs: tuple[Var, ...]
    constants: dict[Var, Any]
    equations: tuple[Equation, ...]
    outputs: tuple[Var, ...]


def trace(
    fun: Callable, args: Sequence[Any], declared: Mapping[str, Any] = MappingProxyType({}), keep_custom: bool = False
) -> Program:
    """Trace `fun(*args)`, a function of flat arrays returning a flat list of arrays.

    Calls of the primitives in `declared` stay as they are, with what is declared of them. With `keep_custom`, so do
    calls that bring their own derivative (`jax.custom_jvp`, `jax.custom_vjp`).
    """
    jaxpr, consts = compat.parts(compat.make_jaxpr(fun, args))
    inliner = _Inliner(declared, keep_custom)
    inputs = tuple(_variable(v) for v in jaxpr.invars)
    outputs = inliner.inline(jaxpr, consts, inputs, "", "")
    return Program(inputs, inliner.constants, tuple(inliner.equations), tuple(outputs))


def _variable(v: Any) -> Var:
    return Var(v.aval.shape, v.aval.dtype)


class _Inliner:
    def __init__(self, declared: Mapping[str, Any], keep_custom: bool) -> None:
        self.declared, self.keep_custom = declared, keep_custom
        self.equations: list[Equation] = []
        self.constants: dict[Var, Any] = {}
        self._known: dict[int, Var] = {}

    def constant(self, value: Any, like: Any) -> Var:
        """Return one variable for each distinct array."""
        if id(value) not in self._known:
            self._known[id(value)] = _variable(like)
            self.constants[self._known[id(value)]] = value  # keeps the array, and so its id, alive
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
            name = eqn.primitive.name
            declared = custom_call.rule_of(eqn) or self.declared.get(name)
            kept = declared is not None or (self.keep_custom and name in compat.CUSTOM)
            inner = None if kept else compat.called(eqn)
            if inner is not None:
                inner, inner_consts = compat.parts(inner)
                outputs = self.inline(inner, inner_consts, arguments, here, line)
            elif name in compat.IDENTITIES and not kept:
                outputs = arguments
            else:
                outputs = [_variable(v) for v in eqn.outvars]
                own = (name, tuple(arguments), tuple(outputs), eqn.params, here, line, eqn)
                self.equations.append(Equation(*own, declared=declared))
            scope.update(zip(eqn.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars]
