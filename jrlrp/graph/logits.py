"""A classifier's final softmax is explained at its logits."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from jrlrp.graph.facts import Facts
from jrlrp.graph.kinds import meaning_of
from jrlrp.trace.control import ControlFlow
from jrlrp.trace.program import Equation, Program, Var


def explain_at_logits(program: Program, explained: int) -> tuple[Program, tuple[Var, ...]]:
    """Return the variables that the first `explained` outputs are explained at.

    An output that is a softmax or log-softmax, or is moved, sliced or picked from one, is explained at its logits,
    with the same movement. A softmax inside control flow has its logits handed out beside it.
    """
    return _at_logits(program, Facts(program), program.outputs[:explained])


def _at_logits(program: Program, facts: Facts, wanted: Iterable[Var]) -> tuple[Program, tuple[Var, ...]]:
    softmaxes = {match.output: match for match in facts.softmaxes}
    added: list[Equation] = []
    wider: dict[Equation, ControlFlow] = {}

    def logits_of(v: Var) -> Var:
        moves: list[Equation] = []
        while (eqn := facts.definition.get(v)) is not None:
            if v in softmaxes:
                return _replay(moves, softmaxes[v].logits, added.append)
            if isinstance(eqn, ControlFlow):
                found = _handing_out(wider.get(eqn, eqn), eqn, facts, eqn.outputs.index(v))
                if found is None:
                    break
                wider[eqn] = found
                return _replay(moves, found.outputs[-1], added.append)
            if meaning_of(eqn) != "movement" or len(eqn.outputs) != 1 or not _moves_first(eqn):
                break
            moves.append(eqn)
            v = eqn.inputs[0]
        return v if not moves else moves[0].output

    outputs = tuple(map(logits_of, wanted))
    equations = (*(wider.get(eqn, eqn) for eqn in program.equations), *added)
    return replace(program, equations=equations), outputs


def _handing_out(eqn: ControlFlow, original: ControlFlow, facts: Facts, k: int) -> ControlFlow | None:
    """Return control flow with one more output, the logits of its k-th; None if that is no softmax in every body."""
    bodies, made = [], []
    for body, own in zip(eqn.bodies, original.bodies, strict=True):
        if k not in body.results or body.results.index(k) in dict(body.carried):
            return None
        place = body.results.index(k)
        program, (logits,) = _at_logits(body.program, facts.bodies[own], [body.program.outputs[place]])
        if logits is body.program.outputs[place]:
            return None
        program = replace(program, outputs=(*program.outputs, logits))
        stacked = {len(body.results)} if place in body.stacked else set()
        results = (*body.results, len(eqn.outputs))
        bodies.append(replace(body, program=program, results=results, stacked=body.stacked | stacked))
        made.append((logits.shape, logits.dtype))
    if len(set(made)) != 1:
        return None
    params = dict(eqn.params)
    if "out_specs" in params:
        params["out_specs"] = (*params["out_specs"], params["out_specs"][k])
    handed = Var(eqn.outputs[k].shape, made[0][1])
    return replace(eqn, outputs=(*eqn.outputs, handed), params=params, bodies=tuple(bodies))


def _moves_first(eqn: Equation) -> bool:
    """Tell whether nothing but the first operand is moved (the others being indices)."""
    return eqn.primitive not in ("concatenate", "stack", "dynamic_update_slice", "scatter", "pad", "complex")


def _replay(moves: list[Equation], v: Var, add: Callable[[Equation], None]) -> Var:
    for eqn in reversed(moves):
        out = Var(eqn.output.shape, v.dtype if eqn.primitive != "convert_element_type" else eqn.output.dtype)
        add(replace(eqn, inputs=(v, *eqn.inputs[1:]), outputs=(out,)))
        v = out
    return v
