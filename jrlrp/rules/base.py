"""What a rule is, the stabiliser, and the bounds that keep every rule finite."""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import IntEnum
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.errors import RuleError

Array = Any


class Form(IntEnum):
    """The form in which relevance R comes to a variable of value v; the higher one serves what needs the lower one."""

    NONE = 0  # none comes
    RATIO = 1  # c = R / v
    RELEVANCE = 2


@dataclass(frozen=True)
class Rule:
    """How one kind of node shares its relevance.

    A rule is called as `rule(layer, inputs, output, relevance)` with the numbers of one node, in float32 at least,
    and returns a tuple: the relevance of each input, in the input's shape. Fields are the rule's parameters; an array
    or a traced value is as good as a number.

    Attributes:
      kinds: the kinds of node that the rule can serve; a subclass may write any iterable of them.
      native: JAX's own derivative of the node is the rule.
      has_ratios: the rule needs relevance of the outputs as R, and knows that of the inputs in parts of their values
        without a division: it defines `ratios`.

    Raises:
      RuleError: for parameters that a subclass has no fields for.
    """

    kinds: ClassVar[frozenset[str]] = frozenset()
    native: ClassVar[bool] = False
    has_ratios: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        kinds: Any = vars(cls).get("kinds")
        if isinstance(kinds, (str, Iterable)):
            cls.kinds = frozenset((kinds,) if isinstance(kinds, str) else kinds)
        if "hands" not in vars(cls) and not {"__call__", "portions"}.isdisjoint(vars(cls)):
            # What a subclass says of relevance, an inherited `push` does not say of ratios.
            cls.hands = Rule.hands  # type: ignore[method-assign]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if (args or kwargs) and not {"__dataclass_fields__", "__init__"}.intersection(vars(cls)):
            try:
                inspect.signature(cls.__init__).bind(None, *args, **kwargs)
            except TypeError as error:
                raise RuleError(
                    f"{cls.__name__}: {error}; a rule is a dataclass, whose parameters are its fields: write "
                    f"@dataclass(frozen=True, repr=False) above class {cls.__name__}."
                ) from None
        return super().__new__(cls)

    def __call__(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array, ...]:
        raise RuleError(f"{type(self).__name__} defines no __call__(layer, inputs, output, relevance).")

    def absorbed(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> dict[str, Array]:
        """Return how much relevance the node's "bias" and the "stabilizer" keep, as far as the rule can tell.

        And, as "saturated", how many ratios of relevance to a value are at their bound.
        """
        return {}

    def passes(self, node: Any) -> Sequence[bool]:
        """Say of each input of a node whether the rule hands anything on to it."""
        return (True,) * len(node.inputs)

    def hands(self, node: Any, received: Form) -> Form:
        """Return the form in which the rule hands relevance to a node's inputs, which it then needs of the outputs too.

        A rule that hands on ratios defines `push`, and none of the others has to.
        """
        return Form.RELEVANCE

    def ratios(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array, ...]:
        """Return what a call returns, each in parts of its input: R_i / x_i, also where x_i is 0."""
        raise RuleError(f"{type(self).__name__} defines no ratios(layer, inputs, output, relevance).")

    def is_derivative(self, node: Any) -> bool:
        """Tell whether JAX's own derivative of a node hands on its ratios."""
        return self.native

    def push(
        self, layer: Any, inputs: Sequence[Array], outputs: Sequence[Array], tangents: Sequence[Array | None]
    ) -> tuple[Array, ...]:
        """Return the linear map of tangents of the inputs (None for 0) whose transpose takes ratios back.

        R = c·v of each variable: a rule that takes R_j to R_i = Σ_j x_i g_ij R_j / z_j pushes t to Σ_i g_ij t_i.
        """
        return derivative(layer.run, inputs, tangents)

    def stabilizer(self, layer: Any, output: Array) -> Any:
        """Return the ε that the rule adds to an output that it divides by; see `stabilize`."""
        return 0.0

    @property
    def needs_batch_axis(self) -> bool:
        """Whether what one example gets depends on which entries are the same example's."""
        return any(rule.needs_batch_axis for rule in self._nested)

    @property
    def is_linear(self) -> bool:
        """Whether it is linear in relevance, so that maps of parts of it add up to the map of the whole."""
        return all(rule.is_linear for rule in self._nested)

    @property
    def _nested(self) -> list["Rule"]:
        own = [getattr(self, f.name) for f in fields(self)] if is_dataclass(self) else []
        return [rule for rule in own if isinstance(rule, Rule)]

    def unfit(self, node: Any) -> str | None:
        """Say why the rule cannot serve a node of one of its kinds; None if it can."""
        return None

    def require(self, condition: Callable[..., Any], expected: str, *names: str) -> None:
        """Raise RuleError unless the named parameters are scalars and, if known, satisfy `condition`."""
        values = [getattr(self, name) for name in names]
        scalars = all(is_number(v) and np.ndim(v) == 0 for v in values)
        # Under jit, JAX would trace a condition on known arrays too.
        if scalars and (any(isinstance(v, jax.core.Tracer) for v in values) or condition(*map(np.asarray, values))):
            return
        given = ", ".join(f"{name}={v!r}" for name, v in zip(names, values, strict=True))
        raise RuleError(f"{type(self).__name__}({given}): expected {expected}.")

    def split(self) -> tuple[dict[str, Any], Callable[[dict[str, Any]], "Rule"]]:
        """Return the parameters that are arrays or traced, and a function that puts such parameters back.

        They have to reach the rule as operands: a rule that closed over them would not work under vmap and scan.
        """
        # What a subclass that is no dataclass keeps is no field.
        own = {**vars(self), **{f.name: getattr(self, f.name) for f in fields(self)}}
        arrays = {k: v for k, v in own.items() if isinstance(v, (jax.Array, np.ndarray))}
        nested = {k: v for k, v in own.items() if isinstance(v, Rule)}
        splits = {k: rule.split() for k, rule in nested.items()}
        arrays.update({f"{k}.{name}": v for k, (inner, _) in splits.items() for name, v in inner.items()})

        def put_back(values: dict[str, Any]) -> "Rule":
            known = {**own, **{k: v for k, v in values.items() if "." not in k}}
            for k, (inner, build) in splits.items():
                known[k] = build({name: values[f"{k}.{name}"] for name in inner})
            clone = object.__new__(type(self))  # the domain was checked when the rule was made
            for name, value in known.items():
                object.__setattr__(clone, name, value)
            return clone

        return arrays, put_back

    def __repr__(self) -> str:
        shown = (f"{f.name}={_show(getattr(self, f.name))}" for f in fields(self) if _differs(self, f))
        return f"{type(self).__name__}({', '.join(shown)})"


class RescalingRule(Rule):
    """A rule that fits its shares to a sum over each example: it is not linear in relevance."""

    @property
    def needs_batch_axis(self) -> bool:
        return True

    @property
    def is_linear(self) -> bool:
        return False


def derivative(function: Callable, inputs: Sequence[Array], tangents: Sequence[Array | None]) -> tuple[Array, ...]:
    """Return JAX's tangents of a function's outputs; a tangent that is None is 0."""
    own = [k for k, t in enumerate(tangents) if t is not None]
    if not own:
        return tuple(jnp.zeros(z.shape, z.dtype) for z in jax.eval_shape(function, *inputs))

    def of_some(*some: Array) -> tuple[Array, ...]:
        given = dict(zip(own, some, strict=True))
        return function(*(given.get(k, x) for k, x in enumerate(inputs)))

    return jax.jvp(of_some, [inputs[k] for k in own], [tangents[k] for k in own])[1]


def brief(value: Any) -> str:
    """Say what a value is, an array by its shape."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"an array of shape {shape}"
    return "None" if value is None else f"a {type(value).__name__}"


def check_epsilon(rule: Rule) -> None:
    """Raise RuleError unless the rule's stabiliser is a finite number ≥ 0."""
    rule.require(lambda e: (e >= 0) & (e < float("inf")), "a finite epsilon ≥ 0, one number", "epsilon")


def broadcasts(given: Sequence[int], shape: Sequence[int]) -> bool:
    """Tell whether an array of a shape broadcasts to another shape."""
    try:
        return np.broadcast_shapes(tuple(given), tuple(shape)) == tuple(shape)
    except ValueError:
        return False


def is_number(v: Any) -> bool:
    """Tell whether v is a real number or an array of them, traced or not."""
    if isinstance(v, (int, float)):
        return not isinstance(v, bool)
    real = (jnp.floating, jnp.integer)
    return isinstance(v, (np.generic, np.ndarray, jax.Array)) and any(jnp.issubdtype(v.dtype, kind) for kind in real)


def _differs(rule: Rule, field: Any) -> bool:
    value = getattr(rule, field.name)
    return isinstance(value, (jax.Array, np.ndarray)) or value != field.default


def _show(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)) and np.ndim(value):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return "traced" if isinstance(value, jax.core.Tracer) else repr(value)


def bound(dtype: Any) -> float:
    """Return the largest relevance that a value of `dtype` may have: max(dtype)^0.9.

    Where cancelling shares make relevance grow without bound, it saturates here, so that sums of it stay finite.
    """
    return float(jnp.finfo(dtype).max) ** 0.9


def saturate(r: Array, dtype: Any) -> Array:
    """Clip relevance to the bound of `dtype`; NaN, which only values that are no numbers can make, is none."""
    limit = bound(dtype)
    return jnp.where(r == r, jnp.clip(r, -limit, limit), 0)


def stabilize(z: Array, epsilon: Any) -> Array:
    """Return st(z) = z + ε·sgn(z) with sgn(0) = +1: never zero for ε > 0, never smaller in magnitude than z."""
    return z + jnp.where(z < 0, -1, 1) * jnp.asarray(epsilon, z.dtype)


def ratio_bound(dtype: Any) -> float:
    """Return the largest ratio of relevance to a value: √max(dtype), so that products with weights stay finite."""
    return float(jnp.finfo(dtype).max) ** 0.5


def ratio(r: Array, z: Array) -> Array:
    """Return r / z, 0 where z is 0 or NaN, saturating at ±`ratio_bound`."""
    limit = ratio_bound(z.dtype)
    zero = ~(jnp.abs(z) > 0)
    return jnp.where(zero, 0, jnp.clip(r / jnp.where(zero, 1, z), -limit, limit))


def mean_size(x: Array, axis: Any) -> Array:
    """Return the mean of |x| over each example, shape (examples,), or () where `axis` is None; see `Axis`."""
    return example_mean(jnp.abs(x), axis)


def example_mean(x: Array, axis: Any) -> Array:
    """Return the mean of x over each example, shape (examples,), or () where `axis` is None; see `Axis`."""
    return over_example(_mean, x, axis)


def _mean(x: Array, dims: Sequence[int]) -> Array:
    """Return the mean over dimensions, divided early enough for no sum of large relevance to overflow."""
    last, part = max(dims, default=None), 1 / max(math.prod(x.shape[d] for d in dims), 1)
    if last is None or x.shape[last] > 4096:
        return jnp.sum(x * part, tuple(dims))
    # After the first sum: before it, XLA's CPU backend would keep an array of these factors as large as x.
    return jnp.sum(jnp.sum(x, last, keepdims=True) * part, tuple(dims))


def root_mean_square(x: Array, axis: Any) -> Array:
    """Return the root of the mean of squares over each example, by way of the largest so that no square overflows."""
    largest = over_example(lambda parts, dims: jnp.max(jnp.abs(parts), axis=dims, initial=0), x, axis)
    scale = jax.lax.stop_gradient(jnp.where(largest == 0, 1, largest))  # it cancels
    mean = mean_size(jnp.square(x / spread(scale, x, axis)), axis)
    return scale * jnp.where(mean == 0, 0, jnp.sqrt(jnp.where(mean == 0, 1, mean)))  # derivatives at 0 stay finite


def over_example(reduce: Callable, x: Array, axis: Any) -> Array:
    """Call `reduce(parts, dims)` with the dimensions that make up one example."""
    if axis is None:
        return reduce(x, tuple(range(x.ndim)))
    parts = x.reshape(*x.shape[: axis.dim], axis.outer, axis.size, axis.inner, *x.shape[axis.dim + 1 :])
    dims = tuple(d for d in range(parts.ndim) if d != axis.dim + 1)
    return reduce(parts, dims)


def spread(factor: Array, x: Array, axis: Any) -> Array:
    """Shape one factor for each example so that it broadcasts against `x`."""
    if axis is None:
        return factor
    repeated = jnp.broadcast_to(factor[None, :, None], (axis.outer, axis.size, axis.inner)).reshape(-1)
    return repeated.reshape([-1 if d == axis.dim else 1 for d in range(x.ndim)])
