"""Explain PyTorch modules, through torchax: MiniLM in transformers' BertModel, EfficientNet-Lite0 in a module.

python examples/explain_torch.py --model minilm --text "This movie was brilliant."

The same networks are written in JAX for explain_review.py and explain_photo.py: this program says how far from theirs
its maps are. `make test-torch` makes the environment that it needs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import efficientnet_lite0
import explain_photo
import explain_review
import jax
import jax.numpy as jnp
import minilm
import numpy as np
import safetensors.torch
import torch
import torch_efficientnet
import torchax
from coloured_words import coloured, join, legend
from pictures import save
from reviews import CLASSES, batch, split_by_film
from reviews import load as load_reviews
from rich.console import Console
from torch import nn
from transformers import BertConfig, BertModel

import jrlrp

TEXT = "not bad at all: funny, warm and well acted"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=["minilm", "efficientnet", "both"], default="both", help="what is explained")
    parser.add_argument("--text", default=TEXT, help="a film review, for MiniLM")
    parser.add_argument("--image", type=Path, help="a photograph, for EfficientNet; without it, a cat")
    parser.add_argument("--output", type=Path, default=Path("out/torch.png"), help="where its picture goes")
    return parser.parse_args()


def in_jax(module: nn.Module) -> tuple[Callable[..., Any], dict[str, jax.Array]]:
    """Return a module as a function of its parameters and inputs that JAX can trace, and the parameters.

    Parameters are arguments of what is compiled: as constants of it, they would be compiled in, which takes minutes.
    """
    params, call = torchax.extract_jax(module.eval())
    return lambda params, *inputs: call(params, inputs), params


class Reviewer(nn.Module):
    """Piece ids (N, T), padded at the end, and their numbers (N,), to the logit of fresh less that of rotten (N, 1)."""

    def __init__(self, body: BertModel, kernel: np.ndarray, bias: np.ndarray):
        super().__init__()
        self.body, self.head = body, nn.Linear(len(kernel), 1)
        self.head.weight.data = torch.tensor(kernel[:, 1] - kernel[:, 0])[None]
        self.head.bias.data = torch.tensor(bias[1] - bias[0])[None]

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        x = self.body(ids, attention_mask=mask).last_hidden_state
        return self.head(torch.where(mask[..., None], x, 0).sum(1) / lengths[:, None])


def reviewer(head: dict[str, np.ndarray]) -> Reviewer:
    """Return MiniLM with its weights, and a head."""
    shape = minilm.MiniLM()
    config = BertConfig(
        vocab_size=shape.pieces,
        hidden_size=shape.features,
        intermediate_size=shape.inner,
        num_attention_heads=shape.heads,
        num_hidden_layers=shape.layers,
    )
    body = BertModel(config, add_pooling_layer=False)
    tensors = safetensors.torch.load(minilm.MODEL.read(minilm.FOLDER + "model.safetensors"))
    missing = body.load_state_dict(tensors, strict=False).missing_keys
    assert not missing, missing
    return Reviewer(body, head["kernel"], head["bias"])


def apart(found: np.ndarray, expected: np.ndarray) -> str:
    """Say how far a map is from another one."""
    return f"{np.abs(found - expected).max() / np.abs(expected).max():.1g} of its largest entry"


def explain_text(text: str, console: Console) -> None:
    splits = split_by_film(load_reviews())
    reader = minilm.load(splits)
    tokens = reader.tokenize(text)
    ids, lengths = batch([tokens])
    score, params = in_jax(reviewer(minilm.head(splits)["head"]))
    explain = jax.jit(jrlrp.value_and_relevance(score, argnums=1))
    scores, relevance = explain(params, ids, lengths)
    found = np.asarray(relevance[0, : len(tokens.ids)])
    console.print(legend(*CLASSES))
    console.print(coloured(join(text, tokens, found)))
    (expected,) = explain_review.explain(reader, [tokens], "default")
    console.print(
        f"BertModel: {float(scores[0, 0]):+.3f} for fresh; the map of MiniLM in JAX is {apart(found, expected)} away."
    )


def explain_image(path: Path | None, output: Path, console: Console) -> None:
    photo = efficientnet_lite0.crop(explain_photo.open_photo(path))
    x, names = efficientnet_lite0.preprocess(photo), efficientnet_lite0.class_names()
    logits, params = in_jax(torch_efficientnet.pretrained())
    explain = jax.jit(jrlrp.value_and_relevance(logits, argnums=1))
    scores, relevance = explain(params, jnp.moveaxis(x, -1, 1))
    found = np.moveaxis(np.asarray(relevance), 1, -1)
    variables, network = efficientnet_lite0.load(), efficientnet_lite0.EfficientNetLite0()
    expected = jax.jit(jrlrp.relevance(network.apply, argnums=1))(variables, x)
    label = names[int(scores[0].argmax())]
    console.print(f"EfficientNet-Lite0: {label}; the map of the network in JAX is {apart(found, expected)} away.")
    save(explain_photo.draw(photo, {"default": found[0].sum(-1)}, label), output, console)


def main() -> None:
    options, console = arguments(), Console()
    if options.model != "efficientnet":
        explain_text(options.text, console)
    if options.model != "minilm":
        explain_image(options.image, options.output, console)


if __name__ == "__main__":
    main()
