"""Make `rap.npz`, golden relevance by the authors' code of Relative Attributing Propagation: torch 2.13.0, float64.

To rerun: fetch github.com/wjNam/Relative_Attributing_Propagation at commit 7fa9682 (it is no package), `pip install
torch==2.13.0 numpy`, then `python tests/parity/make_rap.py FOLDER`. The network is the VGG-like one of `torch_nets.py`,
with its seed, of the authors' modules; its start is one-hot, which their last layer takes for the logit.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch_nets


def of_modules(net, modules):
    """Return the VGG-like network of the authors' modules: what comes before the flattening, and after."""

    def copied(layer):
        kind = type(layer).__name__
        if kind == "Conv2d":
            own = modules.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        elif kind == "Linear":
            own = modules.Linear(layer.in_features, layer.out_features)
        else:
            return {"ReLU": modules.ReLU, "MaxPool2d": modules.MaxPool2d, "AvgPool2d": modules.AvgPool2d}[kind](
                *([] if kind == "ReLU" else [layer.kernel_size])
            )
        own.double().load_state_dict(layer.state_dict())
        return own

    layers = [copied(layer) for layer in net.children()]
    first = next(k for k, layer in enumerate(layers) if type(layer).__name__ == "Linear")
    return modules.Sequential(*layers[:first]).eval(), modules.Sequential(*layers[first:]).eval()


def goldens(modules):
    """Return all arrays of the file."""
    nets, x = torch_nets.networks(torch.nn.Identity)
    net = nets["vgg"]
    features, head = of_modules(net, modules)
    hidden = features(x)
    logits = head(hidden.flatten(1))
    assert torch.allclose(logits, net(x))
    start = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).double()
    at_features = head.RAP_relprop(start).reshape(hidden.shape)
    relevance = features.RAP_relprop(at_features)
    found = torch_nets.arrays("vgg", net, x, logits)
    found["vgg/features"] = at_features.detach().numpy()
    return found | {"vgg/relevance/RAP": relevance.detach().numpy()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.path.insert(0, sys.argv[1])
    from modules import layers

    path = Path(__file__).with_name("rap.npz")
    made = goldens(layers)
    np.savez_compressed(path, **made, torch=np.array(version("torch")), seed=np.array(torch_nets.SEED))
