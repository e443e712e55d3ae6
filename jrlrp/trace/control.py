"""Control flow: equations that hold programs of their own, and how they are bound again to other bodies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from jrlrp.primitives.row import Op
from jrlrp.trace import compat, shards
from jrlrp.trace.program import Equation, Program, Var, evaluated, typed

# What a body is evaluated by: a function of the values of its inputs, and of what goes in along with them. It returns
# those of its outputs, and what comes out along with them.
Evaluate = Callable[[Sequence[Any], Any], tuple[Sequence[Any], Any]]


@dataclass(frozen=True, eq=False)
class Body(compat.Layout):
    """A program inside an equation, and how it meets the equation."""

    program: Program = field(kw_only=True)

    @property
    def repeats(self) -> list[tuple[Var, Var]]:
        """The outputs that go on to the next turn, each with the input that it is there."""
        return [(self.program.outputs[turn], self.program.inputs[k]) for turn, k in self.carried]


@dataclass(frozen=True, eq=False)
class ControlFlow(Equation):
    """A scan, cond, while, remat or shard_map. Its operands and outputs may be more than those of `eqn`."""

    bodies: tuple[Body, ...] = field(repr=False, kw_only=True)

    def entries(self, body: Body) -> list[tuple[Var, Var]]:
        """Return the operands that a body gets, each with the input that it is (or begins as) inside."""
        return [(self.inputs[k], v) for k, v in zip(body.operands, body.program.inputs, strict=True)]

    @property
    def turns(self) -> int | None:
        """How often the body of a scan runs; None for anything else."""
        return self.params["length"] if self.op is Op.SCAN else None

    @property
    def devices(self) -> dict[str, int]:
        """How many devices lie along each axis of a shard_map's mesh that it maps; none for anything else."""
        return shards.mapped_axes(self.params) if self.op is Op.SHARD_MAP else {}

    def run(self, values: Sequence[Any]) -> list[Any]:
        if self.op is Op.WHILE:
            return compat.run(self.eqn, values)
        return self.emit(values, [_plainly(body.program) for body in self.bodies])[0]

    def emit(self, values: Sequence[Any], evaluate: Sequence[Evaluate], along: Any = ()) -> tuple[list[Any], Any]:
        """Bind the primitive to `values`, with each of its bodies evaluated by a function.

        Args:
          values: of the operands.
          evaluate: a function for each body: it gets the values of the body's inputs, and `along`.
          along: arrays that every body gets: in a scan each turn its slice of them, in a shard_map each device, along a
            leading axis for each of the mesh that is of its size; one of size 1 is the same for all.

        Returns:
          The values of the outputs, and what the bodies gave along with them: those of all branches are of one
          structure, those of a scan's turns are stacked, and those of devices along leading axes of the mesh.
        """
        results, given = _EMIT[self.op](self, values, evaluate, along)
        return list(results), given


def _plainly(program: Program) -> Evaluate:
    def evaluate(inputs: Sequence[Any], along: Any) -> tuple[list[Any], Any]:
        start = {**program.constants, **dict(zip(program.inputs, inputs, strict=True))}
        return typed(program.outputs, evaluated(program.equations, start)), ()

    return evaluate


def _scan(
    eqn: ControlFlow, values: Sequence[Any], evaluate: Sequence[Evaluate], along: Any
) -> tuple[Sequence[Any], Any]:
    (body,), (step,) = eqn.bodies, evaluate
    variables = body.program.inputs
    inputs = typed(variables, {v: values[k] for k, v in zip(body.operands, variables, strict=True)})
    carried = dict(body.carried)
    ys = [k for k in range(len(body.results)) if k not in carried]

    def turn(carry: list[Any], slices: Any) -> tuple[list[Any], Any]:
        own, along = slices
        now = {**dict(zip(carried.values(), carry, strict=True)), **own}
        results, given = step([now.get(k, v) for k, v in enumerate(inputs)], along)
        return [results[k] for k in carried], ([results[k] for k in ys], given)

    start, slices = [inputs[k] for k in carried.values()], {k: inputs[k] for k in sorted(body.sliced)}
    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    end, (stacks, given) = jax.lax.scan(turn, start, (slices, along), **options)
    made = {**dict(zip(carried, end, strict=True)), **dict(zip(ys, stacks, strict=True))}
    return [made[k] for k in range(len(body.results))], given


def _cond(
    eqn: ControlFlow, values: Sequence[Any], evaluate: Sequence[Evaluate], along: Any
) -> tuple[Sequence[Any], Any]:
    def branch(body: Body, step: Evaluate) -> Callable:
        return lambda: step([values[k] for k in body.operands], along)

    return jax.lax.switch(values[0], list(map(branch, eqn.bodies, evaluate)))


def _remat(
    eqn: ControlFlow, values: Sequence[Any], evaluate: Sequence[Evaluate], along: Any
) -> tuple[Sequence[Any], Any]:
    options = {name: eqn.params[name] for name in ("prevent_cse", "policy")}
    return jax.checkpoint(lambda values, along: evaluate[0](values, along), **options)(list(values), along)


def _shard_map(
    eqn: ControlFlow, values: Sequence[Any], evaluate: Sequence[Evaluate], along: Any
) -> tuple[Sequence[Any], Any]:
    leaves, tree = jax.tree.flatten(along)
    sizes = eqn.devices
    structure: list[Any] = []

    def local(*operands: Any) -> tuple[Any, Any]:
        rest = [leaf.reshape(leaf.shape[len(sizes) :]) for leaf in operands[len(values) :]]
        results, given = evaluate[0](operands[: len(values)], jax.tree.unflatten(tree, rest))
        flat, made = jax.tree.flatten(given)
        structure[:] = [made]
        each = [shards.varying_along(leaf, sizes).reshape(*[1] * len(sizes), *leaf.shape) for leaf in flat]
        return tuple(results), tuple(each)

    results, flat = shards.shard_map(eqn.params, local, leaves)(*values, *leaves)
    return results, jax.tree.unflatten(structure[0], flat)


_EMIT = {Op.SCAN: _scan, Op.COND: _cond, Op.REMAT: _remat, Op.SHARD_MAP: _shard_map}
