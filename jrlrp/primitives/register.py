"""What users declare of primitives: `register_kind` and `register_rule`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jrlrp.errors import ArgumentError
from jrlrp.primitives import table
from jrlrp.primitives.row import Row

# The kinds that a primitive may be declared to be, each with the row that it has then.
DECLARED_KINDS = ("activation", "movement", "max_pool", "average_pool", "linear", "ends")
_REGISTERED: dict[Any, Any] = {}  # by primitive or its name: a kind or a rule


def look_up(primitive: Any, declared: Mapping[Any, Any] = MappingProxyType({})) -> tuple[Row, Any, bool]:
    """Return the row of a primitive, the rule that a user gave it, and whether a user said anything of it.

    Args:
      primitive: a JAX primitive.
      declared: what is declared for this call, as `declarations` returns it.
    """
    row = table.row_of(primitive) or table.unknown(primitive.name)
    for known in (declared, _REGISTERED):
        for key in (primitive, primitive.name, row.name):
            if key in known:
                said = known[key]
                return (table.declared(row.name, said), None, True) if isinstance(said, str) else (row, said, True)
    return row, None, False


def register_kind(primitive: Any, kind: str) -> None:
    """Declare what a primitive does, for every later call.

    Args:
      primitive: a JAX primitive, or its name as the error about it gives it.
      kind: what node it is: "activation" (an elementwise function), "movement", "max_pool" (takes some of the
        values), "average_pool" (sums them), "linear" or "ends" (relevance ends there).

    Raises:
      ArgumentError: for a kind that is not one of these.
    """
    if not isinstance(kind, str):
        raise ArgumentError(f"register_kind got kind={kind!r}; expected a name of a kind. Rules go to register_rule.")
    _REGISTERED.update(declarations({primitive: kind}))


def register_rule(primitive: Any, rule: Any) -> None:
    """Give a primitive a rule, for every later call and under every composite.

    Args:
      primitive: a JAX primitive, or its name.
      rule: `rule(inputs, output, relevance)`, which returns a tuple: the relevance of each of the primitive's inputs,
        or None for none. A primitive with several outputs gives the rule tuples of outputs and of relevances.
        `Pass()`, `Block()` and `Gradient()` will do as well.

    Raises:
      ArgumentError: for what is no function.
    """
    if isinstance(rule, str):
        raise ArgumentError(f"register_rule got {rule!r}; expected rule(inputs, output, relevance), a function.")
    _REGISTERED.update(declarations({primitive: rule}))


def declarations(primitives: Mapping[Any, Any] | None) -> dict[str, Any]:
    """Return checked declarations by primitive or name: each a kind or a rule.

    Raises:
      ArgumentError: for what is no primitive, or neither a kind nor a function.
    """
    checked = {}
    if not isinstance(primitives or {}, Mapping):
        raise ArgumentError(f"primitives={primitives!r}: expected a mapping from primitives to kinds or rules.")
    for primitive, declared in (primitives or {}).items():
        name = getattr(primitive, "name", primitive)
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"{primitive!r} is declared as {declared!r}; expected a JAX primitive or its name.")
        if isinstance(declared, str) and declared not in DECLARED_KINDS:
            raise ArgumentError(f"{name!r} got kind={declared!r}; expected one of {', '.join(DECLARED_KINDS)}.")
        serves = "custom" in getattr(declared, "kinds", ("custom",))  # a Rule has kinds, a function none
        if not isinstance(declared, str) and not (callable(declared) and serves):
            raise ArgumentError(
                f"{name!r} is declared as {declared!r}; expected a kind, a function rule(inputs, output, relevance), "
                "or a rule that serves any node: Pass(), Block() or Gradient()."
            )
        checked[primitive] = declared
    return checked
