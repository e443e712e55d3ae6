"""Models that others wrote, from small random configurations: transformers' Flax models, Keras applications, networks
of Haiku, Equinox and Flax. `ZOO` maps each name to a function that makes the model and its arguments.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("USE_TORCH", "0")

import jax
import jax.numpy as jnp
import numpy as np
import small_transformers
from small_transformers import VOCABULARY

RNG = np.random.default_rng(0)
IDS = RNG.permutation(np.arange(3, VOCABULARY))[:14].reshape(2, 7).astype(np.int32)
DECODER_IDS = RNG.permutation(np.arange(3, VOCABULARY))[:10].reshape(2, 5).astype(np.int32)


@dataclass(frozen=True)
class Model:
    """A function with its arguments, all of them explained.

    `table` returns the score as a function of the embedding's table, and the table: an oracle for ids.
    """

    fun: Callable
    args: tuple[Any, ...]
    table: Callable | None = None


def image(size: int, channels_first: bool = False, batch: int = 2) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(batch, size, size, 3)).astype(np.float32)
    return np.moveaxis(x, -1, 1) if channels_first else x


def randomised(tree: Any) -> Any:
    """Return parameters with random numbers for what is all zeros or ones, and variances that are positive."""
    rng = np.random.default_rng(2)

    def fresh(path: Any, v: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(v), jnp.floating):
            return v
        noise = 0.1 * rng.normal(size=np.shape(v)).astype(np.float32)
        return v + (np.abs(noise) if "var" in jax.tree_util.keystr(path).lower() else noise)

    return jax.tree_util.tree_map_with_path(fresh, tree)


# --- transformers' Flax models ---

SMALL = {**small_transformers.SMALL, "max_position_embeddings": 20}
GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 16,
    "tie_word_embeddings": False,
}
PAIR = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "decoder_start_token_id": 0}
VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
CLIP_TEXT = {**SMALL, "num_hidden_layers": 1, "eos_token_id": 2}
CLIP_VISION = {**VISION, "num_hidden_layers": 1, "intermediate_size": 24}

# Name → model class, configuration class, configuration. Tables are not tied, so that they serve as an oracle.
TEXT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", GPT),
    "GPT-Neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 16,
            "window_size": 4,
        },
    ),
    "GPT-J": ("GPTJForCausalLM", "GPTJConfig", {**GPT, "rotary_dim": 4}),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", {**SMALL, "num_key_value_heads": 1}),
    "Mistral": ("MistralForCausalLM", "MistralConfig", {**SMALL, "num_key_value_heads": 1, "sliding_window": 4}),
    "Gemma": ("GemmaForCausalLM", "GemmaConfig", {**SMALL, "num_key_value_heads": 1, "head_dim": 8}),
    "BLOOM": (
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    ),
    "OPT": (
        "OPTForCausalLM",
        "OPTConfig",
        {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 16},
    ),
    "XGLM": (
        "XGLMForCausalLM",
        "XGLMConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "num_layers": 2,
            "ffn_dim": 24,
            "attention_heads": 2,
            "max_position_embeddings": 16,
        },
    ),
    "BERT": ("BertForSequenceClassification", "BertConfig", SMALL),
    "BERT, masked tokens": ("BertForMaskedLM", "BertConfig", SMALL),
    "RoBERTa": ("RobertaForSequenceClassification", "RobertaConfig", SMALL),
    "RoBERTa, norms first": ("RobertaPreLayerNormForSequenceClassification", "RobertaPreLayerNormConfig", SMALL),
    "ELECTRA": ("ElectraForSequenceClassification", "ElectraConfig", {**SMALL, "embedding_size": 8}),
    "DistilBERT": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    ),
    "ALBERT": ("AlbertForSequenceClassification", "AlbertConfig", {**SMALL, "embedding_size": 8}),
    "BigBird": ("BigBirdForSequenceClassification", "BigBirdConfig", {**SMALL, "attention_type": "original_full"}),
}
PAIRS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "T5": ("T5ForConditionalGeneration", "T5Config", {**T5, "num_layers": 2}),
    "T5, gated": ("T5ForConditionalGeneration", "T5Config", {**T5, "num_layers": 1, "feed_forward_proj": "gated-gelu"}),
    "LongT5": (
        "LongT5ForConditionalGeneration",
        "LongT5Config",
        {**T5, "num_layers": 1, "local_radius": 3, "encoder_attention_type": "local"},
    ),
    "BART": ("BartForConditionalGeneration", "BartConfig", PAIR),
    "mBART": ("MBartForConditionalGeneration", "MBartConfig", PAIR),
    "Marian": ("MarianMTModel", "MarianConfig", PAIR),
    "Pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", PAIR),
    "Blenderbot": ("BlenderbotForConditionalGeneration", "BlenderbotConfig", PAIR),
}
IMAGES: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "ViT": ("ViTForImageClassification", "ViTConfig", {**VISION, "intermediate_size": 24}, 16),
    "BEiT": (
        "BeitForImageClassification",
        "BeitConfig",
        {**VISION, "intermediate_size": 24, "use_relative_position_bias": True},
        16,
    ),
    "DINOv2": ("Dinov2ForImageClassification", "Dinov2Config", VISION, 16),
    "ResNet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"},
        32,
    ),
    "RegNet": (
        "RegNetForImageClassification",
        "RegNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
        32,
    ),
}


def flax_model(model: str, config: str, options: dict[str, Any], **shape: Any) -> tuple[Any, Any]:
    """Return a model of transformers, and its parameters."""
    import transformers

    with numpy_as_it_was():
        made = getattr(transformers, f"Flax{model}")(getattr(transformers, config)(**options), seed=0, **shape)
    return made, randomised(made.params)


def numpy_as_it_was() -> Any:
    """Give `jnp.clip` back the names of its arguments that transformers' T5 uses."""
    clip = jnp.clip
    old = lambda x, *args, a_min=None, a_max=None, **kwargs: (
        clip(x, *args, **kwargs) if a_min is None and a_max is None else clip(x, a_min, a_max)
    )
    return mock.patch.object(jnp, "clip", old)


def applied(made: Any, parameters: Any, output: str, names: tuple[str, ...]) -> Callable:
    def f(*args: Any) -> Any:
        with numpy_as_it_was():
            return getattr(made(**dict(zip(names, args, strict=True)), params=parameters), output)

    return f


def text(name: str) -> Model:
    made, parameters = flax_model(*TEXT[name])
    path, table = embedding_table(parameters)

    def with_table(table: Any) -> Any:
        other = jax.tree_util.tree_map_with_path(lambda p, v: table if p == path else v, parameters)
        return applied(made, other, "logits", ("input_ids",))(IDS)

    f = applied(made, parameters, "logits", ("input_ids",))
    tied = made.config.tie_word_embeddings and jax.eval_shape(f, IDS).shape[-1] == VOCABULARY
    return Model(f, (IDS,), None if tied else lambda: (with_table, table))


def embedding_table(parameters: Any) -> tuple[Any, Any]:
    """Return where the table of the vocabulary is among the parameters, and the table."""
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    return next((p, v) for p, v in leaves if v.shape[:1] == (VOCABULARY,) and "embedding" in jax.tree_util.keystr(p))


def pair(name: str) -> Model:
    made, parameters = flax_model(*PAIRS[name])
    return Model(applied(made, parameters, "logits", ("input_ids", "decoder_input_ids")), (IDS, DECODER_IDS))


def picture(name: str) -> Model:
    *which, size = IMAGES[name]
    shape = {"input_shape": (1, size, size, 3)} if name in ("ResNet", "RegNet") else {}
    made, parameters = flax_model(*which, **shape)
    return Model(applied(made, parameters, "logits", ("pixel_values",)), (image(size, channels_first=True),))


def clip() -> Model:
    options = {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION, "projection_dim": 8}
    made, parameters = flax_model("CLIPModel", "CLIPConfig", options)
    names = ("input_ids", "pixel_values")
    return Model(applied(made, parameters, "logits_per_image", names), (IDS, image(16, channels_first=True)))


def whisper() -> Model:
    options = {**PAIR, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 12}
    options |= {"suppress_tokens": None, "begin_suppress_tokens": None}
    made, parameters = flax_model("WhisperForConditionalGeneration", "WhisperConfig", options, input_shape=(1, 8, 20))
    sound = np.random.default_rng(1).normal(size=(2, 8, 20)).astype(np.float32)
    return Model(applied(made, parameters, "logits", ("input_features", "decoder_input_ids")), (sound, DECODER_IDS))


def wav2vec2() -> Model:
    options = {**SMALL, "num_hidden_layers": 1, "conv_dim": (8, 8), "conv_stride": (4, 4), "conv_kernel": (8, 4)}
    options |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2}
    options |= {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    made, parameters = flax_model("Wav2Vec2ForCTC", "Wav2Vec2Config", options, input_shape=(1, 200))
    sound = np.random.default_rng(1).normal(size=(2, 200)).astype(np.float32)
    return Model(applied(made, parameters, "logits", ("input_values",)), (sound,))


# --- Keras ---

APPLICATIONS = {
    "ResNet50": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "EfficientNetB0": 32,
    "ConvNeXtTiny": 32,
    "Xception": 71,
}
# Whose compilation takes minutes: only their plans are made.
LARGE_APPLICATIONS = {
    "VGG16": 32,
    "ResNet50V2": 32,
    "MobileNet": 32,
    "EfficientNetV2B0": 32,
    "DenseNet121": 32,
    "NASNetMobile": 32,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
}


def application(name: str) -> Model:
    import keras

    keras.utils.set_random_seed(0)
    shape = ((APPLICATIONS | LARGE_APPLICATIONS)[name],) * 2
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(*shape, 3), classes=10, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # so that one call is enough: with its first statistics a deep network returns 1e-12
    model(image(shape[0], batch=32), training=True)
    return Model(lambda x: model(x, training=False), (image(shape[0]),))


def keras_attention(kind: str) -> Model:
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    attention = {
        "multi-head": lambda: layers.MultiHeadAttention(2, 4),
        "grouped": lambda: layers.GroupQueryAttention(4, 4, 2),
    }[kind]()
    ids = keras.Input((7,), dtype="int32")
    h = layers.Embedding(VOCABULARY, 8)(ids)
    h = layers.LayerNormalization()(h + attention(h, h))
    h = layers.LayerNormalization()(h + layers.Dense(8)(layers.Dense(16, activation="gelu")(h)))
    model = keras.Model(ids, layers.Dense(3)(layers.GlobalAveragePooling1D()(h)))
    return Model(lambda ids: model(ids), (IDS,))


# --- Haiku, Equinox, Flax ---


def haiku_network(name: str) -> Model:
    import haiku as hk

    make = {
        "ResNet18": lambda: hk.nets.ResNet18(10),
        "ResNet50, v2": lambda: hk.nets.ResNet50(10, resnet_v2=True),
        "MobileNetV1": lambda: hk.nets.MobileNetV1(num_classes=10),
    }[name]
    network = hk.without_apply_rng(hk.transform_with_state(lambda x, training: make()(x, is_training=training)))
    many = image(32, batch=32)
    parameters, state = network.init(jax.random.key(0), many, True)
    parameters = randomised(parameters)
    _, state = network.apply(parameters, state, many, True)
    return Model(lambda x: network.apply(parameters, state, x, False)[0], (image(32),))


def haiku_attention() -> Model:
    import haiku as hk

    def f(ids: Any) -> Any:
        h = hk.Embed(VOCABULARY, 16)(ids)
        causal = jnp.tril(jnp.ones((1, 1, 7, 7)))
        initial = hk.initializers.VarianceScaling(1.0)
        for _ in range(2):
            n = hk.LayerNorm(-1, True, True)(h)
            h = h + hk.MultiHeadAttention(2, 8, model_size=16, w_init=initial)(n, n, n, mask=causal)
            n = hk.LayerNorm(-1, True, True)(h)
            h = h + hk.Linear(16)(jax.nn.gelu(hk.Linear(32)(n)))
        return hk.Linear(VOCABULARY)(h)

    network = hk.without_apply_rng(hk.transform(f))
    parameters = randomised(network.init(jax.random.key(0), IDS))
    return Model(lambda ids: network.apply(parameters, ids), (IDS,))


def equinox_attention() -> Model:
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 6)
    embed, attend = eqx.nn.Embedding(VOCABULARY, 16, key=keys[0]), eqx.nn.MultiheadAttention(2, 16, key=keys[1])
    rotary, norm = eqx.nn.RotaryPositionalEmbedding(8), eqx.nn.RMSNorm(16)
    mlp, head = eqx.nn.MLP(16, 16, 32, 1, key=keys[2]), eqx.nn.Linear(16, 3, key=keys[3])

    def heads(q: Any, k: Any, v: Any) -> Any:
        turn = jax.vmap(rotary, in_axes=1, out_axes=1)
        return turn(q), turn(k), v

    def one(ids: Any) -> Any:
        h = jax.vmap(embed)(ids)
        n = jax.vmap(norm)(h)
        h = h + attend(n, n, n, mask=jnp.tril(jnp.ones((7, 7), bool)), process_heads=heads)
        return head((h + jax.vmap(mlp)(jax.vmap(norm)(h))).mean(0))

    return Model(jax.vmap(one), (IDS,))


def linen_transformer(remat: bool) -> Model:
    import flax.linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, h: Any, mask: Any) -> Any:
            n = nn.LayerNorm()(h)
            h = h + nn.MultiHeadDotProductAttention(2)(n, mask=mask)
            n = nn.RMSNorm()(h)
            return h + nn.Dense(16)(nn.silu(nn.Dense(24)(n)) * nn.Dense(24)(n)), None

    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, ids: Any) -> Any:
            embed = nn.Embed(VOCABULARY, 16)
            mask = nn.combine_masks(nn.make_causal_mask(ids), nn.make_attention_mask(ids > 0, ids > 0))
            block = nn.remat(Block) if remat else Block
            layers = nn.scan(
                block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=3
            )
            h, _ = layers()(embed(ids), mask)
            return embed.attend(nn.LayerNorm()(h))  # tied

    model = Decoder()
    parameters = randomised(model.init(jax.random.key(0), IDS))
    return Model(lambda ids: model.apply(parameters, ids), (IDS,))


def nnx_transformer() -> Model:
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs: Any):
            self.embed = nnx.Embed(VOCABULARY, 16, rngs=rngs)
            self.attend = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs)
            self.norm = nnx.LayerNorm(16, rngs=rngs)
            self.head = nnx.Linear(16, 3, rngs=rngs)

        def __call__(self, ids: Any) -> Any:
            h = self.embed(ids)
            return self.head(self.norm(h + self.attend(h)).mean(1))

    graph, state = nnx.split(Network(nnx.Rngs(0)))
    run = jax.jit(lambda state, ids: nnx.merge(graph, state)(ids))
    return Model(lambda ids: run(state, ids), (IDS,))


ZOO: dict[str, Callable[[], Model]] = {
    **{name: functools.partial(text, name) for name in TEXT},
    **{name: functools.partial(pair, name) for name in PAIRS},
    **{name: functools.partial(picture, name) for name in IMAGES},
    "CLIP": clip,
    "Whisper": whisper,
    "Wav2Vec2": wav2vec2,
    **{f"Keras {name}": functools.partial(application, name) for name in APPLICATIONS},
    "Keras multi-head attention": functools.partial(keras_attention, "multi-head"),
    "Keras grouped attention": functools.partial(keras_attention, "grouped"),
    **{f"Haiku {name}": functools.partial(haiku_network, name) for name in ("ResNet18", "ResNet50, v2", "MobileNetV1")},
    "Haiku attention": haiku_attention,
    "Equinox attention": equinox_attention,
    "Linen decoder, scanned": functools.partial(linen_transformer, False),
    "Linen decoder, scanned and rematerialised": functools.partial(linen_transformer, True),
    "NNX attention": nnx_transformer,
}
TRANSFORMERS = {*TEXT, *PAIRS, *IMAGES, "CLIP", "Whisper", "Wav2Vec2"}
WITH_ATTENTION = {
    name for name in ZOO if name in TRANSFORMERS - {"ResNet", "RegNet"} or "ttention" in name or "Linen" in name
}
