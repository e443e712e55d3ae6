"""The modules on which jrlrp is compared with zennit and LXT, the same numbers in every process."""

from typing import Any

import torch
import torchvision
from modules import VOCABULARY, normal, randomise
from torch import nn
from vision import thin, undrawn

LENGTH = 6
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 8,
    "use_cache": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "decoder_sparse_step": 1}
# Module of transformers → model, configuration.
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", GROUPED),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**GROUPED, **EXPERTS}),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {**GROUPED, "sliding_window": 4, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", SMALL),
    "bert": ("BertForSequenceClassification", "BertConfig", SMALL),
}
CONVOLUTIONAL = ("vgg11_bn", "resnet18", "resnet50")


def transformer(name: str, attention: str) -> nn.Module:
    """Return a module of transformers, or torchvision's vision transformer under the name of "vit", in float64."""
    torch.manual_seed(0)  # for biases, to which random numbers are added
    if name == "vit":
        options = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
        module = torchvision.models.VisionTransformer(**options, num_classes=7)
    else:
        import transformers

        model, config, options = TRANSFORMERS[name]
        made = getattr(transformers, config)(**options, attn_implementation=attention)
        made._experts_implementation = "batched_mm"  # torchax has no lowering of `aten::_grouped_mm`
        module = getattr(transformers, model)(made)
    return randomise(module.double().eval())


def explained_input(module: nn.Module, name: str) -> tuple[str, torch.Tensor]:
    """Return what the explained input is called, and its value: an image, or the embeddings of a text's tokens."""
    if name == "vit":
        return "x", normal(2, 3, 16, 16)
    ids = torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(2))
    return "inputs_embeds", module.get_input_embeddings()(ids).detach().double()


def read(out: Any) -> Any:
    """Return the scores in a module's output: of language models, those of the last position."""
    logits = getattr(out, "logits", out)
    return logits[:, -1] if logits.ndim == 3 else logits


def convolutional(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a module of torchvision in float64, and an input.

    zennit folds a batch norm but keeps its ε beside a variance of 1: here ε is in the variance, which is the same norm.
    """
    with undrawn():
        module = torchvision.models.get_model(name, weights=None, num_classes=10).double().eval()
    thin(module)
    randomise(module)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var += norm.eps
            norm.eps = 1e-30  # 0 is an error
    return module, normal(2, 3, 32, 32)
