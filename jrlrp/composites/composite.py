"""Composites: which rule each node gets."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jrlrp.composites.matcher import Matcher, holds, match
from jrlrp.errors import ArgumentError, RuleError, describe
from jrlrp.graph.nodes import KINDS, Custom, Node
from jrlrp.rules.base import Rule
from jrlrp.rules.epsilon import Epsilon, Zero
from jrlrp.rules.pooling import WinnerTakesAll
from jrlrp.rules.product import SignalTakesAll
from jrlrp.rules.softmax import ShareExponential, SoftmaxTaylor
from jrlrp.rules.structure import FunctionRule, Gradient, Pass, ShareRatio

# What nodes get that no entry of a composite matches, where the mathematics leaves no real choice.
DEFAULTS: dict[str, Rule] = {
    "activation": Pass(),
    "factor": Pass(),
    "max_pool": WinnerTakesAll(),
    "sum": ShareRatio(),
    "log_sum_exp": ShareExponential(),
}


Entry = tuple[Callable[[Node], bool], Rule]


@dataclass(frozen=True, repr=False)
class Composite:
    """An ordered list of (matcher, rule) pairs; a node gets the rule of the last pair that matches and serves its kind.

    Each entry has to give its rule to some node of the network, or that is a RuleError before anything runs; those of
    the base, and optional ones (`match(..., optional=True)`), need not.

    Args:
      entries: pairs of a matcher (`match(...)`, or any predicate on nodes) and a rule.
      base: a composite whose entries come before these.
      gradient: every node hands on plain derivatives, and inputs multiply what reaches them (`gradient_times_input`).

    Raises:
      ArgumentError: for an entry that is no such pair.
      RuleError: for a rule that serves no kind of node.
    """

    entries: Sequence[Entry] = ()
    base: "Composite | None" = None
    gradient: bool = False
    own: int = field(default=0, init=False, compare=False)  # how many entries at the end are not the base's

    def __post_init__(self) -> None:
        if isinstance(self.entries, (str, Matcher)) or not isinstance(self.entries, Sequence):
            raise ArgumentError(f"Composite got {self.entries!r}; expected a list of pairs (match(...), rule).")
        for entry in self.entries:
            _check_entry(entry)
        if self.base is not None and not isinstance(self.base, Composite):
            raise ArgumentError(f"Composite got base={self.base!r}; expected a composite, epsilon_plus() say.")
        if not isinstance(self.gradient, bool):
            raise ArgumentError(f"Composite got gradient={self.gradient!r}; expected True or False.")
        if self.entries and (self.gradient or (self.base is not None and self.base.gradient)):
            raise ArgumentError("Composite got entries beside gradient × input, which has no rules; give another base.")
        inherited = self.base.entries if self.base is not None else ()
        object.__setattr__(self, "own", len(self.entries))
        object.__setattr__(self, "entries", (*inherited, *self.entries))
        object.__setattr__(self, "gradient", self.gradient or (self.base is not None and self.base.gradient))

    def rule_for(self, node: Node, unknown: str = "error") -> Rule | None:
        """Return the node's rule, or None if nothing fits; `unknown="gradient"` serves opaque nodes too."""
        if isinstance(node, Custom):
            return node.rule if isinstance(node.rule, Rule) else FunctionRule(node.rule)
        for entry in reversed(self.entries):
            if _serves(entry, node):
                return entry[1]
        if node.kind == "opaque":
            return Gradient() if unknown == "gradient" else None
        return DEFAULTS.get(node.kind)

    def __repr__(self) -> str:
        if self.gradient:
            return "Composite(gradient × input)"
        width = max((len(repr(matcher)) for matcher, _ in self.entries), default=0)
        rows = (f"  {matcher!r:<{width}}  ⇒  {rule!r}" for matcher, rule in self.entries)
        return "\n".join(("Composite(", *rows, ")"))


def _check_entry(entry: Any) -> None:
    """Raise ArgumentError for what is no pair of a matcher and a rule, RuleError for a rule that serves nothing."""
    matcher, rule = entry if isinstance(entry, tuple) and len(entry) == 2 else (None, None)
    if matcher is match or not callable(matcher) or isinstance(matcher, Rule) or not isinstance(rule, Rule):
        called = [v.__name__ for v in (matcher, rule) if v is match or isinstance(v, type)]
        hint = f": call {' and '.join(f'{name}(...)' for name in called)}" if called else ""
        raise ArgumentError(f"Composite got the entry {entry!r}; expected a pair (match(...), rule){hint}.")
    check_kinds(rule)


def check_kinds(rule: Rule) -> None:
    """Raise RuleError unless a rule serves some kinds of node, all of which exist."""
    kinds = rule.kinds
    if not (isinstance(kinds, (set, frozenset)) and kinds and kinds.issubset(KINDS)):
        raise RuleError(
            f"{type(rule).__name__}.kinds is {kinds!r}: expected the kinds of node that the rule serves, "
            f'frozenset({{"dense"}}) say, of {", ".join(KINDS)}.'
        )


def _serves(entry: Entry, node: Node) -> bool:
    """Tell whether an entry fits a node, and its rule serves that kind."""
    matcher, rule = entry
    if node.kind not in rule.kinds:
        return False
    return matcher(node) if isinstance(matcher, Matcher) else holds(matcher, node)


def as_optional(entries: Iterable[tuple[Matcher, Rule]]) -> list[Entry]:
    """Return the entries of a preset, none of which has to have an effect on every network."""
    return [(replace(matcher, optional=True), rule) for matcher, rule in entries]


def classical(epsilon: Any = 1e-6) -> list[tuple[Matcher, Rule]]:
    """Return the entries that all classical presets share: ε for whatever is not conv or dense, ratio sums."""
    return [
        (match("affine"), Epsilon(epsilon)),
        (match(("average_pool", "fixed", "normalisation")), Epsilon(epsilon)),
        (match("sum"), ShareRatio(epsilon)),
        (match("product"), SignalTakesAll(Epsilon(epsilon))),
        (match("softmax"), SoftmaxTaylor()),
    ]


def as_composite(rules: Any, default: Callable[[], Composite]) -> Composite:
    """Return `rules` as a composite: None is the default, a single rule is for all affine layers.

    Raises:
      ArgumentError: for anything else.
    """
    if rules is None:
        return default()
    if isinstance(rules, Composite):
        return rules
    if isinstance(rules, Rule):
        check_kinds(rules)
        if not rules.kinds.issuperset({"conv", "dense"}):
            raise ArgumentError(f"rules={rules!r} serves no conv and dense layers; put it in a Composite with a base.")
        base = Composite(classical(0.0 if isinstance(rules, Zero) else 1e-6))
        return Composite([(match("affine", optional=True), rules)], base=base)  # of all layers, if there are any
    several = isinstance(rules, (list, tuple, dict))
    hint = "; write Composite([...], base=...)" if several else ": call it" if callable(rules) else ""
    raise ArgumentError(f"rules={rules!r}: expected a composite, epsilon_plus() say, a rule or None{hint}.")


NO_ENTRY = "no entry fits"


def fault(node: Node, rule: Rule | None) -> str | None:
    """Say why a node cannot have the rule that was found for it; None if it can."""
    if rule is None:
        return None if node.native else NO_ENTRY
    return rule.unfit(node)


def without_effect(composite: Composite, nodes: Iterable[Node]) -> list[str]:
    """Say of each entry of a composite's own that gives no node its rule, and is not optional, why it does not."""
    own = composite.entries[len(composite.entries) - composite.own :]
    if composite.gradient or all(_is_optional(matcher) for matcher, _ in own):
        return []
    nodes = list(nodes)
    ruled = [node for node in nodes if not (node.native or isinstance(node, Custom))]
    chosen = {node: next((k for k in reversed(range(len(own))) if _serves(own[k], node)), -1) for node in ruled}
    idle = [k for k, (matcher, _) in enumerate(own) if k not in chosen.values() and not _is_optional(matcher)]
    taken = {k: {node for node in ruled if chosen[node] > k} for k in idle}
    return [f"{_shown(own[k])}: {_why(own[k], nodes, taken[k])}" for k in idle]


def _is_optional(matcher: Any) -> bool:
    return isinstance(matcher, Matcher) and matcher.optional


def _shown(entry: Entry) -> str:
    matcher, rule = entry
    shown = repr(matcher) if isinstance(matcher, Matcher) else getattr(matcher, "__name__", repr(matcher))
    return f"{shown}  ⇒  {rule!r}"


def _why(entry: Entry, nodes: Sequence[Node], taken: set[Node]) -> str:
    """Say why an entry gives no node its rule; a predicate is not asked of what later ones have taken."""
    matcher, rule = entry
    fitting = [node for node in nodes if not isinstance(matcher, Matcher) or replace(matcher, where=None)(node)]
    served = [node for node in fitting if node.kind in rule.kinds]
    if not fitting:
        return "matches no node"
    if not served:
        of, serves = (", ".join(k for k in KINDS if k in kinds) for kinds in ({n.kind for n in fitting}, rule.kinds))
        return f"matches only nodes of kind {of}, and {type(rule).__name__} serves {serves}"
    if not isinstance(matcher, Matcher) or matcher.where is not None:
        left = ", of those that later entries leave" if taken.intersection(served) else ""
        return f"matches no node that {type(rule).__name__} serves{left}"
    if all(node.native for node in served):
        return "relevance moves through all that it matches, which has no rules"
    if all(node.native or isinstance(node, Custom) for node in served):
        return "all that it matches has rules of its own"
    return "later entries match all of its nodes"


def choose_rules(composite: Composite, nodes: Iterable[Node], unknown: str) -> dict[Node, Rule]:
    """Return the rule of every node that needs one.

    Raises:
      RuleError: listing every node for which the composite has no rule, or one that cannot serve it, and every entry
        that its user wrote in vain.
    """
    nodes = list(nodes)
    chosen, faults = {}, []
    for node in nodes:
        if node.native or composite.gradient:
            continue
        rule = composite.rule_for(node, unknown)
        reason = fault(node, rule)
        if reason is not None:
            faults.append(f"  - {node.kind} {describe(node)}: {reason}")
        elif rule is not None:
            chosen[node] = rule
    said = []
    if faults:
        advice = (
            "Add entries for them, or give the composite a base: Composite([...], base=jrlrp.epsilon_plus())."
            if any(line.endswith(NO_ENTRY) for line in faults)
            else "Give these nodes other rules, or those rules other parameters."
        )
        listed = "\n".join(faults)
        said.append(f"the composite has no rule for {len(faults)} node(s):\n{listed}\n{advice}")
    if idle := without_effect(composite, nodes):
        names = dict.fromkeys(node.name or node.path or node.kind for node in nodes if not node.native)
        known = ", ".join(list(names)[:12]) or "(none: no relevance passes anything)"
        entries = "1 entry of the composite has" if len(idle) == 1 else f"{len(idle)} entries of the composite have"
        said.append(
            f"{entries} no effect on this function:\n"
            + "".join(f"  - {line}\n" for line in idle)
            + f"plan() prints the nodes; some are: {known}. match(..., optional=True) allows an entry to have none."
        )
    if said:
        raise RuleError("\n".join(said))
    return chosen
