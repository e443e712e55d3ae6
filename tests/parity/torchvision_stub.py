"""Import this before zennit where torchvision is not installed.

zennit imports torchvision for the canonizers of torchvision's own models, which the golden numbers do not use;
torchvision's builds go with one build of torch each, and there may be none for the torch at hand.
"""

import sys
from types import ModuleType

resnet = ModuleType("torchvision.models.resnet")
resnet.Bottleneck = resnet.BasicBlock = type("Unused", (), {})
for module in (ModuleType("torchvision"), ModuleType("torchvision.models"), resnet):
    sys.modules.setdefault(module.__name__, module)
