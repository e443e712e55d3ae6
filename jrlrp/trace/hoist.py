"""What of a function does not depend on its argument is computed once, however often it is called."""

from collections.abc import Callable
from typing import Any

import jax

from jrlrp.trace import compat


def hoisted(function: Callable[[Any], Any], example: Any) -> Callable[[Any], Any]:
    """Return a function equal to `function` for arrays of the shape and dtype of `example`.

    All that depends on no argument is computed now; `jax.lax.map` of what is left does not repeat it.
    """
    closed, out = jax.make_jaxpr(function, return_shape=True)(example)
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    (argument,) = jaxpr.invars
    open_equations, depending = [], {argument}
    for eqn in jaxpr.eqns:
        if depending.isdisjoint(v for v in eqn.invars if not compat.is_literal(v)):
            known.update(_evaluated(eqn, known))
        else:
            open_equations.append(eqn)
            depending.update(eqn.outvars)

    def rest(x: Any) -> Any:
        values = {**known, argument: x}
        for eqn in open_equations:
            values.update(_evaluated(eqn, values))
        return jax.tree.unflatten(jax.tree.structure(out), [_read(v, values) for v in jaxpr.outvars])

    return rest


def _evaluated(eqn: Any, values: dict[Any, Any]) -> dict[Any, Any]:
    return dict(zip(eqn.outvars, compat.run(eqn, [_read(v, values) for v in eqn.invars]), strict=True))


def _read(v: Any, values: dict[Any, Any]) -> Any:
    return v.val if compat.is_literal(v) else values[v]
