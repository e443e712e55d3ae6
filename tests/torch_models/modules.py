"""A torch module with its inputs, as torch reads it and as JAX does: what the tests of this folder have in common."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
import torchax
from small_transformers import VOCABULARY
from torch import nn


@dataclass(frozen=True)
class Model:
    """A module with the inputs that are explained, by the names that it calls them.

    `read` takes the module's output, of torch's tensors or of JAX's arrays, to scores with classes along the last axis;
    `others` are inputs that are not explained.
    """

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    read: Callable[[Any], Any]
    others: dict[str, torch.Tensor] = field(default_factory=dict)


def in_jax(model: Model) -> tuple[Callable, Any, tuple[np.ndarray, ...]]:
    """Return the scores as a function of parameters and inputs, the parameters, and the inputs.

    Parameters are arguments: as constants of the function they would be compiled in, which takes minutes.
    """
    params, call = torchax.extract_jax(model.module)
    # torchax takes JAX's arrays to its tensors, and leaves NumPy's as they are.
    others = {name: jnp.asarray(x.numpy()) for name, x in model.others.items()}

    def scores(params: Any, *inputs: Any) -> Any:
        named = dict(zip(model.inputs, inputs, strict=True))
        return model.read(call(params, (), named | others))

    return scores, params, tuple(x.numpy() for x in model.inputs.values())


@dataclass(frozen=True)
class TorchMaps:
    """Scores by torch, the inputs times the gradients of the highest of them, and Σ|x ∂score/∂x| of each entry."""

    scores: np.ndarray
    maps: list[np.ndarray]
    sizes: list[np.ndarray]


def gradient_times_input(model: Model) -> TorchMaps:
    """Return what torch itself says; the map of ids is that of the rows that they look up in a table."""
    model.module.requires_grad_(False)
    rows: list[torch.Tensor] = []

    def keep(table: nn.Module, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        rows.append(out.detach().requires_grad_())
        return rows[-1]

    tables = [m for m in model.module.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == VOCABULARY]
    hooks = [table.register_forward_hook(keep) for table in tables]
    inputs = {k: x.detach().requires_grad_(x.is_floating_point()) for k, x in model.inputs.items()}
    scores = model.read(model.module(**inputs, **model.others))
    scores.amax(-1).sum().backward()
    for hook in hooks:
        hook.remove()
    looked_up = iter(rows)
    leaves = [x if x.is_floating_point() else next(looked_up) for x in inputs.values()]
    terms = [(leaf * leaf.grad).detach().numpy() for leaf in leaves]
    pairs = zip(terms, inputs.values(), strict=True)
    terms = [t.swapaxes(0, 1) if t.shape[:2] == x.shape[1::-1] != x.shape[:2] else t for t, x in pairs]  # in XLNet
    maps = [t if t.shape == x.shape else t.sum(-1) for t, x in zip(terms, inputs.values(), strict=True)]
    sizes = [abs(t) if t.shape == x.shape else abs(t).sum(-1) for t, x in zip(terms, inputs.values(), strict=True)]
    return TorchMaps(scores.detach().numpy(), maps, sizes)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give a module random numbers: it is made with ones, zeros and weights so small that attention is flat."""
    drawn = torch.Generator().manual_seed(seed)
    statistics = [(k, v) for k, v in module.named_buffers() if k.endswith(("running_mean", "running_var"))]
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *statistics]:
            noise = torch.empty_like(value).normal_(generator=drawn)
            if value.numel() == max(value.shape, default=1):  # a bias, a gain, a mean
                value += 0.1 * (noise.abs() if name.endswith("running_var") else noise)
            else:
                gain = 2 if value.ndim > 2 else 1
                value.copy_(noise * (gain / value[0].numel()) ** 0.5)
    return module


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    """Return an input of random numbers in float64."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
