"""Make `lxt.npz`, golden relevance of LXT's AttnLRP: lxt 2.1, transformers 4.52.4, torch 2.13.0 (CPU), seed 41.

To rerun: `pip install torch==2.13.0 transformers==4.52.4 zennit==0.5.1 accelerate tabulate` and, without its
dependencies, `pip install --no-deps lxt==2.1`; then `python tests/parity/make_lxt.py`. Patches are for classes of a
whole process, so each model is run in a process of its own.

Relevance is embedding × gradient under LXT's patches, of the highest logit (of the last position in language models):

- No stabilisers: dense layers, sums and products share by z / z, as gradient × input does; biases keep their shares.
- Activations pass relevance on. A product of two gives each factor half, and so does each product of an attention.
- RMS norms pass relevance on. Layer norms hold the standard deviation alone: centring, gain and bias are one affine
  layer, whose bias keeps its share. Proposition 3.4 of the paper has relevance pass.
- Softmax, rotary embeddings and masks are differentiated, which is the paper's Taylor rule.

The models compute in float64, but for softmax and norms, for which transformers goes to float32.
"""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig
from transformers.models.bert import modeling_bert
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.llama import modeling_llama

# isort: split
import torchvision_stub  # noqa: F401

# isort: split
from lxt.efficient import monkey_patch

SEED = 41
SMALL = {
    "vocab_size": 29,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 8,
    "attn_implementation": "eager",
}
GPT2 = {"vocab_size": 29, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 8, "attn_implementation": "eager"}
MODELS = {
    "gpt2": (modeling_gpt2, "GPT2LMHeadModel", GPT2Config(**GPT2)),
    "llama": (
        modeling_llama,
        "LlamaForCausalLM",
        LlamaConfig(**SMALL, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False),
    ),
    "bert": (modeling_bert, "BertForSequenceClassification", BertConfig(**SMALL, num_attention_heads=4)),
}


def goldens(name):
    """Return the arrays of one model."""
    module, model, config = MODELS[name]
    monkey_patch(module)
    torch.manual_seed(SEED)
    net = getattr(module, model)(config).double().eval()
    for parameter in net.parameters():  # norms and biases are ones and zeros else
        parameter.data += 0.3 * torch.randn_like(parameter)
    ids = torch.randint(0, 29, (2, 6))
    embeddings = net.get_input_embeddings()(ids).detach().requires_grad_()
    logits = net(inputs_embeds=embeddings).logits
    scores = logits[:, -1] if logits.ndim == 3 else logits
    scores.max(dim=-1).values.sum().backward()
    weights = {f"{name}/weights/{k}": v.numpy() for k, v in net.state_dict().items()}
    relevance = (embeddings * embeddings.grad).detach().numpy()
    own = {"input": embeddings.detach().numpy(), "logits": scores.detach().numpy(), "relevance/AttnLRP": relevance}
    return weights | {f"{name}/{k}": v for k, v in own.items()}


def main():
    here = Path(__file__).parent
    if len(sys.argv) > 1:
        np.savez_compressed(here / f"lxt-{sys.argv[1]}.npz", **goldens(sys.argv[1]))
        return
    found = {}
    for name in MODELS:
        subprocess.run([sys.executable, __file__, name], check=True)
        part = here / f"lxt-{name}.npz"
        found |= dict(np.load(part))
        part.unlink()
    np.savez_compressed(here / "lxt.npz", **found)
    packages = ", ".join(f"{package} {version(package)}" for package in ("lxt", "transformers", "torch"))
    print(f"lxt.npz: {len(found)} arrays, made by {packages}")


if __name__ == "__main__":
    main()
