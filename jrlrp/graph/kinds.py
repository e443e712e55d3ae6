"""What each primitive does, as a table. `register_kind` and `register_rule` add to it."""

from collections.abc import Mapping
from typing import Any

from jrlrp.errors import ArgumentError
from jrlrp.trace.program import Equation

# The meaning of a row. What an equation *is* depends on the table and on which of its operands carry relevance.
MEANINGS = {
    "arithmetic": "add, sub, mul, div, neg: affine, a sum or a product, as the operands decide",
    "curve": "elementwise and nonlinear: part of an activation",
    "choice": "takes some of the values: the winner takes all relevance",
    "movement": "places, copies or selects values: relevance moves back to where the values came from",
    "average": "sums values with non-negative weights: an average pool",
    "linear": "any other map linear in the operand that carries relevance",
    "contraction": "a product summed over axes: a dense or convolutional layer, or a product of two values",
    "ends": "relevance ends here",
}

_TABLE = {
    "arithmetic": "add sub mul div neg add_any",
    "curve": """
        abs acos acosh asin asinh atan atanh cbrt ceil cos cosh digamma erf erf_inv erfc exp exp2 expm1 floor
        integer_pow lgamma log log1p log2 logistic one_minus_square polynomial pow round rsqrt sign sin sinh sqrt
        square tan tanh max min clamp select_n atan2 rem nextafter bessel_i0e bessel_i1e igamma igammac polygamma""",
    "choice": """
        reduce_max reduce_min reduce_window_max reduce_window_min cummax cummin sort top_k approx_top_k
        pmax pmin scatter-max scatter-min scatter_max scatter_min""",
    "movement": """
        reshape transpose squeeze expand_dims broadcast_in_dim slice dynamic_slice dynamic_update_slice pad
        concatenate stack unstack split tile rev gather scatter convert_element_type reduce_precision
        sharding_constraint device_put layout_constraint mesh_cast reshard pbroadcast pvary pcast
        all_gather all_to_all ppermute real imag complex""",
    "average": "reduce_sum reduce_window_sum cumsum psum psum_invariant psum2",
    "linear": """
        fft conj scatter-add scatter_add triangular_solve custom_linear_solve reduce_scatter
        select_and_scatter_add""",
    "contraction": "dot_general conv_general_dilated",
    "ends": """
        eq ne lt le gt ge eq_to lt_to le_to and or not xor is_finite argmax argmin stop_gradient
        shift_left shift_right_arithmetic shift_right_logical population_count clz""",
}

_KINDS = {primitive: meaning for meaning, names in _TABLE.items() for primitive in names.split()}
_REGISTERED: dict[str, Any] = {}  # a kind or a rule

# Elementwise primitives whose truth values and integers may steer an activation from within.
POINTWISE = frozenset(
    [p for p, meaning in _KINDS.items() if meaning in ("arithmetic", "curve")]
    + """eq ne lt le gt ge and or not xor is_finite stop_gradient convert_element_type reduce_precision
    eq_to lt_to le_to sharding_constraint real imag conj copy device_put shift_left shift_right_logical
    shift_right_arithmetic population_count clz""".split()
)


def meaning_of(eqn: Equation) -> str | None:
    """Return the row of the table that an equation stands in, "rule" if it has one of its own, or None if unknown."""
    declared = _declared(eqn)
    if declared is None:
        return _KINDS.get(eqn.primitive)
    return declared if isinstance(declared, str) else "rule"


def rule_of(eqn: Equation) -> Any | None:
    """Return the rule that was declared for an equation or its primitive."""
    declared = _declared(eqn)
    return None if isinstance(declared, str) else declared


def is_pointwise(eqn: Equation) -> bool:
    """Tell whether each entry of the output depends on the operands' entries at the same place only."""
    declared = _declared(eqn)
    return eqn.primitive in POINTWISE if declared is None else declared == "curve"


def _declared(eqn: Equation) -> Any:
    return _REGISTERED.get(eqn.primitive) if eqn.declared is None else eqn.declared


def register_kind(primitive: Any, kind: str) -> None:
    """Declare what a primitive does, for every later call.

    Args:
      primitive: a JAX primitive, or its name as the error about it gives it.
      kind: "curve" (elementwise), "movement", "choice", "average", "linear" or "ends".

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
    """Return checked declarations by the primitives' names: each a kind or a rule.

    Raises:
      ArgumentError: for what is no primitive, or neither a kind nor a function.
    """
    checked = {}
    allowed = [k for k in MEANINGS if k not in ("arithmetic", "contraction")]
    if not isinstance(primitives or {}, Mapping):
        raise ArgumentError(f"primitives={primitives!r}: expected a mapping from primitives to kinds or rules.")
    for primitive, declared in (primitives or {}).items():
        name = getattr(primitive, "name", primitive)
        if not isinstance(name, str):
            raise ArgumentError(f"{primitive!r} is declared as {declared!r}; expected a JAX primitive or its name.")
        if isinstance(declared, str) and declared not in allowed:
            raise ArgumentError(f"{name!r} got kind={declared!r}; expected one of {', '.join(allowed)}.")
        serves = "custom" in getattr(declared, "kinds", ("custom",))  # a Rule has kinds, a function none
        if not isinstance(declared, str) and not (callable(declared) and serves):
            raise ArgumentError(
                f"{name!r} is declared as {declared!r}; expected a kind, a function rule(inputs, output, relevance), "
                "or a rule that serves any node: Pass(), Block() or Gradient()."
            )
        checked[name] = declared
    return checked
