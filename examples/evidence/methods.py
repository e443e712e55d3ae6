"""The methods that are compared."""

from collections.abc import Callable

import jax
from cases import Case

import jrlrp
from jrlrp import baselines

Explain = Callable[[jax.Array], jax.Array]
Method = Callable[[Case], Explain | None]  # None where it cannot be applied


def by_rules(rules: jrlrp.Composite) -> Method:
    return lambda case: jrlrp.relevance(case.model, rules=rules)


def of_numbers(make: Callable[[Case], Explain]) -> Method:
    """Return a method that ids have none of."""
    return lambda case: None if case.bounds is None else make(case)


def of_small(make: Callable[[Case], Explain]) -> Method:
    """Return a method of numbers that is too slow for large networks."""
    return lambda case: make(case) if case.small else None


def occlusion(case: Case) -> Explain | None:
    """Windows of 4 × 4 pixels, those of a series, single features of a table, single ids."""
    if not (case.small or case.bounds is None):
        return None
    replace = 0.0 if case.replace == "zero" else case.replace
    return baselines.occlusion(case.model, window=4 if case.x.ndim == 4 else case.region, replace=replace)


PRESETS: dict[str, Method] = {
    "default": by_rules(jrlrp.default()),
    "R-LRP, absolute": by_rules(jrlrp.relative()),
    "R-LRP, ratio": by_rules(jrlrp.relative("ratio")),
    "R-LRP, symmetric": by_rules(jrlrp.relative("symmetric")),
    "R-LRP-plus": by_rules(jrlrp.relative_plus()),
    "ε": by_rules(jrlrp.epsilon()),
    "ε-plus": by_rules(jrlrp.epsilon_plus()),
    "ε-plus-flat": by_rules(jrlrp.epsilon_plus_flat()),
    "ε-γ-box": of_numbers(lambda case: jrlrp.relevance(case.model, rules=jrlrp.epsilon_gamma_box(*case.bounds))),
    "α2β1": by_rules(jrlrp.epsilon_alpha2_beta1()),
    "AttnLRP": by_rules(jrlrp.attn_lrp()),
    "CP-LRP": by_rules(jrlrp.cp_lrp()),
}
METHODS: dict[str, Method] = PRESETS | {
    "gradient × input": by_rules(jrlrp.gradient_times_input()),
    "integrated gradients": of_numbers(lambda case: baselines.integrated_gradients(case.model, steps=16)),
    "SmoothGrad × input": of_small(lambda case: baselines.smooth_grad(case.model, samples=16, times_input=True)),
    "occlusion": occlusion,
    "random": lambda case: lambda x: jax.random.normal(jax.random.key(0), x.shape),
}
