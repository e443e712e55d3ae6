"""Architectures of transformers in small configurations: two layers, sixteen channels, random numbers."""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from typing import Any

import small_transformers
import torch
import transformers
from modules import VOCABULARY, Model, normal, randomise

SMALL = {
    **small_transformers.SMALL,
    "max_position_embeddings": 32,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
EXPERTS = {**GROUPED, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}

# Model type → what its configuration has beside `SMALL`.
DECODERS: dict[str, dict[str, Any]] = {
    "bloom": {},
    "codegen": {"rotary_dim": 4, "n_ctx": 32},
    "cohere": GROUPED,
    "cohere2": {**GROUPED, "sliding_window": 4},
    "biogpt": {},
    "deepseek_v3": {
        **EXPERTS,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 8,
        "head_dim": 4,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "num_key_value_heads": 2,
    },
    "diffllama": {"num_key_value_heads": 2, "head_dim": 8},
    "ernie4_5": GROUPED,
    "exaone4": {**GROUPED, "sliding_window": 4},
    "falcon": {},
    "falcon_mamba": {"state_size": 4},
    "gemma": GROUPED,
    "gemma2": {**GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3_text": {**GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    "glm": GROUPED,
    "glm4": GROUPED,
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 4},
    "gpt_neox": {},
    "gpt_oss": {**EXPERTS, "sliding_window": 4},
    "gptj": {"rotary_dim": 4},
    "granite": GROUPED,
    "granitemoe": EXPERTS,
    "helium": GROUPED,
    "jamba": {
        **EXPERTS,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "lfm2": {**GROUPED, "layer_types": ["conv", "full_attention"]},
    "llama": GROUPED,
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    "mistral": {**GROUPED, "sliding_window": 4},
    "mixtral": {**EXPERTS, "sliding_window": 4},
    "modernbert-decoder": {},
    "mpt": {"max_seq_len": 32},
    "nemotron": GROUPED,
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "olmoe": EXPERTS,
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "persimmon": GROUPED,
    "phi": GROUPED,
    "phi3": GROUPED,
    "qwen2": GROUPED,
    "qwen2_moe": EXPERTS,
    "qwen3": GROUPED,
    "qwen3_moe": EXPERTS,
    "qwen3_next": {
        **EXPERTS,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 12,
    },
    "recurrent_gemma": {
        **GROUPED,
        "lru_width": 16,
        "attention_window_size": 4,
        "block_types": ["recurrent", "attention"],
    },
    "rwkv": {"context_length": 32, "attention_hidden_size": 16},
    "smollm3": GROUPED,
    "stablelm": GROUPED,
    "starcoder2": {**GROUPED, "sliding_window": 4},
    "xlstm": {"num_heads": 2, "num_blocks": 2},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 8},
    "bert": {},
    "big_bird": {"attention_type": "original_full"},
    "convbert": {"embedding_size": 16, "head_ratio": 1},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    "electra": {"embedding_size": 8},
    "ernie": {},
    "fnet": {},
    "funnel": {"d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 24, "block_sizes": [1, 1], "num_hidden_layers": ...},
    "longformer": {"attention_window": 4},
    "megatron-bert": {},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 4},
    "mpnet": {},
    "nystromformer": {"num_landmarks": 4, "segment_means_seq_len": 8},
    "rembert": {"input_embedding_size": 8, "output_embedding_size": 8},
    "roberta": {},
    "roberta-prelayernorm": {},
    "roformer": {"embedding_size": 16},
    "squeezebert": {"embedding_size": 16, "q_groups": 1, "k_groups": 1, "v_groups": 1},
    "xlnet": {"max_position_embeddings": ..., "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}
PAIR = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
PAIRS: dict[str, dict[str, Any]] = {
    "bart": PAIR,
    "blenderbot": PAIR,
    "led": {
        **PAIR,
        "attention_window": 4,
        "max_encoder_position_embeddings": 32,
        "max_decoder_position_embeddings": 32,
    },
    "longt5": {**T5, "local_radius": 3, "encoder_attention_type": "local"},
    "m2m_100": PAIR,
    "marian": PAIR,
    "mbart": PAIR,
    "mt5": T5,
    "nllb-moe": PAIR,
    "pegasus": PAIR,
    "pegasus_x": {**PAIR, "block_size": 4, "num_global_tokens": 2},
    "plbart": PAIR,
    "switch_transformers": {**T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "t5": T5,
    "umt5": T5,
}
PIXELS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 4,
}
STAGES = {"depths": [2, 2], "embed_dim": 8, "num_heads": [2, 2], "image_size": 32, "patch_size": 2, "window_size": 4}
# Model type → configuration, side of the images.
PICTURES: dict[str, tuple[dict[str, Any], int]] = {
    "beit": (PIXELS, 16),
    "bit": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "num_groups": 4}, 32),
    "convnext": ({"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2}, 32),
    "convnextv2": ({"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2}, 32),
    "cvt": (
        {
            "embed_dim": [8, 16],
            "depth": [1, 2],
            "num_heads": [1, 2],
            "patch_sizes": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [2, 1],
            "mlp_ratio": [2.0, 2.0],
            "attention_drop_rate": [0.0, 0.0],
            "drop_rate": [0.0, 0.0],
            "drop_path_rate": [0.0, 0.0],
            "qkv_bias": [True, True],
            "cls_token": [False, True],
            "qkv_projection_method": ["dw_bn", "dw_bn"],
            "kernel_qkv": [3, 3],
            "padding_kv": [1, 1],
            "stride_kv": [2, 2],
            "padding_q": [1, 1],
            "stride_q": [1, 1],
        },
        32,
    ),
    "data2vec-vision": (PIXELS, 16),
    "deit": (PIXELS, 16),
    "dinov2": (PIXELS, 16),
    "dinov2_with_registers": (PIXELS, 16),
    "efficientnet": ({"width_coefficient": 0.25, "depth_coefficient": 0.5, "image_size": 32, "hidden_dim": 320}, 32),
    "focalnet": (
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 8,
            "hidden_sizes": [8, 16],
            "depths": [2, 2],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
        },
        32,
    ),
    "hiera": (
        {
            "embed_dim": 8,
            "image_size": [32, 32],
            "depths": [1, 2],
            "num_heads": [1, 2],
            "patch_stride": [4, 4],
            "query_stride": [2, 2],
            "num_query_pool": 1,
            "masked_unit_size": [4, 4],
        },
        32,
    ),
    "ijepa": (PIXELS, 16),
    "mobilenet_v1": ({"depth_multiplier": 0.25, "image_size": 32}, 32),
    "mobilenet_v2": ({"depth_multiplier": 0.25, "image_size": 32}, 32),
    "mobilevit": (
        {
            "hidden_sizes": [16, 16, 16],
            "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
            "image_size": 64,
            "num_attention_heads": 2,
            "last_conv_index": 0,
        },
        64,
    ),
    "mobilevitv2": ({"width_multiplier": 0.25, "image_size": 64}, 64),
    "poolformer": ({"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 2]}, 64),
    "pvt": (
        {"image_size": 64, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 2], "num_attention_heads": [1, 1, 1, 2]},
        64,
    ),
    "pvt_v2": (
        {"image_size": 64, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 2], "num_attention_heads": [1, 1, 1, 2]},
        64,
    ),
    "regnet": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "groups_width": 8}, 32),
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2]}, 32),
    "segformer": (
        {
            "hidden_sizes": [8, 8, 8, 16],
            "depths": [1, 1, 1, 2],
            "num_attention_heads": [1, 1, 1, 2],
            "decoder_hidden_size": 16,
        },
        64,
    ),
    "siglip": ({"vision_config": PIXELS, "text_config": {**SMALL, "projection_size": 16}}, 16),
    "swiftformer": ({"image_size": 64, "embed_dims": [8, 8, 8, 16], "depths": [1, 1, 1, 2], "mlp_ratio": 2}, 64),
    "swin": (STAGES, 32),
    "swinv2": (STAGES, 32),
    "vit": (PIXELS, 16),
    "vit_msn": (PIXELS, 16),
}

IDS = torch.randperm(VOCABULARY - 3, generator=torch.Generator().manual_seed(3))[:26] + 3
TASKS = {
    **dict.fromkeys(DECODERS, "CausalLM"),
    **dict.fromkeys(ENCODERS, "SequenceClassification"),
    **dict.fromkeys(PAIRS, "Seq2SeqLM"),
    **dict.fromkeys(PICTURES, "ImageClassification"),
}
# What torchax 0.0.13 does not run.
CANNOT = {
    "led": "asks a traced value for a number, by `.item()`",
    "longformer": "indexes with a traced mask",
    "nystromformer": "adds one of torch's own tensors, made on the way, to one of torchax's",
    "recurrent_gemma": "keeps a traced state for the next trace",
    "switch_transformers": "sends tokens to experts by `nonzero`, whose size depends on values",
    "xmod": "indexes with a traced mask",
}
# What jrlrp has no rule for.
UNSUPPORTED = {
    "fnet": "complex numbers, between its Fourier transforms",
    "qwen3_next": "a triangular solve whose matrix depends on the input",
}
NAMES = tuple(name for name in TASKS if name not in CANNOT and name not in UNSUPPORTED)


def alike_names() -> list[tuple[str, ...]]:
    return [(name,) for name in NAMES]


def built(kind: str, options: dict[str, Any], attention: str = "sdpa") -> Any:
    """Return a model of transformers of the kind's task, its numbers random, in float64."""
    torch.manual_seed(0)  # for biases and gains, to which random numbers are added
    config = transformers.AutoConfig.for_model(kind, **{k: v for k, v in options.items() if v is not ...})
    config.architectures = []  # of several with one task, the first
    config._experts_implementation = "batched_mm"  # torchax has no lowering of `aten::_grouped_mm`
    auto = getattr(transformers, f"AutoModelFor{TASKS[kind]}")
    try:
        made = auto.from_config(config, attn_implementation=attention)
    except ValueError as error:
        if "attention implementation" not in str(error) and "scaled_dot_product" not in str(error):
            raise
        made = auto.from_config(config, attn_implementation="eager")
    return randomise(made.double().eval())


def make(kind: str) -> Model:
    """Return a model of transformers with its inputs."""
    if kind in PICTURES:
        options, size = PICTURES[kind]
        return Model(built(kind, options), {"pixel_values": normal(2, 3, size, size)}, lambda out: out.logits)
    ids, others = IDS[:16].reshape(2, 8), IDS[16:].reshape(2, 5)
    if kind in PAIRS:
        module = built(kind, {**SMALL, **PAIRS[kind]})
        return Model(module, {"input_ids": ids, "decoder_input_ids": others}, lambda out: out.logits[:, -1])
    if kind in ENCODERS:
        return Model(built(kind, {**SMALL, **ENCODERS[kind]}), {"input_ids": ids}, lambda out: out.logits)
    return Model(built(kind, {**SMALL, **DECODERS[kind]}), {"input_ids": ids}, lambda out: out.logits[:, -1])
