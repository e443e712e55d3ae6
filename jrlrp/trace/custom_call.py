"""A call that keeps its relevance rule: the primitive behind `custom_relevance`.

To JAX it is its own body: it evaluates, differentiates and compiles as the function does. Under `vmap` the rule is
mapped with the body.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.trace import compat


def bind(fun: Callable, leaves: Sequence[Any], rule: Callable) -> list[Any]:
    """Call `fun`, of flat arrays, as one equation with a rule.

    `rule(operands, outputs, relevances)` returns the relevance of each operand, None for none. What `fun` closes over
    comes before `leaves` among the operands of the equation, and gets no relevance.
    """
    closed = jax.make_jaxpr(fun)(*leaves)
    # Traced values may not stand in the parameters of an equation: what is closed over becomes operands.
    count, operands = len(closed.consts), [*closed.consts, *leaves]
    body = jax.make_jaxpr(lambda *v: jax.core.eval_jaxpr(closed.jaxpr, v[:count], *v[count:]))(*operands)

    def rule_of_all(operands, outputs, relevances):  # a single output comes alone
        outputs, relevances = (list(v) if isinstance(v, (tuple, list)) else [v] for v in (outputs, relevances))
        return [None] * count + list(rule(operands[count:], outputs, relevances))

    return _custom_call_p.bind(*operands, jaxpr=body, rule=functools.update_wrapper(rule_of_all, rule))


def _evaluate(*operands: Any, jaxpr: Any, rule: Callable) -> list[Any]:
    return compat.as_function(jaxpr)(*operands)


def _batched(
    operands: Sequence[Any], dims: Sequence[Any], *, jaxpr: Any, rule: Callable
) -> tuple[list[Any], list[int]]:
    mapped = jax.vmap(compat.as_function(jaxpr), in_axes=tuple(dims))

    def mapped_rule(operands, outputs, relevances):
        shares = jax.vmap(rule, in_axes=(list(dims), 0, 0))(list(operands), outputs, relevances)
        return [
            r if r is None else jnp.sum(r, axis=0) if dim is None else jnp.moveaxis(r, 0, dim)
            for r, dim in zip(shares, dims, strict=True)
        ]

    results = _custom_call_p.bind(
        *operands, jaxpr=jax.make_jaxpr(mapped)(*operands), rule=functools.update_wrapper(mapped_rule, rule)
    )
    return results, [0] * len(results)


_custom_call_p = compat.new_primitive(
    "custom_relevance", _evaluate, lambda *operands, jaxpr, rule: jaxpr.out_avals, _batched
)


def rule_of(eqn: Any) -> Callable | None:
    """Return the rule that an equation of a jaxpr carries, None if it is not such a call."""
    return eqn.params["rule"] if eqn.primitive is _custom_call_p else None
