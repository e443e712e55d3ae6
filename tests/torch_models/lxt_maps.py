"""Write what LXT makes of a module: `python lxt_maps.py NAME ATTENTION FILE.npz`.

Its patches are for classes of a whole process, so each module has one of its own. Relevance is input × gradient under
the patches, of the highest score; the vision transformer's patches are CP-LRP's, all others AttnLRP's.
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import compared
import numpy as np
import torch
from lxt.efficient import monkey_patch
from torchvision.models import vision_transformer


def main(name: str, attention: str, path: str) -> None:
    own = (
        vision_transformer if name == "vit" else importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    )
    monkey_patch(own)  # before the module is made: of BERT it exchanges the classes
    module = compared.transformer(name, attention)
    called, x = compared.explained_input(module, name)
    found = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        leaf = x.detach().to(dtype).requires_grad_()
        scores = compared.read(module.to(dtype)(**{called: leaf}))
        scores.amax(-1).sum().backward()
        found[f"{dtype}/scores"] = scores.detach().double().numpy()
        found[f"{dtype}/relevance"] = (leaf * leaf.grad).detach().double().numpy()
    np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
