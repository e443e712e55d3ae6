"""In which form the relevance of each variable travels: as R, or as its ratio to the value; see `Form`.

A variable's form is the highest that those hand back that read it. So R stays R as far upstream as it can, and is
divided by values where a rule divides by them anyway.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp

from jrlrp.analyses.place import NodeWalk
from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import Control, Node
from jrlrp.rules.base import Form, Rule
from jrlrp.trace.control import Body, ControlFlow
from jrlrp.trace.program import Var


@dataclass(frozen=True, eq=False)
class Travel:
    """The forms in which relevance travels.

    Attributes:
      forms: of each variable that relevance comes to, those of bodies too.
      handed: what each node hands to its inputs.
      needed: what each node needs of its outputs, where that is something else.
      leaving: for each body, what is handed to its outputs.
    """

    forms: Mapping[Var, Form] = field(default_factory=dict)
    handed: Mapping[Node, Form] = field(default_factory=dict)
    needed: Mapping[Node, Form] = field(default_factory=dict)
    leaving: Mapping[Body, Mapping[Var, Form]] = field(default_factory=dict)

    def form(self, v: Var) -> Form:
        return self.forms.get(v, Form.NONE)

    def at_exit(self, body: Body, v: Var) -> Form:
        """Return the form in which relevance comes to an output of a body, on its way in."""
        return self.leaving.get(body, {}).get(v, Form.NONE)

    def at_entry(self, flow: ControlFlow, body: Body, k: int) -> Form:
        """Return the form in which relevance of the k-th input of a body goes on, outside or to the turn before."""
        carried = {start: end for end, start in body.carried}
        if k in carried:
            return self.at_exit(body, body.program.outputs[carried[k]])
        return self.form(flow.inputs[body.operands[k]])

    def at_operand(self, flow: ControlFlow, n: int) -> Form:
        """Return the form in which control flow hands relevance to its n-th operand."""
        found = (self.at_entry(flow, body, k) for body in flow.bodies for k, m in enumerate(body.operands) if m == n)
        return max(found, default=Form.NONE)

    def at_result(self, flow: ControlFlow, n: int) -> Form:
        """Return the form in which control flow needs the relevance of its n-th output."""
        found = [
            self.at_exit(body, body.program.outputs[k])
            for body in flow.bodies
            for k, m in enumerate(body.results)
            if m == n
        ]
        return max(found, default=Form.NONE)


def travel(graph: Graph, rules: Mapping[Node, Rule], given: Sequence[Form], starts: Collection[Node] = ()) -> Travel:
    """Return how relevance travels through a graph.

    Args:
      graph: the graph.
      rules: the rule of each node; one without hands on what it gets.
      given: the form in which relevance comes to each output.
      starts: the nodes at whose output more relevance begins, as R: what has no ratio where the value is 0.
    """
    preferring = _Preferring(rules)
    preferring.over(graph.own_nodes, {})
    walk = _Travel(rules, starts, preferring.values)
    start: dict[Var, Form] = dict.fromkeys(graph.explained, Form.RELEVANCE)
    for v, form in zip(graph.outputs, given, strict=True):
        start[v] = max(start.get(v, Form.NONE), form)
    walk.over(graph.own_nodes, start)
    return Travel(walk.values, walk.handed, walk.needed, walk.entered)


class _Preferring(NodeWalk[bool]):
    """The variables whose makers would divide relevance by their values, and so had rather take the ratio."""

    def __init__(self, rules: Mapping[Node, Rule]):
        super().__init__()
        self.rules = rules

    def made(self, step: Node, values: Mapping[Var, bool]) -> Iterable[tuple[Var, bool]]:
        rule, passed = self.rules.get(step), any(v in values for v in step.inputs)
        if rule is None or rule.native or step.native:
            prefers = passed
        elif rule.hands(step, Form.RELEVANCE) is Form.RATIO:
            prefers = True
        else:
            prefers = passed and rule.hands(step, Form.RATIO) is Form.RATIO
        return [(v, True) for v in step.outputs] if prefers else ()


class _Travel(NodeWalk[Form]):
    forward = False

    def __init__(self, rules: Mapping[Node, Rule], starts: Collection[Node], preferring: Collection[Var]):
        super().__init__()
        self.rules, self.starts, self.preferring = rules, starts, preferring
        self.handed: dict[Node, Form] = {}
        self.needed: dict[Node, Form] = {}

    def join(self, old: Form, new: Form) -> Form:
        return max(old, new)

    def made(self, step: Node, values: Mapping[Var, Form]) -> Iterable[tuple[Var, Form]]:
        own = [(v, Form.RELEVANCE) for v in step.outputs] if step in self.starts else []
        received = max(
            (*(values.get(v, Form.NONE) for v in step.outputs), *(form for _, form in own)), default=Form.NONE
        )
        if received is Form.NONE or isinstance(step, Control):
            return ()
        rule = self.rules.get(step)
        if step.kind == "embedding":
            handed = Form.RELEVANCE  # that of an id is summed up
        elif step.native or (rule is not None and rule.native):
            handed = received
        elif rule is None:
            handed = Form.RATIO  # its derivative is its rule
        else:
            handed = rule.hands(step, received)
            if received is Form.RELEVANCE and handed is Form.RATIO and any(map(_is_short, step.outputs)):
                handed = Form.RELEVANCE
            if rule.has_ratios and all(v in self.preferring and not _is_short(v) for v in step.inputs):
                self.needed[step], handed = handed, Form.RATIO
        self.handed[step] = handed
        passes = [True] * len(step.inputs) if rule is None else rule.passes(step)
        return own + [(v, handed) for v, passed in zip(step.inputs, passes, strict=True) if passed and handed]


def _is_short(v: Var) -> bool:
    """Tell whether a variable's dtype, float16 say, reaches too short for relevance over small values."""
    return jnp.issubdtype(v.dtype, jnp.floating) and float(jnp.finfo(v.dtype).max) < 1e30
