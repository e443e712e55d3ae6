"""jrlrp beside zennit, captum and LXT: relevance of the same networks, entry by entry, in float64.

`zennit.npz`, `captum.npz` and `lxt.npz` hold the peers' golden numbers; `make_zennit.py`, `make_captum.py` and
`make_lxt.py` make them again and say with which versions and seeds. `python tests/parity/test_parity.py` prints how far
apart the numbers are.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jax_nets
import jax_transformers
import numpy as np
import pytest

import jrlrp


@dataclass(frozen=True, repr=False)
class ClampedWeights(jrlrp.Rule):
    """captum's Alpha1_Beta0_Rule, which clamps weights and not contributions, beside the whole bias."""

    kinds = frozenset({"conv", "dense"})

    def __call__(self, layer, inputs, output, relevance):
        (x,), w = inputs, jnp.maximum(layer.weight, 0)
        z = layer.map(x, w) + layer.bias
        return (x * layer.pull(relevance / (z + 1e-9 * jnp.where(z < 0, -1, 1)), w),)


def captum(rule, first=None):
    """Return a composite with captum's ε of 1e-9 in all else, and a rule for convolutions and dense layers."""
    return jrlrp.Composite(
        [
            (jrlrp.match("average_pool", optional=True), jrlrp.Epsilon(1e-9)),
            (jrlrp.match("sum", optional=True), jrlrp.ShareRatio(1e-9)),
            (jrlrp.match(("conv", "dense")), rule),
            (jrlrp.match(("conv", "dense"), first=True), first or rule),
        ]
    )


CASES = {
    "zennit": {
        "Epsilon": jrlrp.epsilon(),
        "EpsilonPlus": jrlrp.epsilon_plus(),
        "EpsilonPlusFlat": jrlrp.epsilon_plus_flat(),
        "EpsilonGammaBox": jrlrp.epsilon_gamma_box(-3.0, 3.0),
        "EpsilonAlpha2Beta1": jrlrp.epsilon_alpha2_beta1(),
        "EpsilonAlpha2Beta1Flat": jrlrp.epsilon_alpha2_beta1_flat(),
        "ExcitationBackprop": jrlrp.excitation_backprop(),
        # zennit counts the bias among the weights, unless it is told to leave it out.
        "WSquare": jrlrp.WSquare(bias="absorb"),
        "WSquareNoBias": jrlrp.WSquare(),
        "Flat": jrlrp.Flat(),
        "Gamma": jrlrp.Gamma(),
        "EpsilonNormScale": jrlrp.Epsilon(0.1, relative=True),
    },
    "captum": {
        "Epsilon": captum(jrlrp.Epsilon(1e-9)),
        # captum's γ rule is the classic one and has the whole bias in every denominator, not b + γb⁺.
        "Gamma": captum(jrlrp.Gamma(0.25, 1e-9, "whole", "classic")),
        "GammaNoBias": captum(jrlrp.Gamma(0.25, 1e-9, "ignore", "classic")),
        # captum clamps weights alone. Where inputs are not negative, that is z⁺ with the whole bias.
        "Alpha1Beta0": captum(jrlrp.ZPlus(1e-9, "whole"), first=ClampedWeights()),
        # Without bias it is the limit γ → ∞ of the classic γ rule, whose denominators, ε too, are γ times as large.
        "Alpha1Beta0NoBias": captum(jrlrp.Gamma(1e12, 1e-9 * 1e12, "ignore", "classic")),
    },
    "lxt": {"AttnLRP": jrlrp.attn_lrp()},
}
NETS = {"zennit": jax_nets.NETS, "captum": jax_nets.NETS, "lxt": jax_transformers.NETS}
# transformers computes the RMS norms and rotary embeddings of Llama in float32.
ROUNDING = {("lxt", "llama"): 2e-6}

GOLDENS = {peer: dict(np.load(Path(__file__).with_name(f"{peer}.npz"))) for peer in CASES}
NAMES = [(peer, *key.split("/relevance/")) for peer in GOLDENS for key in GOLDENS[peer] if "/relevance/" in key]


def network(peer, net, dtype=jnp.float64):
    """Return a network as a function of its input, with the weights that the peer had."""
    prefix = f"{net}/weights/"
    weights = {k.removeprefix(prefix): jnp.asarray(v, dtype) for k, v in GOLDENS[peer].items() if k.startswith(prefix)}
    return partial(NETS[peer][net], weights)


def deviation(peer, net, name):
    """Return the largest difference from a golden relevance map in parts of its largest entry."""
    golden = GOLDENS[peer]
    actual = jrlrp.relevance(network(peer, net), rules=CASES[peer][name])(golden[f"{net}/input"])
    expected = golden[f"{net}/relevance/{name}"]
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def loss(net, rules, dtype):
    """Return how far relevance in narrow numbers is from that in float64, root of mean square against the same."""
    golden = GOLDENS["lxt"]
    target = golden[f"{net}/logits"].argmax(-1)

    def explained(dtype):
        explain = jrlrp.relevance(network("lxt", net, dtype), rules=rules, target=target)
        return np.asarray(explain(jnp.asarray(golden[f"{net}/input"], dtype)), np.float64)

    expected = explained(jnp.float64)
    with jax.enable_x64(False):  # NumPy's numbers in the networks would be wide
        return float(np.linalg.norm(explained(dtype) - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("peer", "net"), [(peer, net) for peer in CASES for net in NETS[peer]])
def test_the_networks_are_the_same(peer, net):
    golden = GOLDENS[peer]
    logits = network(peer, net)(golden[f"{net}/input"])
    np.testing.assert_allclose(logits, golden[f"{net}/logits"], rtol=0, atol=ROUNDING.get((peer, net), 1e-12))


@pytest.mark.parametrize(("peer", "net", "name"), NAMES)
def test_relevance_is_the_peers(peer, net, name):
    assert deviation(peer, net, name) <= 1e-6


@pytest.mark.parametrize("net", jax_transformers.NETS)
def test_attn_lrp_loses_no_more_in_narrow_numbers_than_the_gradient(net):
    assert loss(net, jrlrp.attn_lrp(), jnp.float32) <= 1e-5
    assert loss(net, jrlrp.attn_lrp(), jnp.bfloat16) <= loss(net, jrlrp.gradient_times_input(), jnp.bfloat16)


def main():
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("preset", "peer", "net", "worst deviation", box=box.MARKDOWN)
    with jax.enable_x64(True):
        for peer, net, name in NAMES:
            table.add_row(name, peer, net, f"{deviation(peer, net, name):.1e}")
    narrower = Table("net", "rules", "lost in float32", "lost in bfloat16", box=box.MARKDOWN)
    with jax.enable_x64(True):
        for net in jax_transformers.NETS:
            for rules in (jrlrp.attn_lrp, jrlrp.gradient_times_input):
                lost = [f"{loss(net, rules(), dtype):.1e}" for dtype in (jnp.float32, jnp.bfloat16)]
                narrower.add_row(net, rules.__name__, *lost)
    Console().print(table, narrower)


if __name__ == "__main__":
    main()
