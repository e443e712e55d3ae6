"""The two networks of the golden numbers, in torch: float64, seeded weights, eval mode.

`make_zennit.py` and `make_captum.py` run them, `jax_nets.py` writes them again in JAX.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SEED = 37  # of the first sixty, with top logits above 0.3, the one whose relevance depends least on ε


class Vgg(nn.Module):
    """Convolutions with biases, both pools, dense layers: 3×16×16 → 5."""

    def __init__(self):
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(8, 8, 3), nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv3, self.relu3 = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU()
        self.pool2 = nn.AvgPool2d(2)
        self.fc1, self.relu4 = nn.Linear(48, 10), nn.ReLU()
        self.fc2 = nn.Linear(10, 5)

    def forward(self, x):
        x = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        x = self.pool2(self.relu3(self.conv3(self.pool1(x))))
        return self.fc2(self.relu4(self.fc1(torch.flatten(x, 1))))


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch norm."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1):
        # zennit folds a batch norm and leaves one of variance 1 behind, which divides by √(1 + eps): eps has to vanish.
        norm = nn.BatchNorm2d(outputs, eps=1e-12)
        super().__init__(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), norm)


class Block(nn.Module):
    """A basic block; `add` makes the module that sums its two branches, which the peers need for their hooks."""

    def __init__(self, inputs: int, outputs: int, stride: int, add: Callable[[], nn.Module]):
        super().__init__()
        self.conv1, self.relu1 = ConvNorm(inputs, outputs, 3, stride), nn.ReLU()
        self.conv2 = ConvNorm(outputs, outputs, 3)
        self.skip = ConvNorm(inputs, outputs, 1, stride) if stride > 1 else None
        self.add, self.relu2 = add(), nn.ReLU()

    def forward(self, x):
        residual = self.conv2(self.relu1(self.conv1(x)))
        return self.relu2(self.add(x if self.skip is None else self.skip(x), residual))


class Residual(nn.Module):
    """Batch norms, an overlapping max-pool, an identity skip and a projected one: 3×16×16 → 5."""

    def __init__(self, add: Callable[[], nn.Module]):
        super().__init__()
        self.stem, self.relu = ConvNorm(3, 8, 3, 2), nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.block1, self.block2 = Block(8, 8, 1, add), Block(8, 12, 2, add)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = self.block2(self.block1(self.pool(self.relu(self.stem(x)))))
        return self.fc(torch.flatten(self.mean(x), 1))


def networks(add: Callable[[], nn.Module]) -> tuple[dict[str, nn.Module], torch.Tensor]:
    """Return the networks by name and a batch of two inputs of both signs."""
    generator = torch.Generator().manual_seed(SEED)
    nets = {"vgg": Vgg(), "residual": Residual(add)}
    for net in nets.values():
        net.double().eval()
        for module in net.modules():
            _fill(module, generator)
    return nets, torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=generator)


@torch.no_grad()
def _fill(module: nn.Module, generator: torch.Generator) -> None:
    """Draw a module's parameters, of both signs, and its statistics; activations keep a scale of about one."""

    def normal(like, scale):
        return scale * torch.randn(like.shape, dtype=torch.float64, generator=generator)

    def uniform(like):
        return 0.5 + torch.rand(like.shape, dtype=torch.float64, generator=generator)

    if isinstance(module, (nn.Conv2d, nn.Linear)):
        module.weight.copy_(normal(module.weight, (2 / module.weight[0].numel()) ** 0.5))
        if module.bias is not None:
            module.bias.copy_(normal(module.bias, 0.3))
    elif isinstance(module, nn.BatchNorm2d):
        module.weight.copy_(uniform(module.weight) * normal(module.weight, 1.0).sign())
        module.bias.copy_(normal(module.bias, 0.3))
        module.running_mean.copy_(normal(module.running_mean, 0.3))
        module.running_var.copy_(4 * uniform(module.running_var))


def folded(net: nn.Module) -> nn.Module:
    """Return a copy of a network whose batch norms are folded into their convolutions."""
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvNorm):
                setattr(parent, name, fuse_conv_bn_eval(*child))
    return net


def arrays(name: str, net: nn.Module, x: torch.Tensor, logits: torch.Tensor) -> dict:
    """Return a network's weights, inputs and logits by the names that they have in the npz files."""
    weights = {k: v for k, v in net.state_dict().items() if v.is_floating_point()}
    return {
        **{f"{name}/weights/{k}": v.numpy() for k, v in weights.items()},
        f"{name}/input": x.numpy(),
        f"{name}/logits": logits.detach().numpy(),
    }
