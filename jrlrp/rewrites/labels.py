"""Labels in a program: what chooses a class, or weighs several, and depends on no explained input."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from jrlrp.analyses.facts import Facts
from jrlrp.primitives.row import Op
from jrlrp.rewrites.canonical import equal_values
from jrlrp.trace import compat
from jrlrp.trace.program import Equation, Program, Var

_SEEN_THROUGH = (Op.BROADCAST, Op.RESHAPE, Op.SQUEEZE, Op.CAST, Op.IDENTITY)


class Labels:
    """Finds the labels of one program."""

    def __init__(self, program: Program, facts: Facts, dependent: set[Var]):
        self.program, self.definition, self.constants = program, program.definition, program.constants
        self.facts, self.dependent = facts, dependent

    def weights(self, eqn: Equation) -> tuple[int, Var] | None:
        """Return the operand that an equation multiplies by weights of labels (a choice, say), and these weights."""
        operands = eqn.operands
        own = [k for k, v in enumerate(operands) if v in self.dependent]
        if len(own) != 1:
            return None
        (k,) = own
        if eqn.op is Op.SELECT and k and len(operands) == 3 and self._is_zero(operands[3 - k]):
            return k, operands[0]
        if any(v not in self.dependent and self.facts[v].number for v in operands):
            return None
        if eqn.op is Op.MUL and operands[k].shape == eqn.output.shape:
            return k, operands[1 - k]
        if eqn.op is Op.DOT:
            contract, batch = eqn.params["dimension_numbers"]
            whole = len(contract[1 - k]) + len(batch[1 - k]) == operands[1 - k].ndim
            return (k, operands[1 - k]) if whole else None
        return None

    def _is_zero(self, v: Var) -> bool:
        return self.facts[v].number and self.facts.interval(v) == (0, 0)

    def picks(self, weights: Var, dims: Sequence[int]) -> bool:
        """Tell whether weights are 1 at one entry along dimensions, and 0 elsewhere."""
        core = self.uncast(weights)
        if (value := self._constant(core)) is not None:
            return bool(np.all((value == 0) | (value == 1)) and np.all(np.sum(value == 1, axis=tuple(dims)) == 1))
        eqn = self.definition.get(core)
        if eqn is None or eqn.op is not Op.EQUAL or len(dims) != 1:
            return False
        along = [v for v in eqn.inputs if dims[0] in self.facts.varying(v)]
        count = self.definition.get(self.core(along[0])) if len(along) == 1 else None
        return count is not None and count.op is Op.COUNT

    def _constant(self, v: Var) -> np.ndarray | None:
        """Return the values of a small array that stands in the program, if it is known."""
        return compat.known(self.constants.get(v), 1_000_000)

    def uncast(self, v: Var) -> Var:
        """Return a value before casts."""
        while (eqn := self.definition.get(v)) is not None and eqn.op in (Op.CAST, Op.IDENTITY):
            v = eqn.data[0]
        return v

    def core(self, v: Var) -> Var:
        """Return a value before casts, and before axes were added to it or taken away."""
        while (eqn := self.definition.get(v)) is not None and eqn.op in _SEEN_THROUGH:
            v = eqn.data[0]
        return v

    @cached_property
    def _equal(self) -> dict[Var, Var]:
        return equal_values(self.program)

    def same(self, a: Var, b: Var) -> bool:
        """Tell whether two values are equal but for casts."""
        a, b = self.uncast(a), self.uncast(b)
        return a is b or self._equal.get(a, a) is self._equal.get(b, b)

    def is_part_of(self, v: Var, whole: Var) -> bool:
        """Tell whether a value was moved or picked from another one, or is its mean by weights of labels."""
        weighted = True
        while not self.same(v, whole) and (eqn := self.definition.get(v)) is not None:
            found = self.weights(eqn)
            if found is not None:
                v, weighted = eqn.inputs[found[0]], True
            elif eqn.op is Op.SUM:
                v, weighted = eqn.data[0], False
            elif eqn.op is Op.CAST or (eqn.row.moves and len(eqn.data) == 1):
                v = eqn.data[0]
            else:
                return False
        return self.same(v, whole) and weighted

    def are_opposite(self, a: Var, b: Var) -> bool:
        """Tell whether two constants are labels 0 and 1 and what they are not."""
        first, second = self._constant(a), self._constant(b)
        known = first is not None and second is not None and first.shape == second.shape
        return known and bool(np.all(first + second == 1))  # type: ignore[operator]
