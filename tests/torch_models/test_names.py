"""Torch modules name their nodes by the attributes that submodules lie in, and keep their maps."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchax
import torchvision
from transformers import LlamaConfig, LlamaModel

import jrlrp

LLAMA = LlamaConfig(
    vocab_size=97, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
)
PARTS = ("input_layernorm", *(f"self_attn/{k}_proj" for k in "qkvo"), "post_attention_layernorm")
PARTS += ("mlp/gate_proj", "mlp/up_proj", "mlp/down_proj")


def names(plan, *kinds):
    return [node.name for node in plan.nodes if node.kind in kinds]


def test_a_llama_has_names_and_the_map_that_it_had():
    torch.manual_seed(0)
    module, ids = LlamaModel(LLAMA).eval(), jnp.arange(1, 7)[None]
    (params, run), (_, plain) = torchax.extract_jax(jrlrp.named(module)), torchax.extract_jax(module)
    last = lambda run: lambda ids: run(params, (ids,)).last_hidden_state[:, -1]
    plan = jrlrp.plan(last(run), ids)
    assert names(plan, "dense", "normalisation") == [
        *(f"layers/{n}/{part}" for n in range(2) for part in PARTS),
        "norm",
    ]
    assert names(plan, "softmax") == ["layers/0/self_attn:softmax", "layers/1/self_attn:softmax"]
    assert "in transformers/" in next(node.source for node in plan.nodes if node.kind == "softmax")
    np.testing.assert_array_equal(jrlrp.relevance(last(run))(ids), jrlrp.relevance(last(plain))(ids))
    _, captured = jrlrp.relevance(last(run), capture="layers/*/mlp/down_proj")(ids)
    assert list(captured) == ["layers/0/mlp/down_proj", "layers/1/mlp/down_proj"]


def test_convolutions_have_names_and_the_module_stays_as_it_is():
    module = torchvision.models.resnet18().eval()
    before = dict(vars(module))
    params, run = torchax.extract_jax(jrlrp.named(module))
    plan = jrlrp.plan(lambda x: run(params, (x,)), jnp.ones((1, 3, 64, 64), jnp.float32))
    expected = [name.replace(".", "/") for name, m in module.named_modules() if isinstance(m, torch.nn.Conv2d)]
    assert sorted(names(plan, "conv")) == sorted(expected)
    assert vars(module) == before and type(module) is torchvision.models.ResNet


def test_a_torch_module_alone_is_told_the_way():
    with pytest.raises(jrlrp.ArgumentError, match=r"torchax.extract_jax\(jrlrp.named\(module\)\)"):
        jrlrp.relevance(torch.nn.Linear(3, 2))(jnp.ones(3))
