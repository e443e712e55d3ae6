"""Which nodes of a graph a pattern names: what `capture`, `conditions` and `start` have in common."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from jrlrp.errors import ArgumentError
from jrlrp.graph.graph import Graph
from jrlrp.graph.nodes import Control, Node


def as_patterns(capture: Any) -> tuple[Any, ...]:
    """Return what `capture` names as a tuple: globs of module paths or node names, and matchers of nodes.

    Raises:
      ArgumentError: for anything else.
    """
    several = isinstance(capture, Iterable) and not isinstance(capture, str)
    patterns = tuple(capture) if several else (capture,)
    for pattern in patterns:
        check_pattern("capture", pattern)
    return patterns


def check_pattern(keyword: str, pattern: Any) -> None:
    """Raise ArgumentError for what is neither a glob nor a matcher, naming the keyword that got it."""
    if not isinstance(pattern, str) and not callable(pattern):
        raise ArgumentError(f"{keyword}={pattern!r}: expected globs of module paths, or matchers: match(...).")


def as_mapping(keyword: str, given: Any, value: str) -> dict[Any, Any]:
    """Return a mapping from patterns, or raise ArgumentError; `value` says what it should map them to."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ArgumentError(f"{keyword}={given!r}: expected a dict from patterns of nodes to {value}.")
    for pattern in given:
        check_pattern(keyword, pattern)
    return dict(given)


def named(graph: Graph, keyword: str, pattern: Any) -> list[Node]:
    """Return the nodes that a pattern names, in order.

    Raises:
      ArgumentError: if there are none, or one whose part on each device is not known; it names the keyword.
    """
    found = [node for node, name in graph.names.items() if _names(pattern, node, name)]
    found = [node for node in found if not isinstance(node, Control)]
    if graph.unchecked.intersection(found):
        raise ArgumentError(
            f"{keyword}={pattern!r} names a node inside shard_map(..., check_vma=False), where types do not say what "
            "is the same on all devices; leave out check_vma=False, or name what comes out of the shard_map."
        )
    if not found:
        known = ", ".join(list(graph.names.values())[:12]) or "(none: no relevance passes anything)"
        raise ArgumentError(f"{keyword}={pattern!r} matches no node; plan() prints their names. Some are: {known}.")
    return found


def _names(pattern: Any, node: Node, name: str) -> bool:
    if not isinstance(pattern, str):
        return bool(pattern(node))
    return fnmatchcase(node.path, pattern) or fnmatchcase(name, pattern)


def one_each(graph: Graph, keyword: str, pattern: Any) -> list[Node]:
    """Return the node that a glob names, or those that a matcher does; each has one output, of numbers.

    Raises:
      ArgumentError: as `named`, and for a glob that names several.
    """
    found = named(graph, keyword, pattern)
    if isinstance(pattern, str) and len(found) > 1:
        names = [graph.names[node] for node in found]
        rest = ", ..." if len(names) > 12 else ""
        raise ArgumentError(
            f"{keyword}={pattern!r} names {len(names)} nodes: {', '.join(names[:12])}{rest}. Name one of them, or give "
            "a matcher, match(path=...), for all."
        )
    for node in found:
        if len(node.outputs) != 1:
            raise ArgumentError(
                f"{keyword}={pattern!r} names {graph.names[node]}, a node of {len(node.outputs)} outputs; name one "
                "that comes before or after it."
            )
    return found
