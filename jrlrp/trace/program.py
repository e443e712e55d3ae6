"""A traced function as data: variables, equations, and the flat programs they make up."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.primitives.row import Op, Row
from jrlrp.trace import compat


class Var:
    """A value of the program, known by its identity.

    It differs along the axes `varying` of a mesh, as far as types say; None if that is not known.
    """

    __slots__ = ("dtype", "shape", "varying")

    def __init__(self, shape: tuple[int, ...], dtype: Any, varying: frozenset[str] | None = None):
        self.shape, self.dtype, self.varying = tuple(shape), dtype, varying

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

    `row` is what is known of the primitive, by the table or by what the user declared; `rule` is the relevance rule
    that he gave it, None for none.
    """

    row: Row
    inputs: tuple[Var, ...]
    outputs: tuple[Var, ...]
    params: dict[str, Any]
    path: str
    source: str
    eqn: Any = field(repr=False)
    rule: Any = field(default=None, repr=False, kw_only=True)

    @property
    def op(self) -> Op:
        return self.row.op

    @property
    def primitive(self) -> str:
        """The name of what is computed, for people; passes ask the row."""
        return self.row.name

    @property
    def output(self) -> Var:
        return self.outputs[0]

    @property
    def operands(self) -> tuple[Var, ...]:
        """What the operation is a function of; a region reads more."""
        return self.inputs

    @property
    def data(self) -> tuple[Var, ...]:
        """The operands whose values come to the outputs; the others are indices, truth values, or held."""
        return tuple(self.inputs[k] for k in self.data_operands)

    @property
    def data_operands(self) -> Sequence[int]:
        """The numbers of these operands."""
        return self.row.data(self)

    @property
    def flat(self) -> tuple["Equation", ...]:
        """The equations that it is computed by: itself, if it is no region."""
        return (self,)

    def reading(self, same: Mapping[Var, Var]) -> "Equation":
        """Return the equation with other variables, of equal values, in the place of some that it reads."""
        return replace(self, inputs=tuple(same.get(v, v) for v in self.inputs))

    def with_params(self, **params: Any) -> "Equation":
        """Return the equation with other parameters."""
        return replace(self, params={**self.params, **params}, eqn=compat.with_params(self.eqn, params))

    @property
    def has_effects(self) -> bool:
        return bool(self.eqn is not None and self.eqn.effects)

    def again(self, inputs: Sequence[Var], outputs: Sequence[Var]) -> "Equation":
        """Return the same operation on other operands."""
        return replace(self, inputs=tuple(inputs), outputs=tuple(outputs))

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

    def bind_all(self, values: Sequence[Any], **overrides: Any) -> list[Any]:
        return self.function(*values)


@dataclass(frozen=True, eq=False)
class Region(Equation):
    """Equations that compute one operation together, in whatever order and spelling.

    It is evaluated as the user's program does: by `equations`, which may stand elsewhere in the program too. The first
    `count` inputs are those that the operation is a function of; the others are held. `function` applies the operation
    to other values of these, where no primitive with the region's parameters does. Where either is there, what the
    region makes has the derivative of the operation, and none by what is held.
    """

    equations: tuple[Equation, ...] = field(repr=False, default=())
    count: int = 1
    function: Callable | None = field(repr=False, default=None)

    @property
    def data_operands(self) -> Sequence[int]:
        return range(self.count)

    def reading(self, same: Mapping[Var, Var]) -> Equation:
        if not same.keys() & set(self.inputs):
            return self
        inputs = tuple(same.get(v, v) for v in self.inputs)
        made = {v for eqn in self.equations for v in eqn.outputs}  # what is made inside has the name that it has there
        inside = {v: u for v, u in same.items() if v not in made}
        return replace(self, inputs=inputs, equations=tuple(eqn.reading(inside) for eqn in self.equations))

    @property
    def operands(self) -> tuple[Var, ...]:
        return self.inputs[: self.count]

    def again(self, inputs: Sequence[Var], outputs: Sequence[Var]) -> Equation:
        own = (self.row, tuple(inputs[: self.count]), tuple(outputs), self.params, self.path, self.source)
        if self.function is None:
            return Equation(*own, self.eqn)
        function = self.function
        return Added(*own, None, lambda *values: [function(*values)])

    @property
    def flat(self) -> tuple[Equation, ...]:
        return tuple(inner for eqn in self.equations for inner in eqn.flat)

    def bind_all(self, values: Sequence[Any], **overrides: Any) -> list[Any]:
        values = values[: self.count]
        return super().bind_all(values, **overrides) if self.function is None else [self.function(*values)]

    def run(self, values: Sequence[Any]) -> list[Any]:
        made = evaluated(self.equations, dict(zip(self.inputs, values, strict=True)))
        if self.function is None and self.eqn is None:
            return [made[v] for v in self.outputs]
        return [_as_made_by(made[v], z) for v, z in zip(self.outputs, self.bind_all(values), strict=True)]


@jax.custom_jvp
def _as_made_by(value: Any, operation: Any) -> Any:
    """Return a value, with the derivative of the operation that it is read as."""
    return value


@_as_made_by.defjvp
def _derivative_of_the_operation(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (value, _), (_, tangent) = primals, tangents
    return value, tangent.astype(value.dtype)


@dataclass(frozen=True, eq=False)
class Program:
    """A flat program; `constants` are the arrays that the traced function closed over."""

    inputs: tuple[Var, ...]
    constants: dict[Var, Any]
    equations: tuple[Equation, ...]
    outputs: tuple[Var, ...]

    @cached_property
    def definition(self) -> dict[Var, Equation]:
        """The equation that makes each variable."""
        return {v: eqn for eqn in self.equations for v in eqn.outputs}


def read(v: Var, values: Mapping[Var, Any]) -> Any:
    """Return the value of a variable or a literal."""
    return v.value if isinstance(v, Literal) else values[v]


def evaluated(equations: Iterable[Equation], values: Mapping[Var, Any]) -> dict[Var, Any]:
    """Return the values and all that the equations make of them, as the user's program does."""
    known = dict(values)
    for eqn in equations:
        known.update(zip(eqn.outputs, eqn.run([read(v, known) for v in eqn.inputs]), strict=True))
    return known


def typed(variables: Sequence[Var], values: Mapping[Var, Any]) -> list[Any]:
    """Return the values of variables in the variables' dtypes, on which loops and branches have to agree."""
    return [jnp.asarray(read(v, values), v.dtype) for v in variables]
