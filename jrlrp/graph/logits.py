"""A classifier's final softmax is explained at its logits."""

from collections.abc import Callable
from dataclasses import replace

from jrlrp.graph.facts import Facts
from jrlrp.graph.kinds import meaning_of
from jrlrp.trace.program import Equation, Program, Var


def explain_at_logits(program: Program, explained: int) -> tuple[Program, tuple[Var, ...]]:
    """Return the variables that the first `explained` outputs are explained at.

    An output that is a softmax or log-softmax, or is moved, sliced or picked from one, is explained at its logits,
    with the same movement.
    """
    facts = Facts(program)
    softmaxes = {match.output: match for match in facts.softmaxes}
    added: list[Equation] = []

    def logits_of(v: Var) -> Var:
        moves: list[Equation] = []
        while (eqn := facts.definition.get(v)) is not None:
            if v in softmaxes:
                return _replay(moves, softmaxes[v].logits, added.append)
            if meaning_of(eqn) != "movement" or len(eqn.outputs) != 1 or not _moves_first(eqn):
                break
            moves.append(eqn)
            v = eqn.inputs[0]
        return v if not moves else moves[0].output

    outputs = tuple(logits_of(v) for v in program.outputs[:explained])
    extended = Program(program.inputs, program.constants, (*program.equations, *added), program.outputs)
    return extended, outputs


def _moves_first(eqn: Equation) -> bool:
    """Tell whether nothing but the first operand is moved (the others being indices)."""
    return eqn.primitive not in ("concatenate", "stack", "dynamic_update_slice", "scatter", "pad", "complex")


def _replay(moves: list[Equation], v: Var, add: Callable[[Equation], None]) -> Var:
    for eqn in reversed(moves):
        out = Var(eqn.output.shape, v.dtype if eqn.primitive != "convert_element_type" else eqn.output.dtype)
        add(replace(eqn, inputs=(v, *eqn.inputs[1:]), outputs=(out,)))
        v = out
    return v
