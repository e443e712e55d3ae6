"""What the examples call the presets, and how `--rules` chooses among them."""

import argparse
from collections.abc import Collection

TITLES = {
    "default": "the default",
    "relative": "R-LRP",
    "relative_plus": "R-LRP-plus",
    "epsilon": "ε",
    "epsilon_plus": "ε-plus (z⁺ for convolutions)",
    "epsilon_plus_flat": "ε-plus, flat",
    "epsilon_gamma_box": "ε-γ-box",
    "epsilon_alpha2_beta1": "ε-α2β1",
    "epsilon_alpha2_beta1_flat": "ε-α2β1, flat",
    "deep_taylor": "deep Taylor",
    "attn_lrp": "AttnLRP",
    "cp_lrp": "CP-LRP",
    "gradient_times_input": "gradient × input",
}


def chosen(parser: argparse.ArgumentParser, names: str, presets: Collection[str]) -> list[str]:
    """Return the names in a comma-separated list; end the program with a message if one is of no preset."""
    found = [name.strip() for name in names.split(",")]
    for name in found:
        if name not in presets:
            parser.error(f"there is no preset {name!r}; choose of {', '.join(presets)}")
    return found
