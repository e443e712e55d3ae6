"""jrlrp beside zennit-crp and the authors' code of RAP, entry by entry, in float64.

`make_zennit_crp.py` and `make_rap.py` make the goldens again and say with which versions and seeds;
`python tests/parity/test_concepts.py` prints how far apart the numbers are.
"""

import sys
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import jax_nets
import numpy as np
import pytest
from stabilisers import refined

import jrlrp
from jrlrp.concepts import References, maps, scores

CRP, RAP = (dict(np.load(Path(__file__).with_name(f"{name}.npz"))) for name in ("zennit_crp", "rap"))
LAYERS = {"vgg": "conv#1", "residual": "conv#1"}
RULES = jrlrp.epsilon_plus()


def network(goldens, net):
    prefix = f"{net}/weights/"
    weights = {k.removeprefix(prefix): jnp.asarray(v) for k, v in goldens.items() if k.startswith(prefix)}
    return partial(jax_nets.NETS[net], weights)


def deviation(found, wanted):
    """Return the largest difference in parts of the largest entry."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def maps_of_channels(f, layer, x):
    return maps(f, layer, axis=1, rules=RULES)(x).sum(2)


def relevance_at(f, layer, x):
    (found,) = jrlrp.relevance(f, rules=RULES, capture=layer)(x)[1].values()
    return found


def started(f, layer, x, seed):
    """Return the map of each channel that begins at the layer, with `seed` times a mask."""
    one = lambda mask: jrlrp.relevance(f, rules=RULES, target=None, start={layer: seed(mask)})(x).sum(1)
    return jax.vmap(one)(jnp.eye(relevance_at(f, layer, x).shape[1])[:, :, None, None])


def alone(f, layer, x):
    """Return the maps of channels without what goes around the layer."""
    at_layer = relevance_at(f, layer, x)
    return started(f, layer, x, lambda mask: mask * at_layer)


def of_own_value(f, layer, x):
    return started(f, layer, x, lambda mask: lambda z: mask * z)


def scored(normalise, f, layer, x):
    return scores(f, layer, axis=1, rules=RULES, normalise=normalise)(x).values


FOUND = {
    "maps": maps_of_channels,
    "alone": alone,
    "start": of_own_value,
    "relevance": relevance_at,
    "scores": partial(scored, False),
    "normalised": partial(scored, True),
}


def of_crp(net, what):
    x = jnp.asarray(CRP[f"{net}/input"])
    find = jax.jit(partial(FOUND[what], network(CRP, net), LAYERS[net]))
    return deviation(find(x), CRP[f"{net}/{what}"])


def of_rap():
    """Return deviations at the features and at the input; the authors have stabilisers only where they divide by 0."""
    f, x = network(RAP, "vgg"), jnp.asarray(RAP["vgg/input"])
    r, captured = jrlrp.relevance(f, rules=refined(jrlrp.rap()), capture="average_pool")(x)
    (at_features,) = captured.values()
    return deviation(at_features, RAP["vgg/features"]), deviation(r, RAP["vgg/relevance/RAP"])


@pytest.mark.parametrize("what", FOUND)
@pytest.mark.parametrize("net", LAYERS)
def test_concepts_are_zennit_crp_s(net, what):
    assert of_crp(net, what) <= 1e-6


@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize("net", LAYERS)
def test_reference_samples_are_zennit_crp_s(net, reduce):
    golden, x = {k: CRP[f"{net}/{reduce}/{k}"] for k in ("values", "samples", "positions")}, CRP[f"{net}/input"]
    found = scores(network(CRP, net), LAYERS[net], axis=1, rules=RULES, reduce=reduce)(jnp.asarray(x))
    best = References.empty(found.values.shape[1], len(x)).update(found.values, np.arange(len(x)), found.positions)
    assert deviation(best.values, golden["values"]) <= 1e-6
    np.testing.assert_array_equal(best.samples, golden["samples"])
    np.testing.assert_array_equal(best.positions, golden["positions"])


def test_rap_is_the_authors():
    np.testing.assert_allclose(network(RAP, "vgg")(RAP["vgg/input"]), RAP["vgg/logits"], atol=1e-12)
    assert max(of_rap()) <= 1e-6


def main():
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "peer", "net", "worst deviation", box=box.MARKDOWN)
    with jax.enable_x64(True):
        for net in LAYERS:
            for what in FOUND:
                table.add_row(what, "zennit-crp", net, f"{of_crp(net, what):.1e}")
        for what, away in zip(("RAP, at the features", "RAP"), of_rap(), strict=True):
            table.add_row(what, "the authors", "vgg", f"{away:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
