"""Make `zennit.npz`, golden relevance of zennit's composites: zennit 0.5.1, torch 2.13.0 (CPU), float64, seed 37.

To rerun: `pip install zennit==0.5.1 torch==2.13.0 numpy`, then `python tests/parity/make_zennit.py`.

R_out is the logit of each example's highest score, and zero elsewhere. Where zennit has a choice of its own:

- Biases keep their shares, also in `WSquare`, whose denominators have b²; in `Flat` and `ZBox` they drop out.
- `AlphaBeta` writes α − β = 1: its (2, 1) is (2, −1) in jrlrp.
- Its γ rule is the generalised one; a unit whose z is exactly zero passes nothing on. The sign of z is that with the
  bias, even where `zero_params` leaves the bias out of the denominators.
- The stabiliser is ε·sgn z with sgn 0 = +1; `norm_scale` multiplies ε by the root mean square of an example's z.
- ReLU hands relevance on unchanged, but in `ExcitationBackprop` by its gradient, as max-pools do everywhere.
- Folding a batch norm leaves one of variance 1 behind, so that activations shrink by √(1 + eps): see `torch_nets.py`.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch_nets
import torchvision_stub  # noqa: F401
from torch import nn
from zennit import composites, rules
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.core import Stabilizer
from zennit.layer import Sum
from zennit.types import Linear


class Add(nn.Module):
    """A sum as zennit's hooks need it: of one stacked tensor."""

    def __init__(self):
        super().__init__()
        self.sum = Sum()

    def forward(self, a, b):
        return self.sum(torch.stack([a, b], dim=-1))


def everywhere(rule, canonizers=()):
    """Return a composite with one rule for all convolutions and dense layers."""
    return composites.LayerMapComposite([*composites.layer_map_base(), (Linear, rule)], list(canonizers))


PRESETS = {
    "Epsilon": lambda **kw: everywhere(rules.Epsilon(1e-6), **kw),
    "EpsilonPlus": composites.EpsilonPlus,
    "EpsilonPlusFlat": composites.EpsilonPlusFlat,
    "EpsilonGammaBox": lambda **kw: composites.EpsilonGammaBox(low=-3.0, high=3.0, **kw),
    "EpsilonAlpha2Beta1": composites.EpsilonAlpha2Beta1,
    "EpsilonAlpha2Beta1Flat": composites.EpsilonAlpha2Beta1Flat,
    "ExcitationBackprop": composites.ExcitationBackprop,
}
RULES = {  # on the VGG-like network alone
    "WSquare": lambda **kw: everywhere(rules.WSquare(), **kw),
    "WSquareNoBias": lambda **kw: everywhere(rules.WSquare(zero_params=["bias"]), **kw),
    "Flat": lambda **kw: everywhere(rules.Flat(), **kw),
    "Gamma": lambda **kw: everywhere(rules.Gamma(0.25), **kw),
    "EpsilonNormScale": lambda **kw: everywhere(rules.Epsilon(Stabilizer(epsilon=0.1, norm_scale=True)), **kw),
}


def of_top_class(logits):
    return torch.where(logits == logits.max(dim=1, keepdim=True).values, logits, 0.0).detach()


def goldens():
    """Return all arrays of the file."""
    nets, x = torch_nets.networks(Add)
    found = {}
    for name, net in nets.items():
        found |= torch_nets.arrays(name, net, x, net(x))
        for golden, make in (PRESETS | RULES if name == "vgg" else PRESETS).items():
            composite = make(canonizers=[SequentialMergeBatchNorm()])
            _, relevance = Gradient(net, composite)(x.clone().requires_grad_(), of_top_class)
            found[f"{name}/relevance/{golden}"] = relevance.numpy()
    return found


if __name__ == "__main__":
    versions = {name: np.array(version(name)) for name in ("zennit", "torch", "numpy")}
    path = Path(__file__).with_name("zennit.npz")
    np.savez_compressed(path, **goldens(), **versions, seed=np.array(torch_nets.SEED))
