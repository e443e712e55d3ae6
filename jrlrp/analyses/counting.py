"""Integer arrays that count along one axis: `jnp.arange`, and what indexing makes of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.analyses.facts import Facts
from jrlrp.analyses.slots import moved
from jrlrp.primitives.axes import image
from jrlrp.primitives.row import Axis, Op
from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.program import Equation, Program, Var
from jrlrp.trace.walk import Walk


@dataclass(frozen=True)
class Along:
    """An integer array that depends on its index along one dimension alone; `numbers` are its entries, if known."""

    dim: int
    numbers: tuple[int, ...] | None

    @property
    def is_whole(self) -> bool:
        return self.numbers is not None and self.numbers == tuple(range(len(self.numbers)))


class Counting(Walk[tuple[Along | None, ...]]):
    """The integer arrays whose entries are known along one axis: jnp.arange, and what indexing makes of it.

    The value is such an axis for each component of an index that was put together of several.
    """

    def __init__(self, facts: Facts):
        super().__init__()
        self.facts = facts

    def known(self, program: Program) -> dict[Var, tuple[Along | None, ...]]:
        found: dict[Var, tuple[Along | None, ...]] = {}
        for v, c in program.constants.items():
            if v.ndim == 1 and not isinstance(c, jax.core.Tracer) and jnp.issubdtype(v.dtype, jnp.integer):
                found[v] = (Along(0, tuple(int(n) for n in np.asarray(c))),)
        return found

    def join(self, old: Any, new: Any) -> Any:
        return old if old == new else ()

    def enter(self, flow: ControlFlow, body: Body, k: int, value: Any, inner: Var) -> Any:
        return None if k in body.sliced else value

    def leave(self, flow: ControlFlow, body: Body, k: int, value: Any, outer: Var) -> Any:
        return None if k in body.stacked or flow.op is Op.SHARD_MAP else value

    def made(self, step: Equation, values: Mapping[Var, Any]) -> Iterable[tuple[Var, Any]]:
        if not step.outputs or not jnp.issubdtype(step.output.dtype, jnp.integer):
            return ()
        out = step.output
        if step.op is Op.COUNT:
            dim = step.params["dimension"]
            return [(out, (Along(dim, tuple(range(out.shape[dim]))),))] if _holds(out) else ()
        if step.op is Op.CONCATENATE and step.params["dimension"] == out.ndim - 1:
            parts = [values.get(v, ()) for v in step.inputs]
            pairs = zip(parts, (v.shape[-1] for v in step.inputs), strict=True)
            return [(out, tuple(c for known, n in pairs for c in (known if len(known) == n else (None,) * n)))]
        known = [values.get(v) for v in step.data]
        if step.op is Op.SELECT and self.facts.interval(step.inputs[0]) == (0, 0):  # where(i < 0, i + n, i)
            return [(out, known[0])] if known[0] else ()
        if step.row.moves and len(step.data) == 1 and known[0] and len(known[0]) == 1 and known[0][0] and _holds(out):
            along = known[0][0]
            there = image(step, 0, Axis(along.dim, step.inputs[0].shape[along.dim]))
            if there is not None and there.is_whole:
                return [(out, (Along(there.dim, along.numbers),))]
            found = None if along.numbers is None else moved(step, 0, 0, along.dim, np.asarray(along.numbers))
            return [] if found is None else [(out, (Along(found[0], tuple(int(n) for n in found[1])),))]
        return ()


def _holds(v: Var) -> bool:
    """Tell whether an integer dtype can hold every index of the array."""
    return max(v.shape, default=0) <= np.iinfo(v.dtype).max
