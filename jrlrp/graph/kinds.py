"""What each primitive does, as a table. `register_kind` adds a row."""

from jrlrp.errors import ArgumentError

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
    "linear": "fft conj scatter-add scatter_add triangular_solve reduce_scatter select_and_scatter_add",
    "contraction": "dot_general conv_general_dilated",
    "ends": """
        eq ne lt le gt ge eq_to lt_to le_to and or not xor is_finite argmax argmin stop_gradient
        shift_left shift_right_arithmetic shift_right_logical population_count clz""",
}

_KINDS = {primitive: meaning for meaning, names in _TABLE.items() for primitive in names.split()}
_REGISTERED: dict[str, str] = {}

# Elementwise primitives whose truth values and integers may steer an activation from within.
POINTWISE = frozenset(
    [p for p, meaning in _KINDS.items() if meaning in ("arithmetic", "curve")]
    + """eq ne lt le gt ge and or not xor is_finite stop_gradient convert_element_type reduce_precision
    eq_to lt_to le_to sharding_constraint real imag conj copy device_put shift_left shift_right_logical
    shift_right_arithmetic population_count clz""".split()
)


def meaning_of(primitive: str) -> str | None:
    """Return the row of the table that a primitive stands in, or None for one that the library does not know."""
    return _REGISTERED.get(primitive) or _KINDS.get(primitive)


def is_pointwise(primitive: str) -> bool:
    """Tell whether each entry of the output depends on the operands' entries at the same place only."""
    registered = _REGISTERED.get(primitive)
    return primitive in POINTWISE if registered is None else registered == "curve"


def register_kind(primitive: str, kind: str) -> None:
    """Declare what a primitive does, for every later call.

    Args:
      primitive: a JAX primitive, or its name as the error about it gives it.
      kind: "curve" (elementwise), "movement", "choice", "average", "linear" or "ends".

    Raises:
      ArgumentError: for a kind that is not one of these.
    """
    name = getattr(primitive, "name", primitive)
    if not isinstance(name, str):
        raise ArgumentError(f"register_kind got {primitive!r}; expected a JAX primitive or its name.")
    allowed = [k for k in MEANINGS if k not in ("arithmetic", "contraction")]
    if kind not in allowed:
        raise ArgumentError(f"register_kind got kind={kind!r} for {name!r}; expected one of {', '.join(allowed)}.")
    _REGISTERED[name] = kind
