"""A call that keeps its relevance rule: the primitive behind `custom_relevance`.

To JAX it is its own body: it evaluates, differentiates and compiles as the function does. Under `vmap` the rule is
mapped with the body.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

custom_call_p = jex.Primitive("custom_relevance")
custom_call_p.multiple_results = True


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

    return custom_call_p.bind(*operands, jaxpr=body, rule=functools.update_wrapper(rule_of_all, rule))


def _evaluate(*operands: Any, jaxpr: Any, rule: Callable) -> list[Any]:
    return jex.jaxpr_as_fun(jaxpr)(*operands)


def _batched(
    operands: Sequence[Any], dims: Sequence[Any], *, jaxpr: Any, rule: Callable
) -> tuple[list[Any], list[int]]:
    mapped = jax.vmap(jex.jaxpr_as_fun(jaxpr), in_axes=tuple(dims))

    def mapped_rule(operands, outputs, relevances):
        shares = jax.vmap(rule, in_axes=(list(dims), 0, 0))(list(operands), outputs, relevances)
        return [
            r if r is None else jnp.sum(r, axis=0) if dim is None else jnp.moveaxis(r, 0, dim)
            for r, dim in zip(shares, dims, strict=True)
        ]

    results = custom_call_p.bind(
        *operands, jaxpr=jax.make_jaxpr(mapped)(*operands), rule=functools.update_wrapper(mapped_rule, rule)
    )
    return results, [0] * len(results)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, jaxpr: Any, rule: Callable) -> tuple[Any, Any]:
    return jax.jvp(jex.jaxpr_as_fun(jaxpr), list(primals), [ad.instantiate_zeros(t) for t in tangents])


custom_call_p.def_impl(_evaluate)
custom_call_p.def_abstract_eval(lambda *operands, jaxpr, rule: jaxpr.out_avals)
mlir.register_lowering(custom_call_p, mlir.lower_fun(_evaluate, multiple_results=True))
batching.primitive_batchers[custom_call_p] = _batched
ad.primitive_jvps[custom_call_p] = _jvp
