"""Make `captum.npz`, golden relevance of captum's LRP rules: captum 0.9.0, torch 2.13.0 (CPU), float64, seed 37.

To rerun: `pip install captum==0.9.0 torch==2.13.0 numpy`, then `python tests/parity/make_captum.py`.

The rule is set on every convolution and dense layer; pools and sums keep captum's default, ε. The batch norms of the
residual network stay as they are under ε (they are ε layers of their own) and are folded into their convolutions under
the other rules, which captum does not define for a batch norm. R_out is the logit of each example's highest score, and
zero elsewhere: captum sends back a relevance of 1 and multiplies what arrives by the logit (its docstring says
otherwise: "sum(relevance)=1"). Conventions that differ from zennit's and from jrlrp's defaults:

- ε is 1e-9 in every rule (`STABILITY_FACTOR`), also at sums, average pools and max-pools, where the winner takes
  x / (x + ε).
- `GammaRule` is the classic rule, w + γw⁺ for inputs of either sign, and the denominator has the whole bias b, not
  b + γb⁺.
- `Alpha1_Beta0_Rule` clamps weights alone: R_i = Σ_j x_i w_ij⁺ / (Σ_i x_i w_ij⁺ + b_j) R_j. That is αβ's (1, 0) only
  where inputs are not negative; elsewhere it is the limit γ → ∞ of the classic γ rule, and the bias, whole and
  unclamped, makes denominators that may be negative.
- `set_bias_to_zero=True` (goldens "NoBias") leaves the bias out of the denominators; without bias, α1β0 is that limit
  exactly.
- Sums share by ratio; ReLU hands relevance on unchanged; a module may be used once.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch_nets
from captum.attr import LRP
from captum.attr._utils.custom_modules import Addition_Module
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from torch import nn

RULES = {
    "Epsilon": EpsilonRule,
    "Gamma": lambda: GammaRule(gamma=0.25),
    "GammaNoBias": lambda: GammaRule(gamma=0.25, set_bias_to_zero=True),
    "Alpha1Beta0": Alpha1_Beta0_Rule,
    "Alpha1Beta0NoBias": lambda: Alpha1_Beta0_Rule(set_bias_to_zero=True),
}


def explain(net, x, rule):
    """Return captum's relevance of the highest score of each example."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.rule = rule()
    return LRP(net).attribute(x.clone().requires_grad_(), target=net(x).argmax(dim=1)).detach()


def goldens():
    """Return all arrays of the file."""
    nets, x = torch_nets.networks(Addition_Module)
    found = {}
    for name, net in nets.items():
        found |= torch_nets.arrays(name, net, x, net(x))
        for golden, rule in RULES.items():
            explained = net if golden == "Epsilon" else torch_nets.folded(net)
            found[f"{name}/relevance/{golden}"] = explain(explained, x, rule).numpy()
    return found


if __name__ == "__main__":
    versions = {name: np.array(version(name)) for name in ("captum", "torch", "numpy")}
    path = Path(__file__).with_name("captum.npz")
    np.savez_compressed(path, **goldens(), **versions, seed=np.array(torch_nets.SEED))
