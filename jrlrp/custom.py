"""`custom_relevance`: a function with a relevance rule of its user's."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import jax
import jax.numpy as jnp

from jrlrp.errors import ArgumentError, RuleError
from jrlrp.trace.custom_call import bind

Array = Any


class custom_relevance:  # noqa: N801 - named like jax.custom_vjp
    """A function whose relevance is shared by a rule of its own, as `jax.custom_vjp` gives one a derivative.

    The rule is called as `rule(inputs, output, relevance)` with the tuple of positional arguments, what the function
    returned, and relevance of the same structure; it returns a tuple with the relevance of each argument, of its
    structure and shapes, None for none. It holds under every composite; derivatives are the function's own.

    Args:
      fun: a function that JAX can trace, of any pytrees. Keyword arguments, and what it closes over, get no relevance.

    Raises:
      RuleError: when it is called without a rule.
    """

    def __init__(self, fun: Callable):
        if not callable(fun):
            raise ArgumentError(f"custom_relevance got {fun!r}; expected a function.")
        self.fun: Callable = fun
        self.rule: Callable | None = None
        update_wrapper(self, fun)

    def defrule(self, rule: Callable) -> "custom_relevance":
        """Set the rule, and return the function."""
        if not callable(rule):
            raise ArgumentError(f"defrule got {rule!r}; expected rule(inputs, output, relevance).")
        self.rule = rule
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        rule = self.rule
        trees: dict[str, Any] = {}
        if rule is None:
            raise RuleError(f"custom_relevance({self.fun!r}) has no rule; give it one by .defrule(rule).")
        leaves, in_tree = jax.tree.flatten(args)

        def flat(*leaves):
            out_leaves, trees["out"] = jax.tree.flatten(self.fun(*jax.tree.unflatten(in_tree, leaves), **kwargs))
            return out_leaves

        def flat_rule(operands, outputs, relevances):
            inputs = jax.tree.unflatten(in_tree, operands)
            out, relevance = (jax.tree.unflatten(trees["out"], list(v)) for v in (outputs, relevances))
            return _flattened(self.fun, inputs, rule(inputs, out, relevance))

        results = bind(flat, leaves, update_wrapper(flat_rule, rule))
        return jax.tree.unflatten(trees["out"], results)


def _flattened(fun: Callable, inputs: tuple[Any, ...], shares: Any) -> list[Array | None]:
    """Return the relevance of each leaf of the inputs, or raise RuleError if it is not of their structure."""
    if not isinstance(shares, (tuple, list)) or len(shares) != len(inputs):
        raise RuleError(
            f"the rule of {fun!r} returned a {type(shares).__name__} of shapes {jax.tree.map(jnp.shape, shares)}; "
            f"expected a tuple of {len(inputs)}, one for each argument."
        )
    flat: list[Array | None] = []
    for k, (share, given) in enumerate(zip(shares, inputs, strict=True)):
        leaves = jax.tree.leaves(given)
        if share is None:
            flat += [None] * len(leaves)
            continue
        expected, actual = jax.tree.map(jnp.shape, given), jax.tree.map(jnp.shape, share)
        if str(expected) != str(actual):
            raise RuleError(f"the rule of {fun!r} gave argument {k} relevance of shape {actual}; expected {expected}.")
        flat += jax.tree.leaves(share)
    return flat
