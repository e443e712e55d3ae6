"""Node types: what a group of equations means together. All frozen; none holds a number of the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jrlrp.graph.homogeneous import is_homogeneous
from jrlrp.primitives.intervals import UNKNOWN, Interval
from jrlrp.primitives.row import Axis, Op
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.groups import Group
from jrlrp.trace.program import Equation, Literal, Var, evaluated

# Kinds of node, and the groups that a matcher may name for short.
AFFINE = ("conv", "dense", "linear", "scale")
MIXING = ("conv", "dense", "linear")
POOL = ("average_pool", "max_pool")
KINDS = tuple(
    """conv dense linear fixed scale average_pool max_pool normalisation activation factor sum product softmax
    log_sum_exp movement embedding custom scan cond remat shard_map opaque""".split()
)
GROUPS = {"affine": AFFINE, "pool": POOL}


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """Equations that share relevance together.

    Attributes:
      kind: one of `KINDS`.
      equations: in order; the last one makes the output.
      inputs: the variables that relevance is handed to; `constants`: the others that the equations read.
      outputs: the variables that relevance comes from.
      name: a name of its own, as `plan` prints it; empty for movements.
      intervals: the interval each input lies in.
      input_axes, output_axis: the batch axis of each, None if the whole array is one example.
      first, last: no conv, dense or other mixing affine layer lies before (after) the node on any path.
      convolved: a convolution whose windows overlap lies before the node on some path, or is it.
    """

    kind: str
    equations: tuple[Equation, ...]
    inputs: tuple[Var, ...]
    outputs: tuple[Var, ...]
    name: str = ""
    intervals: tuple[Interval, ...] = (UNKNOWN,)
    input_axes: tuple[Axis | None, ...] = (None,)
    output_axis: Axis | None = None
    first: bool = False
    last: bool = False
    convolved: bool = False

    # Relevance moves back by JAX's own transpose of the equations: nothing of ours stands between.
    native: ClassVar[bool] = False

    @cached_property
    def constants(self) -> tuple[Var, ...]:
        made = {v for eqn in self.equations for v in eqn.outputs}
        read = dict.fromkeys(v for eqn in self.equations for v in eqn.inputs if not isinstance(v, Literal))
        return tuple(v for v in read if v not in made and v not in self.inputs)

    @property
    def output(self) -> Var:
        return self.outputs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.output.shape

    @property
    def anchor(self) -> Equation:
        """The equation that the node is named after."""
        return self.equations[-1]

    @property
    def path(self) -> str:
        return self.anchor.path

    @property
    def source(self) -> str:
        return self.anchor.source

    @property
    def maps_vectors(self) -> bool:
        """Whether it maps the vectors along some of its input's axes one by one, all alike."""
        return False

    def run(self, inputs: Sequence[Any], constants: Sequence[Any]) -> tuple[Any, ...]:
        """Evaluate the node as the user's program does."""
        values = dict(zip(self.inputs, inputs, strict=True)) | dict(zip(self.constants, constants, strict=True))
        made = evaluated(self.equations, values)
        return tuple(made[v] for v in self.outputs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind}, {self.path or '-'}, {list(self.shape)})"


class Movement(Node):
    """Copies, places or selects values, or lets relevance of ids pass: JAX's transpose is the rule."""

    native = True


@dataclass(frozen=True)
class Leading:
    """An axis of what is measured inside of control flow: its size, and of which axis of a mesh, None for turns.

    `apart` says whether examples lie along that one.
    """

    size: int
    mesh: str | None = None
    apart: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Control(Node):
    """Control flow: `bodies` are the graphs of the programs that `flow` holds. Relevance passes the nodes in them.

    Examples lie along the axes `apart` of a shard_map's mesh.
    """

    flow: ControlFlow
    bodies: tuple[Any, ...]
    apart: frozenset[str] = frozenset()

    native = True

    @cached_property
    def starts(self) -> frozenset[Var]:
        """The operands in which relevance of later turns ends, as they are no inputs: constant first states."""
        bodies = zip(self.flow.bodies, self.bodies, strict=True)
        inside = ((outer, v in graph.explained) for body, graph in bodies for outer, v in self.flow.entries(body))
        return frozenset(outer for outer, explained in inside if explained and outer not in self.inputs)

    @property
    def leading(self) -> tuple[Leading, ...]:
        """The axis of a scan's turns, or those of the devices of a shard_map; none for anything else."""
        turns = () if self.flow.turns is None else (Leading(self.flow.turns),)
        return turns + tuple(Leading(n, name, name in self.apart) for name, n in self.flow.devices.items())

    @property
    def turns(self) -> tuple[int, ...]:
        """The sizes of these axes."""
        return tuple(axis.size for axis in self.leading)


class Choice(Node):
    """Takes some of its inputs' values: a max-pool, a sort, the larger of two values."""

    @property
    def sums_windows(self) -> bool:
        """Whether it takes the largest value of a window, of axes or of its inputs, which could be summed instead."""
        (eqn,) = self.equations
        return eqn.op in (Op.MAXIMUM, Op.WINDOW_MAXIMUM, Op.MAX) and eqn.inputs == self.inputs


_KINKS = (Op.MAX, Op.MIN, Op.CLAMP, Op.ABS)


@dataclass(frozen=True)
class AtZero:
    """What an activation f is at 0: whether f(0) = 0, f'(0), and f(x) / x on either side, if these are two numbers
    for all x.

    Where the two differ, a choice of one of two has the slope of the upper side at 0, a maximum or a size 0.
    """

    vanishes: bool = False
    slope: float = 0.0
    slopes: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Activation(Node):
    """An elementwise function of one variable, of that variable's shape.

    Attributes:
      function: computes it at known points, NaN where that cannot be told.
    """

    function: Callable[[np.ndarray], np.ndarray] = field(repr=False)

    @cached_property
    def at_zero(self) -> AtZero:
        small = 1e-6
        zero, right, left, up, down = self.function(np.array([0.0, small, -small, 1.0, -1.0]))
        if zero != 0:
            return AtZero()
        above, below = right / small, -left / small
        if np.isfinite(below) and not np.isclose(above, below, 1e-3, 1e-9):  # a kink
            slope = 0.0 if any(eqn.op in _KINKS for outer in self.equations for eqn in outer.flat) else above
        else:
            slope = (above + below) / 2 if np.isfinite(below) else above
        slope = slope if np.isfinite(slope) else 0.0
        scales = np.isfinite([up, down]).all() and is_homogeneous(self.equations, self.inputs[0], self.output)
        return AtZero(True, float(slope), (float(up), -float(down)) if scales else None)


@dataclass(frozen=True, eq=False, kw_only=True)
class Custom(Node):
    """An equation that its user gave a rule: a function of all operands, outputs and their relevances."""

    rule: Any


class Opaque(Node):
    """An equation whose meaning for relevance the library does not know."""

    @property
    def has_derivative(self) -> bool:
        """Whether gradient × input could stand in.

        JAX has no way back through a loop of unknown length, and none through a function applied at places of an array.
        """
        return self.anchor.op not in (Op.WHILE, Op.SCATTER)

    @property
    def is_complex(self) -> bool:
        """Whether complex numbers come in or go out: a rule's relevance is real."""
        return any(jnp.issubdtype(v.dtype, jnp.complexfloating) for v in (*self.inputs, *self.outputs))


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Node):
    """exp / Σ exp over groups of entries of its one input: along axes, or in segments."""

    group: Group


@dataclass(frozen=True, eq=False, kw_only=True)
class LogSumExp(Node):
    """log Σ exp over a group of entries of its one input, or of its two inputs (`group` None)."""

    group: Group | None


@dataclass(frozen=True)
class Step:
    """One equation after the core of an affine layer.

    Attributes:
      role: "move" (reshape, transpose, ...), "scale", "shift" or "cast".
      constant: the constant of a scale or shift; None for a sign change.
      invert: the scale divides; negate: the value's sign changes (`c − x`, `−x`); subtract: the shift is negative.
      places: for a scale, the constant's dimension along each axis of the layer's weights, None where it has none.
    """

    equation: Equation
    role: str
    constant: Var | None = None
    invert: bool = False
    negate: bool = False
    subtract: bool = False
    places: tuple[int | None, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(Node):
    """A map linear in its one input, with the constant scales and shifts after it.

    Attributes:
      core: the linear equation (its operand number `operand` is the input), or None for a scale layer.
      weight: the other operand of a dot or conv.
      own: the axes of a mesh along which the input truly differs, None if that is not known.
      steps: what follows the core, in order.
      standardises: whether a scale layer could be the standardisation of inputs: what it adds is a number, or one for
        each channel. A position embedding is none.
    """

    core: Equation | None
    operand: int = 0
    weight: Var | None = None
    own: frozenset[str] | None = None
    steps: tuple[Step, ...] = ()
    standardises: bool = False

    @property
    def anchor(self) -> Equation:
        return self.core or self.equations[0]  # what follows may be another module's bias or batch norm

    @property
    def adds_apart(self) -> bool:
        """Whether each entry is added to one sum at most: in segments, over devices, or in windows side by side."""
        if self.core is None or self.core.op is not Op.WINDOW_SUM:
            return self.core is not None and self.core.op in (Op.SCATTER_ADD, Op.COLLECTIVE)
        sizes, strides = self.core.params["window_dimensions"], self.core.params["window_strides"]
        windows = zip(sizes, strides, self.core.output.shape, strict=True)
        return all(size == 1 or stride >= size or count == 1 for size, stride, count in windows)

    @property
    def overlaps(self) -> bool:
        """Whether it is a convolution whose windows overlap; without, it maps patches one by one, as a dense layer."""
        if self.core is None or self.core.op is not Op.CONV:
            return False
        p, (kernel, out) = self.core.params, (self.core.inputs[1], self.core.output)
        numbers = p["dimension_numbers"]
        sizes = [kernel.shape[d] for d in numbers.rhs_spec[2:]]
        counts = [out.shape[d] for d in numbers.out_spec[2:]]
        steps = zip(p["window_strides"], p["lhs_dilation"], p["rhs_dilation"], strict=True)
        return any(
            size > 1 and count > 1 and (size - 1) * apart + 1 > max(stride, own)
            for size, count, (stride, own, apart) in zip(sizes, counts, steps, strict=True)
        )

    @property
    def maps_vectors(self) -> bool:
        return self.core is not None and (self.core.op in (Op.DOT, Op.SUM) or self.adds_apart)


@dataclass(frozen=True, eq=False, kw_only=True)
class Normalisation(Node):
    """Centring and scaling of its one input by statistics of it, with the gain and bias after that.

    The output has the input's entries in their order, if perhaps in another shape.

    Attributes:
      held: the equations that are linear in the input once the statistics are held, each with the operands to hold.
    """

    held: Mapping[Equation, frozenset[int]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sum(Node):
    """A sum of several inputs, the k-th of them with sign `signs[k]`."""

    signs: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(Node):
    """A product of several inputs, elementwise, or a contraction of two.

    A gate is a factor, or one over a divisor, that is known to lie in [0, 1]; `inverse` says which factors divide.
    `origins` are the kinds of the nodes that the factors come out of, seen through movements and scales; None for an
    input.
    """

    gates: tuple[bool, ...] = ()
    inverse: tuple[bool, ...] = ()
    origins: tuple[str | None, ...] = ()
    contraction: bool = field(default=False)
