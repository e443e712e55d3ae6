"""Make `zennit_crp.npz`, golden relevance of concepts: zennit-crp 0.6.0, zennit 0.5.1, torch 2.13.0 (CPU), float64.

To rerun: `pip install zennit==0.5.1 torch==2.13.0 numpy`, `pip install --no-deps zennit-crp==0.6.0`, then
`python tests/parity/make_zennit_crp.py`. The networks and the inputs are those of `torch_nets.py`, with its seed; the
composite is EpsilonPlus; R_out is the logit of each example's highest score.

- "maps": a channel's mask, with what goes around the layer (`exclude_parallel=False`); "alone": without it, the
  authors' default; "start": the channel's own value, with nothing at the output. Summed over the input's channels.
- "relevance": what arrives at the layer; "scores" and "normalised", of each channel; "sum" and "max", the order,
  values and positions of the reference samples.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch_nets
import torchvision_stub  # noqa: F401
from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from make_zennit import Add
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlus

LAYERS = {"vgg": "conv2", "residual": "block1.conv1.0"}


def goldens():
    """Return all arrays of the file."""
    nets, x = torch_nets.networks(Add)
    found = {}
    for name, net in nets.items():
        logits = net(x)
        found |= torch_nets.arrays(name, net, x, logits)
        found |= {f"{name}/{key}": value.detach().numpy() for key, value in concepts(net, LAYERS[name], x).items()}
    return found


def concepts(net, layer, x):
    """Return what zennit-crp says of the channels of a layer, for each example."""
    attribute, channel = CondAttribution(net), ChannelConcept()
    target = net(x).argmax(dim=1).tolist()

    def explain(one, conditions, **options):
        composite = EpsilonPlus(canonizers=[SequentialMergeBatchNorm()])
        return attribute(one.clone().requires_grad_(), conditions, composite, record_layer=[layer], **options)

    of = [explain(x[[k]], [{"y": [t]}]) for k, t in enumerate(target)]
    relevance = torch.cat([one.relevances[layer] for one in of])
    channels = range(relevance.shape[1])
    found = {"maps": [], "alone": [], "start": []}
    for k, t in enumerate(target):
        masked = [{"y": [t], layer: [c]} for c in channels]
        found["maps"].append(explain(x[[k]], masked, exclude_parallel=False).heatmap)
        found["alone"].append(explain(x[[k]], masked, exclude_parallel=True).heatmap)
        found["start"].append(explain(x[[k]], [{layer: [c]} for c in channels], start_layer=layer).heatmap)
    found = {key: torch.stack(maps, dim=1) for key, maps in found.items()}  # channels, examples, height, width
    found["relevance"] = relevance
    found["scores"] = channel.attribute(relevance, abs_norm=False)
    found["normalised"] = channel.attribute(relevance, abs_norm=True)
    for reduce in ("sum", "max"):
        ranked = channel.reference_sampling(relevance, max_target=reduce, abs_norm=False)
        found |= {f"{reduce}/{key}": v for key, v in zip(("samples", "values", "positions"), ranked, strict=True)}
    return found


if __name__ == "__main__":
    versions = {name: np.array(version(name)) for name in ("zennit-crp", "zennit", "torch", "numpy")}
    path = Path(__file__).with_name("zennit_crp.npz")
    np.savez_compressed(path, **goldens(), **versions, seed=np.array(torch_nets.SEED))
