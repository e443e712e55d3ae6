"""A minute of random programs, the same ones every time. `make fuzz` tries thousands."""

from collections import Counter

import jax
import pytest
from fuzz.properties import RULES
from fuzz.search import each, failure, reduced

# How many programs for each property, in either of two parts, by what they cost.
COUNTS = {
    "value": 6,
    "finite": 3,
    "gradient × input": 6,
    "jit = eager": 3,
    "batch = alone": 3,
    "vmap = loop": 2,
    "audit closes": 6,
    "equal spellings": 6,
    "at the logits": 6,
    "recognised": 6,
    "no surprise": 6,
}


@pytest.fixture(autouse=True)
def _unoptimised(_optimisations):
    jax.config.update("jax_disable_most_optimizations", True)  # these programs run once


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("name", COUNTS)
def test_property(name, part):
    def holds(program, rules):
        failed, message = failure(name, program, rules)
        if failed:
            smallest, message = reduced(name, program, rules, message)
            pytest.fail(f"{name}: {message}\n{smallest.listing()}", pytrace=False)

    each(COUNTS[name], part, list(RULES), holds)


def test_most_programs_hold_a_softmax_a_norm_or_a_product():
    holding = []
    each(200, 0, list(RULES), lambda program, rules: holding.append(program.holds))
    assert sum(map(bool, holding)) >= 0.6 * len(holding)
    kinds = Counter(what for found in holding for what in found)
    assert min(kinds[what] for what in ("softmax", "norm", "product")) >= 20
