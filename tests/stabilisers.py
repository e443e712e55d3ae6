"""Rules with finer stabilisers, where what these add would hide how far apart two maps are."""

from dataclasses import fields, replace
from typing import Any

import jrlrp
from jrlrp.composites.composite import as_composite


def refined(rules: Any, epsilon: float = 1e-12) -> jrlrp.Composite:
    """Return rules, or the default for None, as a composite that has `epsilon` wherever they have the field's 1e-6."""
    composite = as_composite(rules, jrlrp.default)
    if composite.gradient:
        return composite
    entries = tuple((matcher, _refined(rule, epsilon)) for matcher, rule in composite.entries)
    return jrlrp.Composite([], base=jrlrp.Composite(entries))


def _refined(rule: jrlrp.Rule, epsilon: float) -> jrlrp.Rule:
    changed = {}
    for field in fields(rule):
        value = getattr(rule, field.name)
        if isinstance(value, jrlrp.Rule):
            changed[field.name] = _refined(value, epsilon)
        elif field.name == "epsilon" and value == 1e-6:
            changed[field.name] = epsilon
    return replace(rule, **changed)
