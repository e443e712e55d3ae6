"""Matchers: which nodes an entry of a composite is for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from jrlrp.errors import ArgumentError, JrlrpError, describe
from jrlrp.graph.nodes import GROUPS, KINDS, Node
from jrlrp.rules.base import brief


@dataclass(frozen=True)
class Matcher:
    """Which nodes an entry of a composite is for; see `match`."""

    kinds: frozenset[str] | None = None
    path: str | None = None
    first: bool | None = None
    last: bool | None = None
    where: Callable[[Node], bool] | None = None
    optional: bool = False

    def __call__(self, node: Node) -> bool:
        return (
            (self.kinds is None or node.kind in self.kinds)
            and (self.path is None or _named(node, self.path))
            and (self.first is None or node.first == self.first)
            and (self.last is None or node.last == self.last)
            and (self.where is None or holds(self.where, node))
        )

    def __repr__(self) -> str:
        kinds = self.kinds and " | ".join(k for k in KINDS if k in self.kinds)
        flags = [f"{'' if v else 'not '}{k}" for k, v in (("first", self.first), ("last", self.last)) if v is not None]
        where = self.where and f"where {getattr(self.where, '__name__', self.where)}"
        return ", ".join([part for part in (kinds, self.path, *flags, where) if part]) or "any"


def _named(node: Node, path: str) -> bool:
    """Tell whether a node's module path or name is `path`, or one that it is a glob of."""
    names = (node.path, node.name) if node.name else (node.path,)  # a movement has no name
    return path in names or any(fnmatchcase(given, path) for given in names)


# What a predicate raises that was not written for every node; any other error of a user's is left alone.
_OF_A_PREDICATE = (AttributeError, ArithmeticError, AssertionError, LookupError, TypeError, ValueError)


def holds(predicate: Callable[[Node], Any], node: Node) -> bool:
    """Tell whether a user's predicate holds for a node, or raise ArgumentError if that cannot be told."""
    shown = getattr(predicate, "__name__", repr(predicate))
    try:
        held = predicate(node)
    except JrlrpError:
        raise
    except _OF_A_PREDICATE as error:
        raise ArgumentError(
            f"the predicate {shown} of a composite raised {type(error).__name__}: {error}, for the {node.kind} "
            f"{describe(node)}; it gets each node that the rest of the entry fits, of any shape and kind."
        ) from error
    try:
        return bool(held)
    except (TypeError, ValueError) as error:  # as arrays of several entries, traced or not, raise
        raise ArgumentError(
            f"the predicate {shown} of a composite returned {brief(held)} for the {node.kind} {describe(node)}; "
            "expected True or False."
        ) from error


def match(
    kind: str | Iterable[str] | None = None,
    path: str | None = None,
    first: bool | None = None,
    last: bool | None = None,
    where: Callable[[Node], bool] | None = None,
    optional: bool = False,
) -> Matcher:
    """Return a matcher of nodes; every argument that is given narrows it.

    Args:
      kind: "conv", "dense", "linear", "scale", "average_pool", "max_pool", "normalisation", "activation", "factor",
        "sum", "product", "softmax", or a group: "affine" (the first four), "pool" (both pools); or several of them.
      path: a glob of the module path or of the name that `plan` prints: "*/Block_*", "dense#0", say.
      first, last: whether a conv, dense or linear layer lies before (after) the node on any path.
      where: a predicate on the node, with its `kind`, `path`, `name`, `shape`, `source`, `first`, `last`,
        and `convolved`, which says whether a convolution whose windows overlap lies before it, or is it.
      optional: whether the entry may be without effect: else a network in which it gives no node its rule is an error.

    Raises:
      ArgumentError: for a kind that does not exist.

    Example:
      >>> rules = jrlrp.Composite([(jrlrp.match("affine", first=False), jrlrp.ZPlus())], base=jrlrp.epsilon())
      >>> model = lambda x: jax.nn.relu(x @ jnp.ones((4, 3))) @ jnp.ones((3, 2))
      >>> [node.rule for node in jrlrp.plan(model, jnp.ones((2, 4)), rules=rules).nodes]
      [Epsilon(), Pass(), ZPlus()]
    """
    for name, value, allowed in (("path", path, str), ("first", first, bool), ("last", last, bool)):
        if value is not None and not isinstance(value, allowed):
            raise ArgumentError(f"match({name}={value!r}): expected {allowed.__name__} or None.")
    if not isinstance(optional, bool):
        raise ArgumentError(f"match(optional={optional!r}): expected True or False.")
    if where is not None and not callable(where):
        raise ArgumentError(f"match(where={where!r}): expected a predicate on nodes.")
    if kind is None:
        return Matcher(None, path, first, last, where, optional)
    names: tuple[Any, ...] = (kind,) if not isinstance(kind, Iterable) or isinstance(kind, str) else tuple(kind)
    for name in names or (kind,):
        if not isinstance(name, str) or name not in (*KINDS, *GROUPS):
            raise ArgumentError(f"match(kind={name!r}): expected one of {', '.join((*KINDS, *GROUPS))}.")
    kinds = frozenset(k for name in names for k in GROUPS.get(name, (name,)))
    return Matcher(kinds, path, first, last, where, optional)
