"""`Plan`: what the library made of a function, before anything runs. `Audit`: where relevance went in a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrlrp.analyses.batch import Batch
from jrlrp.errors import describe
from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import KINDS, Node
from jrlrp.probes import AMOUNTS
from jrlrp.rules.base import Rule


@dataclass(frozen=True)
class PlanNode:
    """One node of a plan.

    Attributes:
      name: a name of its own, for `capture`: the module path or, where several nodes share it, path:kind#number; empty
        for movements.
      path: the module path; kind: the kind of node; rule: the rule it gets, None where relevance just moves.
      shape: of its output; source: the user's line; equations: the primitives it is made of.
      fault: why the node cannot have that rule, or that it has none; None if all is well.
      first, last: whether no mixing affine layer lies before (after) it.
    """

    name: str
    path: str
    kind: str
    rule: Rule | None
    shape: tuple[int, ...]
    source: str
    equations: tuple[str, ...]
    fault: str | None
    first: bool
    last: bool

    def __str__(self) -> str:
        return "  ".join(_row(self))


@dataclass(frozen=True, repr=False)
class Plan:
    """The nodes of a function, each with its rule; `print(plan)` shows them as a table.

    Attributes:
      nodes: the nodes that relevance passes, in program order.
      unsupported: those of them that no rule explains.
      ended: descriptions of the places where relevance ends although values go on (comparisons, argmax, casts to
        integers, stop_gradient); those that only steer an activation or shift a softmax are left out.
      coverage: equations in named nodes / all equations that relevance passes.
      unreached: the explained inputs that relevance does not reach, and where it ends; empty if it reaches all.
      batch: what is known of independent examples along the leading axis of the inputs.
      without_effect: the entries of the composite that a user wrote in vain.
      not_linear: the rules under which maps of parts of the relevance do not add up to the map of the whole.
    """

    nodes: tuple[PlanNode, ...]
    unsupported: list[PlanNode]
    ended: tuple[str, ...]
    unreached: str = ""
    batch: str = ""
    without_effect: tuple[str, ...] = ()
    not_linear: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        total = sum(len(node.equations) for node in self.nodes)
        return 1.0 - sum(len(node.equations) for node in self.unsupported) / total if total else 1.0

    def summary(self) -> str:
        """Return how many nodes of each kind there are, on one line."""
        counts = Counter(node.kind for node in self.nodes)
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
        wrong = sum(node.fault is not None for node in self.nodes) - len(self.unsupported)
        ending = f", {wrong} without a fitting rule" if wrong > 0 else ""
        return f"{len(self.nodes)} nodes ({kinds or 'none'}), {len(self.unsupported)} unsupported{ending}"

    def __str__(self) -> str:
        rows = [("node", "kind", "rule", "eqns", "shape", "source"), *(_row(node) for node in self.nodes)]
        notes = [f"relevance ends at: {place}" for place in self.ended]
        notes += [f"no effect: {entry}" for entry in self.without_effect]
        if self.not_linear:
            rules = ", ".join(self.not_linear)
            notes.append(f"maps of parts (conditions, concepts) do not add up to the whole: {rules}")
        return "\n".join([*_table(rows, "<" * 6), self.summary(), *notes, *filter(None, (self.unreached, self.batch))])

    __repr__ = __str__


def _row(node: PlanNode) -> tuple[str, ...]:
    rule = repr(node.rule) if node.rule else "-"
    if node.fault is not None:
        rule = "unsupported" if node.kind == "opaque" else f"{rule}: {node.fault}"
    shape = "×".join(map(str, node.shape)) or "scalar"
    return node.name or node.path or "-", node.kind, rule, str(len(node.equations)), shape, node.source or "-"


def _table(rows: Sequence[tuple[str, ...]], alignment: str) -> list[str]:
    """Return the lines of a table, whose first row is its head."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    columns = list(zip(alignment, widths, strict=True))
    lines = ["  ".join(f"{cell:{a}{n}}" for cell, (a, n) in zip(row, columns, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def make_plan(
    graph: Graph,
    rules: Mapping[Node, Rule | None],
    faults: Mapping[Node, str],
    unsupported: Sequence[Node],
    unreached: str = "",
    without_effect: Sequence[str] = (),
) -> Plan:
    """Return the plan of a graph with the rules chosen for it."""
    rows = {
        node: _plan_node(node, graph.names.get(node, ""), rules.get(node), faults.get(node)) for node in graph.nodes
    }
    return Plan(
        tuple(rows.values()),
        [rows[node] for node in unsupported],
        tuple(dict.fromkeys(describe(eqn) for eqn in graph.ended)),
        unreached,
        _examples(graph.batch),
        tuple(without_effect),
        tuple(dict.fromkeys(repr(rule) for rule in rules.values() if rule is not None and not rule.is_linear)),
    )


def _examples(batch: Batch) -> str:
    if batch.mixed is None:
        return "batch: examples along the leading axis stay apart" if batch.axes else ""
    where = describe(batch.mixed)
    if batch.lost:
        return f"batch: taken for one example, as it is not known whether examples stay apart at {where}"
    return f"batch: one example, as entries along the leading axis meet at {where}"


def _plan_node(node: Node, name: str, rule: Rule | None, fault: str | None) -> PlanNode:
    primitives = tuple(inner.primitive for eqn in node.equations for inner in eqn.flat)
    where = node.shape, node.source, primitives
    return PlanNode(name, node.path, node.kind, rule, *where, fault, node.first, node.last)


_STATIC = ["names", "kinds", "rules", "sources"]
_TOTALS = ["output", "started", "inputs", "ended", "unknown"]


@partial(jax.tree_util.register_dataclass, data_fields=[*AMOUNTS, *_TOTALS], meta_fields=_STATIC)
@dataclass(frozen=True, repr=False, eq=False)
class Audit:
    """Where relevance went: one entry for each node, in program order; `print(audit)` shows a table.

    Attributes:
      names, kinds, rules, sources: of the nodes, as `plan` prints them.
      received, passed: Σ R that came in at the node's output, and that it handed to its inputs, shape (nodes,). The
        nodes inside control flow have rows of their own; its own one, if any, says what its constant first states (and
        what branches return that depends on no explained input) received.
      bias, stabilizer: what of the difference its bias and its stabiliser absorbed.
      size_received, size_passed: Σ |R| likewise.
      saturated: how many relevances, and ratios of relevance to a value, were cut off at their bounds.
      output, started, inputs: Σ R that the output began with, that began at nodes (`start`), and that reached the
        explained inputs.
      ended: what of the former began where the output depends on no explained input.
      unknown: how many of the explained scores, and of the relevances that began at nodes, are NaN. The maps of their
        examples are NaN, and no other number here counts them.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    rules: tuple[str, ...]
    sources: tuple[str, ...]
    received: Any
    passed: Any
    bias: Any
    stabilizer: Any
    size_received: Any
    size_passed: Any
    saturated: Any
    output: Any
    started: Any
    inputs: Any
    ended: Any
    unknown: Any

    @property
    def absorbed(self) -> Any:
        """What each node kept, Σ R received less Σ R passed."""
        return self.received - self.passed

    @property
    def other(self) -> Any:
        """What each node kept otherwise: blocked paths, constants, conditions, rules that do not conserve."""
        return self.absorbed - self.bias - self.stabilizer

    @property
    def gap(self) -> Any:
        """Σ R that began less all that is accounted for: rounding, unless something is wrong."""
        return self.output + self.started - self.ended - self.inputs - jnp.sum(self.absorbed, axis=-1)

    @property
    def growth(self) -> Any:
        """Σ |R| passed / Σ |R| received of each node; 1 where it received nothing."""
        none = self.size_received == 0
        return jnp.where(none, 1, self.size_passed / jnp.where(none, 1, self.size_received))

    def __str__(self) -> str:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self)):
            return f"Audit of {len(self.names)} nodes (traced)"
        return "\n".join(_audit_lines(_over_batch(self)))

    __repr__ = __str__


def _over_batch(audit: Audit) -> Audit:
    """Return an audit in NumPy, one under `vmap` as that of the whole batch."""
    totals = {name: np.asarray(getattr(audit, name)) for name in (*AMOUNTS, *_TOTALS)}
    extra = tuple(range(totals["output"].ndim))
    return replace(audit, **{name: np.sum(v, axis=extra) for name, v in totals.items()})


def make_audit(
    graph: Graph,
    rules: Mapping[Node, Rule],
    measured: Mapping[Node, Any],
    initial: Sequence[Any],
    shares: Sequence[Any],
    begun: Sequence[Any],
    given: Sequence[Any],
) -> Audit:
    """Return the audit of a graph from what its probes measured.

    Args:
      initial, shares, begun: relevance of the outputs and of the explained inputs, and what began at nodes.
      given: what the outputs were given, NaN where their value is.
    """
    nodes = list(measured)
    parts = {node: jax.tree.leaves(found) for node, found in measured.items()}
    widest = [jnp.result_type(v) for v in (*(part for found in parts.values() for part in found), *initial)]
    dtype = max(widest, key=lambda dtype: jnp.finfo(dtype).bits) if nodes else jnp.dtype(jnp.float32)
    per_turn = {node: [part.astype(dtype).reshape(-1, len(AMOUNTS)) for part in found] for node, found in parts.items()}
    over_turns = [sum(part.sum(axis=0) for part in per_turn[node]) for node in nodes]
    amounts = jnp.stack(over_turns) if nodes else jnp.zeros((0, len(AMOUNTS)), dtype)
    return Audit(
        names=tuple(graph.names.get(node) or node.path or "-" for node in nodes),
        kinds=tuple(node.kind for node in nodes),
        rules=tuple(repr(rules[node]) if node in rules else "-" for node in nodes),
        sources=tuple(node.source for node in nodes),
        **{name: amounts[:, k] for k, name in enumerate(AMOUNTS)},
        output=_sum(initial, dtype),
        started=_sum(begun, dtype),
        inputs=_sum(shares, dtype),
        ended=_sum([r for r, v in zip(initial, graph.outputs, strict=True) if v in graph.unmade], dtype),
        unknown=sum((jnp.sum(jnp.isnan(r), dtype=jnp.int32) for r in (*given, *begun)), jnp.zeros((), jnp.int32)),
    )


def _sum(relevances: Sequence[Any], dtype: Any) -> Any:
    """Return the sum of all relevance that is known."""
    return sum((jnp.nansum(r.astype(dtype)) for r in relevances), jnp.zeros((), dtype))


_THOUSANDFOLD = 1000
_ADVICE = (
    "contributions cancel there, and the map is mostly what is left of that; take a larger epsilon for it, or a rule "
    "that divides by no such sum: RelativePlus(), ZPlus(), of a sum ShareAbsolute()"
)


def _audit_lines(audit: Audit) -> list[str]:
    """Return the table of an audit, without the nodes through which relevance only moves, and what it comes to."""
    head = ("node", "kind", "rule", "received", "passed on", "by bias", "by stabiliser", "otherwise", "growth of Σ|R|")
    columns = (audit.received, audit.passed, audit.bias, audit.stabilizer, audit.other)
    noise = 1e-6 * np.max(audit.size_received, initial=0)
    shown = [k for k, kind in enumerate(audit.kinds) if kind != "movement" or abs(audit.absorbed[k]) > noise]
    number = lambda v: f"{v:.4g}" if abs(v) > noise else "0"
    rows = [
        (audit.names[k], audit.kinds[k], audit.rules[k], *(number(c[k]) for c in columns), f"{audit.growth[k]:.3g}")
        for k in shown
    ]
    kept = ", ".join(f"{number(np.sum(c))} {by}" for c, by in zip(columns[2:], head[5:8], strict=True))
    began = f" + started {number(audit.started)}" if abs(audit.started) > noise else ""
    total = f"output {number(audit.output)}{began} = inputs {number(audit.inputs)} + absorbed ({kept})"
    total += f" + gap {audit.gap:.1g}"
    if abs(audit.ended) > noise:
        total += f" + {number(audit.ended)} that depends on no explained input"
    lines = [*_table([head, *rows], "<<<" + ">" * 6), total]
    if audit.unknown:
        lines.append(
            f"NaN: {audit.unknown} of the scores, and so the maps of their examples, which nothing here counts"
        )
    if rows:
        loss, rise = int(np.argmax(np.abs(audit.absorbed))), int(np.argmax(audit.growth))
        lines.append(f"most is absorbed at {_place(audit, loss)}: {audit.absorbed[loss]:.4g}")
        lines.append(f"Σ|R| grows most at {_place(audit, rise)}: × {audit.growth[rise]:.3g}")
    grown = np.flatnonzero((audit.growth >= _THOUSANDFOLD) & (audit.size_passed > noise))
    lines += [f"at {_place(audit, int(k))} Σ|R| grows × {audit.growth[k]:.3g}: {_ADVICE}" for k in grown]
    lines += [f"relevance saturates at {_place(audit, int(k))}" for k in np.flatnonzero(audit.saturated)]
    return [*lines, _verdict(audit, noise)]


def _verdict(audit: Audit, noise: float) -> str:
    """Return in a sentence what the books mean for the map."""
    given = audit.output + audit.started - audit.ended
    if audit.unknown:
        return "A score that is NaN has no map: look at what the model makes of it, at masked rows, say."
    if np.any(audit.saturated):
        return "Relevance came to the end of its dtype: explain in float32, or take a rule without large factors."
    if abs(audit.gap) > 1e-3 * np.max(audit.size_received, initial=abs(given)):
        return "Some relevance is not accounted for: a rule of your own may hand on other than it says (see its sums)."
    kept = {"biases": audit.bias, "stabilisers": audit.stabilizer, "rules": audit.other}
    by, most = max(((by, abs(np.sum(amount))) for by, amount in kept.items()), key=lambda item: item[1])
    if most <= max(noise, 0.1 * abs(given)):
        return "The inputs have what the output gave, within a tenth: R may be read as parts of the score."
    return _KEPT[by]


_KEPT = {
    "biases": (
        "Biases keep much of the score, so ΣR is not the score: compare inputs with each other, or with a "
        "reference, and not R with the score."
    ),
    "stabilisers": "Stabilisers keep much of the score: take a smaller epsilon, or read the map as smoothed.",
    "rules": (
        "Rules keep or add much (κ of R-LRP, blocked paths, sums that share by size), so ΣR is not the score: "
        "read where R lies and its signs, and not its sum."
    ),
}


def _place(audit: Audit, k: int) -> str:
    return f"{audit.names[k]} ({audit.kinds[k]}, {audit.sources[k] or 'an unknown line'})"
