"""GPT-2, Llama and BERT of `make_lxt.py` in plain JAX, as functions of their weights and the tokens' embeddings."""

import jax
import jax.numpy as jnp
import numpy as np


def dense(w, name, x):
    z = x @ w[f"{name}.weight"].T
    return z + w[f"{name}.bias"] if f"{name}.bias" in w else z


def layer_norm(w, name, x, eps):
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]
    )


def rms_norm(w, name, x):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]


def attention(q, k, v, causal):
    """Attend with heads along axis 2, which may be fewer in k and v than in q."""
    k, v = (jnp.repeat(a, q.shape[2] // a.shape[2], axis=2) for a in (k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    if causal:
        scores = jnp.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    return mixed.reshape(*mixed.shape[:2], -1)


def heads(x, size):
    return x.reshape(*x.shape[:2], -1, size)


def gpt2(w, x):
    x = x + w["transformer.wpe.weight"][: x.shape[1]]
    for k in range(2):
        block = f"transformer.h.{k}"
        n = layer_norm(w, f"{block}.ln_1", x, 1e-5)
        qkv = n @ w[f"{block}.attn.c_attn.weight"] + w[f"{block}.attn.c_attn.bias"]
        mixed = attention(*(heads(a, 4) for a in jnp.split(qkv, 3, -1)), causal=True)
        x = x + mixed @ w[f"{block}.attn.c_proj.weight"] + w[f"{block}.attn.c_proj.bias"]
        n = layer_norm(w, f"{block}.ln_2", x, 1e-5)
        inner = jax.nn.gelu(n @ w[f"{block}.mlp.c_fc.weight"] + w[f"{block}.mlp.c_fc.bias"])
        x = x + (inner @ w[f"{block}.mlp.c_proj.weight"] + w[f"{block}.mlp.c_proj.bias"])
    return layer_norm(w, "transformer.ln_f", x, 1e-5)[:, -1] @ w["lm_head.weight"].T


def rotated(x):
    size = x.shape[-1]
    angles = np.arange(x.shape[1])[:, None] / 10000.0 ** (np.arange(0, size, 2) / size)
    angles = np.concatenate([angles, angles], -1)[:, None]
    turned = jnp.concatenate([-x[..., size // 2 :], x[..., : size // 2]], -1)
    return x * np.cos(angles) + turned * np.sin(angles)


def llama(w, x):
    for k in range(2):
        block = f"model.layers.{k}"
        n = rms_norm(w, f"{block}.input_layernorm", x)
        q, k_, v = (heads(dense(w, f"{block}.self_attn.{name}_proj", n), 4) for name in "qkv")
        x = x + dense(w, f"{block}.self_attn.o_proj", attention(rotated(q), rotated(k_), v, causal=True))
        n = rms_norm(w, f"{block}.post_attention_layernorm", x)
        gate = jax.nn.silu(dense(w, f"{block}.mlp.gate_proj", n))
        x = x + dense(w, f"{block}.mlp.down_proj", gate * dense(w, f"{block}.mlp.up_proj", n))
    return dense(w, "lm_head", rms_norm(w, "model.norm", x)[:, -1])


def bert(w, x):
    names = "bert.embeddings.position_embeddings.weight", "bert.embeddings.token_type_embeddings.weight"
    x = layer_norm(w, "bert.embeddings.LayerNorm", x + w[names[1]][0] + w[names[0]][: x.shape[1]], 1e-12)
    for k in range(2):
        block = f"bert.encoder.layer.{k}"
        q, k_, v = (heads(dense(w, f"{block}.attention.self.{name}", x), 4) for name in ("query", "key", "value"))
        mixed = dense(w, f"{block}.attention.output.dense", attention(q, k_, v, causal=False))
        x = layer_norm(w, f"{block}.attention.output.LayerNorm", mixed + x, 1e-12)
        inner = jax.nn.gelu(dense(w, f"{block}.intermediate.dense", x), approximate=False)
        x = layer_norm(w, f"{block}.output.LayerNorm", dense(w, f"{block}.output.dense", inner) + x, 1e-12)
    return dense(w, "classifier", jnp.tanh(dense(w, "bert.pooler.dense", x[:, 0])))


NETS = {"gpt2": gpt2, "llama": llama, "bert": bert}
