"""Contrast: why this class and not that one. `contrast`, and targets that set classes against each other."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.api import check_argnums
from jrlrp.composites.composite import Composite, as_composite
from jrlrp.composites.matcher import match
from jrlrp.composites.presets import default
from jrlrp.errors import ArgumentError, TargetError
from jrlrp.rules.alphabeta import AlphaBeta
from jrlrp.rules.base import Array, Rule, ratio
from jrlrp.target import Target, as_target
from jrlrp.transform import options, own_arithmetic, trace_function

__all__ = ["contrast", "difference", "others", "softmax_gradient"]


@dataclass(frozen=True)
class _Seeds:
    """A target: `relevance(z, mask, ...)` of the scores z and a mask of each class that is named."""

    name: str
    classes: tuple[Target, ...]
    relevance: Callable[..., Array]
    among: bool = True  # several classes, of which there have to be two

    def check(self, outputs: Sequence[Any], per_example: bool = False) -> None:
        """Raise TargetError if a class is not in outputs of these shapes; see `Target.check`."""
        for target in self.classes:
            target.check(outputs, per_example)
        if self.among and (not outputs[0].shape or outputs[0].shape[-1] < 2):
            raise TargetError(
                f"{self!r} sets classes against each other, and the output has shape {outputs[0].shape}; expected "
                "scores of at least two classes along the last axis."
            )

    @own_arithmetic
    def __call__(self, outputs: Any) -> Array:
        (z,) = jax.tree.leaves(outputs)
        return self.relevance(z, *(target.mask(z) > 0 for target in self.classes)).astype(z.dtype)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(repr(target.form) for target in self.classes)})"


def _class(target: Any) -> Target:
    """Return a target that names one class at each position."""
    try:
        chosen = as_target(target)
    except TargetError:
        chosen = Target(None)
    if chosen.form is None or callable(chosen.form) or (isinstance(chosen.form, str) and chosen.form != "max"):
        raise TargetError(f'target={target!r}: expected one class: an index, an integer array of them, or "max".')
    return chosen


def _finite(z: Array) -> Array:
    """Return scores; an infinite one, of a class that is masked out say, has no relevance."""
    return jnp.where(jnp.isinf(z), 0, z)


def _at(mask: Array, z: Array) -> Array:
    """Return scores at a mask, 0 elsewhere, whatever the scores are there."""
    return jnp.where(mask, z, 0)


def others(target: Any = "max") -> Callable[[Any], Array]:
    """Return a target, for `relevance`, of all classes but one: R_k = |z_k| at k ≠ t, 0 at t.

    Args:
      target: the class t: an index, an integer array of the output's shape without its last axis, or "max".

    Raises:
      TargetError: for another target, one that is not in the output, and outputs of less than two classes.

    Source: Gu et al. 2018, "Understanding individual decisions of CNNs via contrastive backpropagation" (CLRP).
    """
    return _Seeds("others", (_class(target),), lambda z, mask: _at(~mask, jnp.abs(_finite(z))))


def softmax_gradient(target: Any = "max") -> Callable[[Any], Array]:
    """Return a target of softmax's gradient, with y = softmax(z): R_t = y_t (1 − y_t), R_k = −y_t y_k elsewhere.

    Args:
      target: the class t, as for `others`.

    Raises:
      TargetError: as `others`.

    Source: Iwana et al. 2019, "Explaining convolutional neural networks using softmax gradient layer-wise relevance
    propagation" (SGLRP).
    """

    def relevance(z: Array, mask: Array) -> Array:
        y = jax.nn.softmax(z.astype(jnp.promote_types(z.dtype, jnp.float32)), axis=-1)
        y = jnp.where(jnp.isposinf(z).any(-1, keepdims=True), 0, y)
        own, rest = (jnp.sum(_at(part, y), axis=-1, keepdims=True) for part in (mask, ~mask))  # 1 − y_t, if y_t is 1
        return jnp.where(mask, own * rest, -own * y)

    return _Seeds("softmax_gradient", (_class(target),), relevance)


def difference(target: Any, other: Any) -> Callable[[Any], Array]:
    """Return a target of the difference of two scores, z_t − z_k: R_t = z_t, R_k = −z_k, 0 elsewhere.

    Args:
      target, other: the classes t and k, as for `others`.

    Raises:
      TargetError: as `others`; for one class twice.
    """
    classes = _class(target), _class(other)
    if all(isinstance(own.form, (int, str)) for own in classes) and classes[0] == classes[1]:
        raise TargetError(f"difference({target!r}, {other!r}): expected two classes; this is 0.")
    return _Seeds("difference", classes, lambda z, mask, minus: _at(mask, _finite(z)) - _at(minus, _finite(z)))


def contrast(
    fun: Callable,
    against: Any = "others",
    *,
    rules: Composite | Rule | None = None,
    target: Any = "max",
    argnums: int | Sequence[int] = 0,
    normalise: bool = True,
) -> Callable:
    """Return a function of `fun`'s arguments that says what speaks for a class more than for what it is set against.

    R / ΣR − R' / ΣR' for each example (for all that is given, where there is no batch axis); 0 in place of what has
    ΣR = 0. R explains the target, R' what it is set against. The forward pass is run once. Signed: positive is what
    the target has more of.

    Args:
      fun, rules, argnums: as for `relevance`.
      against: "others", |z_k| at the other classes; "negated", |z_t| at the target, which conv and dense layers that
        no other such layer follows share among their negative contributions; an index or an integer array, another
        class; or a callable, z → R'.
      target: the class, as for `relevance`: an index, an integer array, or "max".
      normalise: whether to divide by ΣR and ΣR'; else R − R'.

    Returns:
      A function that returns an array, or a pytree, of the shapes of the explained arguments.

    Raises:
      As `relevance`; ArgumentError and TargetError for another `against` or target, and what is set against itself. A
      JrlrpWarning where it is not known which entries are one example's.

    Source: Gu et al. 2018 (CLRP), where only the positive part is drawn.

    Example:
      >>> model = lambda x: x @ jnp.array([[1.0, 1.0], [2.0, 0.0]])
      >>> contrastive.contrast(model, against=1, normalise=False)(jnp.array([3.0, 1.0]))
      Array([0., 2.], dtype=float32)
    """
    if not isinstance(normalise, bool):
        raise ArgumentError(f"normalise={normalise!r}: expected True or False.")
    check_argnums("contrast", argnums)
    chosen, other = _class(target), _against(against)
    if type(against) is int and against == target:
        raise ArgumentError(f"contrast of class {target!r} against itself is 0 everywhere; choose another `against`.")
    composite, negated = as_composite(rules, default), isinstance(against, str) and against == "negated"
    if negated and composite.gradient:
        raise ArgumentError('against="negated" changes the rule of the last layers, and gradient × input has no rules.')

    @wraps(fun, updated=())
    def contrasted(*args: Any, **kwargs: Any) -> Any:
        def explained(part: Array) -> tuple[Any, ...]:
            """Return R for the part 0, R' for 1."""
            own = _negated(composite, part) if negated else composite
            seeds = Target(_Either(chosen, other(chosen), part))
            traced = trace_function(fun, args, kwargs, options(fun, own, argnums=argnums, target=seeds))
            if negated and not any(map(_LAST, traced.graph.nodes)):
                raise ArgumentError('against="negated" needs a conv or dense layer that no other such layer follows.')
            passed = traced.explain(by_example=normalise)
            shares, _ = passed.propagate(traced.initial(passed.out))
            return _normalised(shares, bool(traced.graph.batch.slots)) if normalise else shares

        both = jax.vmap(explained)(jnp.arange(2))
        result = jax.tree.map(lambda r: r[0] - r[1], both)
        return result if isinstance(argnums, (tuple, list)) else result[0]

    return contrasted


@dataclass(frozen=True)
class _Either:
    """A target: one for the part 0, the other for 1."""

    first: Target
    second: Target
    part: Array

    def check(self, outputs: Sequence[Any], per_example: bool = False) -> None:
        self.first.check(outputs, per_example)
        try:
            self.second.check(outputs, per_example)
        except TargetError as error:
            raise TargetError(f"against: {error}") from None

    def __call__(self, outputs: Any) -> Any:
        choose = lambda a, b: jnp.where(self.part == 0, a, b)
        return jax.tree.map(choose, self.first.initial(outputs), self.second.initial(outputs))


def _against(against: Any) -> Callable[[Target], Target]:
    """Return what makes the target that another one is set against."""
    if not isinstance(against, str):
        try:
            own = Target(against) if callable(against) and not isinstance(against, jax.Array) else _class(against)
        except TargetError:
            raise ArgumentError(f"against={against!r}: {_AGAINST}") from None
        return lambda chosen: own
    if against == "others":
        return lambda chosen: Target(others(chosen))
    if against == "negated":
        return lambda chosen: Target(
            _Seeds("negated", (chosen,), lambda z, mask: _at(mask, jnp.abs(_finite(z))), False)
        )
    raise ArgumentError(f"against={against!r}: {_AGAINST}")


_AGAINST = 'expected "others", "negated", a class (an index, or an integer array of them) or a callable z → R\'.'

_LAST = match(("conv", "dense"), last=True)


@dataclass(frozen=True, repr=False)
class _Blend(Rule):
    """R_i by one rule for the part 0, by the other for 1."""

    kinds = frozenset({"conv", "dense"})

    first: Rule
    second: Rule
    part: Any

    def unfit(self, node: Any) -> str | None:
        return self.first.unfit(node) or self.second.unfit(node)

    def __call__(self, layer: Any, inputs: Sequence[Array], output: Array, relevance: Array) -> tuple[Array, ...]:
        shares = (rule(layer, inputs, output, relevance) for rule in (self.first, self.second))
        return tuple(jnp.where(self.part == 0, a, b) for a, b in zip(*shares, strict=True))


def _negated(composite: Composite, part: Array) -> Composite:
    """Return a composite whose last layers share along their negative contributions for the part 1."""
    minus = AlphaBeta(0.0, 1.0, bias="ignore")
    of_layers = [(own, rule) for own, rule in composite.entries if not _Blend.kinds.isdisjoint(rule.kinds)]
    blends = [(replace(_LAST, where=own, optional=True), _Blend(rule, minus, part)) for own, rule in of_layers]
    return Composite(blends, base=composite)


@own_arithmetic
def _normalised(shares: Any, by_example: bool) -> Any:
    """Return relevance in parts of its sum, that of each example where they lie along the leading axis; 0 for 0 / 0.

    What is NaN stays it.
    """
    wide = jax.tree.map(lambda r: r.astype(jnp.promote_types(r.dtype, jnp.float32)), shares)
    sums = [jnp.sum(r, axis=range(1, r.ndim) if by_example else None) for r in jax.tree.leaves(wide)]
    total = functools.reduce(jnp.add, sums)

    def part(r: Array, own: Array) -> Array:
        whole = jnp.reshape(total, (-1, *[1] * (r.ndim - 1))) if by_example else total
        return jnp.where(jnp.isnan(whole), jnp.nan, ratio(r, whole.astype(r.dtype))).astype(own.dtype)

    return jax.tree.map(part, wide, shares)
