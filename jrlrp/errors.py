"""The library's errors. Each says what was given, what was expected and what to do."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import jax


class JrlrpError(Exception):
    """Any error of jrlrp's own."""


class JrlrpWarning(UserWarning):
    """Something of the explanation is not what its user may think it is; `plan` says the same."""


def warn(message: str) -> None:
    """Warn with a `JrlrpWarning` at the user's line: the innermost outside this package, JAX and Python's own."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(JrlrpWarning(message), stacklevel=level)


_INSIDE = tuple(
    os.path.dirname(os.path.abspath(file)) + os.sep for file in (__file__, jax.__file__, contextlib.__file__)
)


class ArgumentError(JrlrpError, ValueError):
    """An argument that cannot be explained, or a wrong `argnums`, `rules` or other option."""


class TargetError(JrlrpError, ValueError):
    """A target that is not in the output, or an output that has no relevance to hand back."""


class RuleError(JrlrpError, ValueError):
    """A rule's parameter outside its domain, or a node that no rule of the composite fits."""


class UnreachedError(JrlrpError, ValueError):
    """Relevance that reaches none of the explained inputs.

    Attributes:
      ends: descriptions of the places where it ends.
    """

    def __init__(self, inputs: Iterable[str], ends: Iterable[str]):
        self.ends = tuple(ends)
        rows = "\n".join(f"  - {end}" for end in self.ends) or "  - the output does not depend on them"
        super().__init__(
            f"relevance reaches none of the explained inputs, {', '.join(inputs)}; on the way from the output it ends "
            f"here:\n{rows}\nWays out: choose rules that hand relevance on there, rules=jrlrp.attn_lrp() say; explain "
            "what comes before, the logits of each softmax say; take the stop_gradient, the comparison or the cast to "
            "integers out of the way."
        )


_LOOP = (
    "\nNothing can come back through a while loop, whose number of turns is not known when it is traced: write it as "
    "jax.lax.scan, or as jax.lax.fori_loop with bounds that are Python integers."
)
_COMPLEX = (
    "\nComplex numbers have no relevance, by gradient × input neither: put what computes with them into one function, "
    "real ones in and out, and give it a rule with jrlrp.custom_relevance."
)


class UnsupportedError(JrlrpError, TypeError):
    """Equations on the way from the explained inputs to the output that no rule explains.

    Attributes:
      nodes: the nodes at fault, as `plan(...).unsupported` lists them.
    """

    def __init__(self, nodes: Iterable[Any]):
        self.nodes = tuple(nodes)
        rows = "\n".join(f"  - {describe(node)}" for node in self.nodes)
        super().__init__(
            f"relevance passes through {len(self.nodes)} equation(s) that have no rule:\n{rows}\n"
            "Ways out: rewrite the line in jax.numpy operations that have one; declare what the primitive does "
            'with jrlrp.register_kind(name, kind); cut it off with jax.lax.stop_gradient; or pass unknown="gradient" '
            "to share relevance there by gradient × input."
            + (_LOOP if not all(getattr(node, "has_derivative", True) for node in self.nodes) else "")
            + (_COMPLEX if any(node.is_complex for node in self.nodes) else "")
        )


def describe(item: Any) -> str:
    """Name a node or an equation by primitive, module path and the user's line."""
    primitive = getattr(item, "primitive", None) or item.equations[-1].primitive
    place = f" in {item.path}" if item.path else ""
    return f"{primitive}{place}, at {item.source or 'an unknown line'}"
