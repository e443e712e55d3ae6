"""Import this before zennit or LXT (but after transformers) where torchvision is not installed.

They import torchvision for its own models, which the golden numbers do not use; torchvision's builds go with one build
of torch each, and there may be none for the torch at hand.
"""

import sys
from types import ModuleType

from torch import nn

resnet = ModuleType("torchvision.models.resnet")
resnet.Bottleneck = resnet.BasicBlock = type("Unused", (), {})
models, transformer = ModuleType("torchvision.models"), ModuleType("torchvision.models.vision_transformer")
models.vision_transformer, transformer.nn = transformer, nn
for module in (ModuleType("torchvision"), models, resnet, transformer):
    sys.modules.setdefault(module.__name__, module)
