"""Composites: which rule each node gets."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from jrlrp.errors import ArgumentError, RuleError, describe
from jrlrp.graph.nodes import GROUPS, KINDS, Custom, Node
from jrlrp.rules.base import Rule
from jrlrp.rules.epsilon import Epsilon, Zero
from jrlrp.rules.pooling import WinnerTakesAll
from jrlrp.rules.product import SignalTakesAll
from jrlrp.rules.softmax import SoftmaxTaylor
from jrlrp.rules.structure import FunctionRule, Gradient, Pass, ShareRatio

# What nodes get that no entry of a composite matches, where the mathematics leaves no real choice.
DEFAULTS: dict[str, Rule] = {
    "activation": Pass(),
    "factor": Pass(),
    "max_pool": WinnerTakesAll(),
    "sum": ShareRatio(),
}


@dataclass(frozen=True)
class Matcher:
    """Which nodes an entry of a composite is for; see `match`."""

    kinds: frozenset[str] | None = None
    path: str | None = None
    first: bool | None = None
    last: bool | None = None
    where: Callable[[Node], bool] | None = None

    def __call__(self, node: Node) -> bool:
        return (
            (self.kinds is None or node.kind in self.kinds)
            and (self.path is None or fnmatchcase(node.path, self.path))
            and (self.first is None or node.first == self.first)
            and (self.last is None or node.last == self.last)
            and (self.where is None or bool(self.where(node)))
        )

    def __repr__(self) -> str:
        kinds = self.kinds and " | ".join(k for k in KINDS if k in self.kinds)
        flags = [f"{'' if v else 'not '}{k}" for k, v in (("first", self.first), ("last", self.last)) if v is not None]
        where = self.where and f"where {getattr(self.where, '__name__', self.where)}"
        return ", ".join([part for part in (kinds, self.path, *flags, where) if part]) or "any"


def match(
    kind: str | Iterable[str] | None = None,
    path: str | None = None,
    first: bool | None = None,
    last: bool | None = None,
    where: Callable[[Node], bool] | None = None,
) -> Matcher:
    """Return a matcher of nodes; every argument that is given narrows it.

    Args:
      kind: "conv", "dense", "linear", "scale", "average_pool", "max_pool", "normalisation", "activation", "factor",
        "sum", "product", "softmax", or a group: "affine" (the first four), "pool" (both pools); or several of them.
      path: a glob of the module path, as `plan` prints it: "*/Block_*", say.
      first, last: whether a conv, dense or linear layer lies before (after) the node on any path.
      where: a predicate on the node, with its `kind`, `path`, `shape`, `source`, `first`, `last`.

    Raises:
      ArgumentError: for a kind that does not exist.
    """
    for name, value, allowed in (("path", path, str), ("first", first, bool), ("last", last, bool)):
        if value is not None and not isinstance(value, allowed):
            raise ArgumentError(f"match({name}={value!r}): expected {allowed.__name__} or None.")
    if where is not None and not callable(where):
        raise ArgumentError(f"match(where={where!r}): expected a predicate on nodes.")
    if kind is None:
        return Matcher(None, path, first, last, where)
    names = (kind,) if not isinstance(kind, Iterable) or isinstance(kind, str) else tuple(kind)
    for name in names:
        if name not in KINDS and name not in GROUPS:
            raise ArgumentError(f"match(kind={name!r}): expected one of {', '.join((*KINDS, *GROUPS))}.")
    kinds = frozenset(k for name in names for k in GROUPS.get(name, (name,)))
    return Matcher(kinds, path, first, last, where)


@dataclass(frozen=True, repr=False)
class Composite:
    """An ordered list of (matcher, rule) pairs; a node gets the rule of the last pair that matches and serves its kind.

    Args:
      entries: pairs of a matcher (`match(...)`, or any predicate on nodes) and a rule.
      base: a composite whose entries come before these.
      gradient: every node hands on plain derivatives, and inputs multiply what reaches them (`gradient_times_input`).

    Raises:
      ArgumentError: for an entry that is no such pair.
    """

    entries: Sequence[tuple[Callable[[Node], bool], Rule]] = ()
    base: "Composite | None" = None
    gradient: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.entries, (str, Matcher)) or not isinstance(self.entries, Sequence):
            raise ArgumentError(f"Composite got {self.entries!r}; expected a list of pairs (match(...), rule).")
        for entry in self.entries:
            if not (isinstance(entry, tuple) and len(entry) == 2 and callable(entry[0]) and isinstance(entry[1], Rule)):
                raise ArgumentError(f"Composite got the entry {entry!r}; expected a pair (match(...), rule).")
        if self.base is not None and not isinstance(self.base, Composite):
            raise ArgumentError(f"Composite got base={self.base!r}; expected a composite, epsilon_plus() say.")
        if not isinstance(self.gradient, bool):
            raise ArgumentError(f"Composite got gradient={self.gradient!r}; expected True or False.")
        if self.entries and (self.gradient or (self.base is not None and self.base.gradient)):
            raise ArgumentError("Composite got entries beside gradient × input, which has no rules; give another base.")
        inherited = self.base.entries if self.base is not None else ()
        object.__setattr__(self, "entries", (*inherited, *self.entries))
        object.__setattr__(self, "gradient", self.gradient or (self.base is not None and self.base.gradient))

    def rule_for(self, node: Node, unknown: str = "error") -> Rule | None:
        """Return the node's rule, or None if nothing fits; `unknown="gradient"` serves opaque nodes too."""
        if isinstance(node, Custom):
            return node.rule if isinstance(node.rule, Rule) else FunctionRule(node.rule)
        for matcher, rule in reversed(self.entries):
            if node.kind in rule.kinds and matcher(node):
                return rule
        if node.kind == "opaque":
            return Gradient() if unknown == "gradient" else None
        return DEFAULTS.get(node.kind)

    def __repr__(self) -> str:
        if self.gradient:
            return "Composite(gradient × input)"
        width = max((len(repr(matcher)) for matcher, _ in self.entries), default=0)
        rows = (f"  {matcher!r:<{width}}  ⇒  {rule!r}" for matcher, rule in self.entries)
        return "\n".join(("Composite(", *rows, ")"))


def classical(epsilon: Any = 1e-6) -> list[tuple[Matcher, Rule]]:
    """Return the entries that all classical presets share: ε for whatever is not conv or dense, ratio sums."""
    return [
        (match("affine"), Epsilon(epsilon)),
        (match(("average_pool", "normalisation")), Epsilon(epsilon)),
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
        if not rules.kinds.issuperset({"conv", "dense"}):
            raise ArgumentError(f"rules={rules!r} serves no conv and dense layers; put it in a Composite with a base.")
        return Composite([*classical(0.0 if isinstance(rules, Zero) else 1e-6), (match("affine"), rules)])
    hint = ": call it" if callable(rules) else ""
    raise ArgumentError(f"rules={rules!r}: expected a composite, epsilon_plus() say, a rule or None{hint}.")


NO_ENTRY = "no entry fits"


def fault(node: Node, rule: Rule | None) -> str | None:
    """Say why a node cannot have the rule that was found for it; None if it can."""
    if rule is None:
        return None if node.native else NO_ENTRY
    return rule.unfit(node)


def choose_rules(composite: Composite, nodes: Iterable[Node], unknown: str) -> dict[Node, Rule]:
    """Return the rule of every node that needs one.

    Raises:
      RuleError: listing every node for which the composite has no rule, or one that cannot serve it.
    """
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
    if faults:
        advice = (
            "Add entries for them, or give the composite a base: Composite([...], base=jrlrp.epsilon_plus())."
            if any(line.endswith(NO_ENTRY) for line in faults)
            else "Give these nodes other rules, or those rules other parameters."
        )
        listed = "\n".join(faults)
        raise RuleError(f"the composite has no rule for {len(faults)} node(s):\n{listed}\n{advice}")
    return chosen
