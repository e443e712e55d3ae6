"""What of an output is explained: the initial relevance, and its checks before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.errors import TargetError
from jrlrp.rules.base import brief, ratio
from jrlrp.trace import shards

FORMS = 'expected "max", "all", a class index, an integer array of them, a callable out -> R_out, or None beside start'


def check_outputs(outputs: Sequence[Any]) -> None:
    """Raise TargetError unless every output leaf is a real floating-point array.

    Args:
      outputs: things with a `shape` and a `dtype`.
    """
    if not outputs:
        raise TargetError("the function returns no array, so there is nothing to explain; return the scores.")
    for out in outputs:
        if not jnp.issubdtype(out.dtype, jnp.floating):
            raise TargetError(
                f"the function returns {out.dtype}{list(out.shape)}, which has no relevance to hand back; return "
                "floating-point scores (the logits before an argmax or a comparison), and anything else as aux "
                "with has_aux=True."
            )


@dataclass(frozen=True)
class Target:
    """A checked target; see `relevance` for its forms."""

    form: Any

    def check(self, outputs: Sequence[Any], per_example: bool = False) -> None:
        """Raise TargetError if the target is not in outputs of these shapes.

        Args:
          outputs: things with a `shape` and a `dtype`.
          per_example: whether the one output's only axis is that of the examples: it has no classes to pick from.
        """
        if self.form is None or callable(self.form) or (isinstance(self.form, str) and self.form == "all"):
            if hasattr(self.form, "check"):  # a callable of the library's own
                self.form.check(outputs, per_example)
            return
        if len(outputs) != 1:
            raise TargetError(
                f'target={self.form!r} needs a single output array, and the function returns {len(outputs)}; use "all" '
                "or a callable out -> R_out, or return the scores and the rest as aux with has_aux=True."
            )
        if per_example:
            form = repr(self.form) if isinstance(self.form, (str, int)) else brief(self.form)
            raise TargetError(
                f"target={form} picks a class along the output's last axis, and the function returns one score "
                f"for each example, an output of shape {outputs[0].shape} without an axis of classes: use "
                'target="all" to explain each score, or return them in shape (N, 1).'
            )
        if not isinstance(self.form, str):
            self._check_index(outputs[0].shape)

    def _check_index(self, shape: tuple[int, ...]) -> None:
        index = self.form
        if not shape:
            raise TargetError(f'target={index!r} picks from a last axis, and the output is a scalar; use target="max".')
        if np.shape(index) not in ((), shape[:-1]):
            raise TargetError(
                f"target has shape {np.shape(index)}; expected () or {shape[:-1]}, one class for each position of an "
                f"output of shape {shape}."
            )
        if isinstance(index, jax.core.Tracer):
            return
        known = np.asarray(index)  # under jit, JAX would trace the minimum of a known array too
        low, high = (int(known.min()), int(known.max())) if known.size else (0, 0)
        if known.size and not -shape[-1] <= low <= high < shape[-1]:
            bad = low if low < -shape[-1] else high
            raise TargetError(f"target={bad} is out of range: the output's last axis has {shape[-1]} entries.")

    def mask(self, out: jax.Array) -> jax.Array:
        """Return ones where the output is explained and zeros elsewhere; not for a callable."""
        if self.form is None:
            return jnp.zeros_like(out)
        if isinstance(self.form, str) and (self.form == "all" or out.ndim == 0):
            return jnp.ones_like(out)
        if out.size == 0:
            return jnp.zeros_like(out)
        classes = out.shape[-1]
        index = jnp.argmax(out, axis=-1) if isinstance(self.form, str) else jnp.asarray(self.form)
        if index.dtype.itemsize < 4:  # 8-bit labels cannot count a thousand classes
            index = index.astype(jnp.int32)
        index = jnp.where(index < 0, index + classes, index)[..., None]
        position = jax.lax.broadcasted_iota(index.dtype, out.shape, out.ndim - 1)
        return shards.varying((position == jnp.broadcast_to(index, out.shape)).astype(out.dtype), [out])

    def initial(self, outputs: Any) -> Any:
        """Return the initial relevance, in the outputs' structure; NaN where the explained score is."""
        if not callable(self.form):
            return jax.tree.map(lambda out: jnp.where((self.mask(out) > 0) & ~jnp.isinf(out), out, 0), outputs)
        relevance = self.form(outputs)
        return matching(relevance, outputs, "the callable target")

    def score_gradient(self, outputs: Any) -> Any:
        """Return the derivative of the explained score, Σ of the initial relevance, with respect to the outputs.

        It is the ratio of the initial relevance to them.
        """
        if not callable(self.form):
            return jax.tree.map(self.mask, outputs)
        return jax.tree.map(lambda r, out: ratio(r, out).astype(out.dtype), self.initial(outputs), outputs)


def matching(relevance: Any, outputs: Any, giver: str) -> Any:
    """Return relevance in the outputs' dtypes, or raise TargetError if it is not of their structure and shapes."""
    expected, given = jax.tree.map(jnp.shape, outputs), jax.tree.map(jnp.shape, relevance)
    if str(expected) != str(given):
        raise TargetError(f"{giver} gave relevance of shape {given}; expected {expected}, the shape of the output.")
    for r in jax.tree.leaves(relevance):
        if not jnp.issubdtype(jnp.result_type(r), jnp.floating):
            raise TargetError(f"{giver} gave relevance of dtype {jnp.result_type(r)}; expected floating-point numbers.")
    return jax.tree.map(lambda r, out: jnp.asarray(r).astype(out.dtype), relevance, outputs)


def as_target(target: Any) -> Target:
    """Return a target, or raise TargetError for what is none."""
    if isinstance(target, Target):
        return target
    if target is None:
        return Target(None)
    if isinstance(target, str):
        if target not in ("max", "all"):
            raise TargetError(f"target={target!r}: {FORMS}.")
        return Target(target)
    if callable(target) and not isinstance(target, (jax.Array, np.ndarray)):
        return Target(target)
    if isinstance(target, (list, tuple)):
        try:
            target = np.asarray(target)
        except ValueError:
            raise TargetError(f"target={target!r}: {FORMS}.") from None
    dtype = getattr(target, "dtype", None)
    integer = jnp.issubdtype(dtype, jnp.integer) if dtype is not None else type(target) is int
    if not integer:
        raise TargetError(f"target={target!r}: {FORMS}.")
    return Target(target)
