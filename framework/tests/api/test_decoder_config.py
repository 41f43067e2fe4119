"""Configurations as they are published, older and newer, and what does not fit together in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError, model_validator

from dovetail.api import DecoderConfig, LayerType, ModelConfig, RopeParameters, every_nth_full
from dovetail.kernel.validation import validate_config

FULL, SLIDING, CHUNKED, LINEAR = "full_attention", "sliding_attention", "chunked_attention", "linear_attention"


class AnyDecoder(DecoderConfig):
    """Whose layers implement everything."""

    supported_layer_types: ClassVar[tuple[LayerType, ...]] = (FULL, SLIDING, CHUNKED, LINEAR)


TINY = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def parsed(**changes: Any) -> AnyDecoder:
    return AnyDecoder.model_validate({**TINY, **changes})


# Published configurations: the keys that say what is computed.

LLAMA_31 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 128000, "eos_token_id": 128001,
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
                     "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 128256,
}  # fmt: skip
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "num_local_experts": 8, "rope_theta": 1000000.0, "sliding_window": None, "torch_dtype": "bfloat16", "vocab_size": 32000,
}  # fmt: skip
QWEN_3 = {
    "architectures": ["Qwen3ForCausalLM"], "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
    "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28,
    "num_key_value_heads": 8, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN_25 = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 3584, "intermediate_size": 18944,
    "max_position_embeddings": 32768, "max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "rope_theta": 1000000.0, "sliding_window": 131072, "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip
QWEN_2_VL = {
    "architectures": ["Qwen2VLForConditionalGeneration"], "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu",
    "hidden_size": 1536, "intermediate_size": 8960, "max_position_embeddings": 32768, "max_window_layers": 28,
    "model_type": "qwen2_vl", "num_attention_heads": 12, "num_hidden_layers": 28, "num_key_value_heads": 2, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_sliding_window": False,
    "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16},
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vocab_size": 151936,
}  # fmt: skip
QWEN_2_VL_SAVED_ANEW = {
    "architectures": ["Qwen2VLForConditionalGeneration"], "dtype": "bfloat16", "eos_token_id": 151645, "model_type": "qwen2_vl",
    "hidden_size": 1536, "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    "text_config": {
        "architectures": ["Qwen2VLForConditionalGeneration"], "dtype": "bfloat16", "eos_token_id": 151645, "hidden_act": "silu",
        "hidden_size": 1536, "intermediate_size": 8960, "layer_types": ["full_attention"] * 28, "max_position_embeddings": 32768,
        "max_window_layers": 28, "model_type": "qwen2_vl_text", "num_attention_heads": 12, "num_hidden_layers": 28,
        "num_key_value_heads": 2, "rope_parameters": {"mrope_section": [16, 24, 24], "rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
    },
    "tie_word_embeddings": True, "vision_config": {"depth": 32, "hidden_size": 1536}, "vocab_size": 151936,
}  # fmt: skip
QWEN_3_VL = {
    "architectures": ["Qwen3VLForConditionalGeneration"], "image_token_id": 151655, "model_type": "qwen3_vl",
    "text_config": {
        "bos_token_id": 151643, "dtype": "bfloat16", "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 262144, "model_type": "qwen3_vl_text",
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"}, "rope_theta": 5000000,
        "tie_word_embeddings": True, "vocab_size": 151936,
    },
    "tie_word_embeddings": True, "vision_config": {"hidden_size": 1024, "num_heads": 16},
}  # fmt: skip
QWEN_35 = {
    "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "tie_word_embeddings": False,
    "text_config": {
        "dtype": "bfloat16", "eos_token_id": 248044, "head_dim": 256, "hidden_act": "silu", "hidden_size": 5120,
        "intermediate_size": 17408, "layer_types": [LINEAR, LINEAR, LINEAR, FULL] * 16, "max_position_embeddings": 262144,
        "num_attention_heads": 24, "num_hidden_layers": 64, "num_key_value_heads": 4, "vocab_size": 248320,
        "rope_parameters": {"mrope_interleaved": True, "mrope_section": [11, 11, 10], "rope_type": "default",
                            "rope_theta": 10000000, "partial_rotary_factor": 0.25},
    },
}  # fmt: skip
GEMMA_3 = {
    "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eos_token_id": [1, 106],
    "model_type": "gemma3", "torch_dtype": "bfloat16",
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072, "vocab_size": 262208,
        "hidden_activation": "gelu_pytorch_tanh", "rope_local_base_freq": 10000.0, "rope_theta": 1000000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024, "sliding_window_pattern": 6,
    },
    "vision_config": {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27},
}  # fmt: skip
GEMMA_4 = {
    "architectures": ["Gemma4ForConditionalGeneration"], "dtype": "bfloat16", "model_type": "gemma4", "tie_word_embeddings": True,
    "text_config": {
        "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2816, "intermediate_size": 2112,
        "layer_types": [*[SLIDING] * 5, FULL] * 5, "max_position_embeddings": 262144, "num_attention_heads": 16,
        "num_hidden_layers": 30, "num_key_value_heads": 8, "sliding_window": 1024, "vocab_size": 262144,
        "rope_parameters": {
            FULL: {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
            SLIDING: {"rope_theta": 10000.0, "rope_type": "default"},
        },
    },
}  # fmt: skip
MISTRAL_31 = {
    "architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": 10, "model_type": "mistral3",
    "multimodal_projector_bias": False, "spatial_merge_size": 2, "torch_dtype": "bfloat16", "vision_feature_layer": -1,
    "text_config": {
        "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120, "intermediate_size": 32768,
        "max_position_embeddings": 131072, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 40,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000000.0, "sliding_window": None, "vocab_size": 131072,
    },
    "vision_config": {"head_dim": 64, "hidden_act": "gelu", "hidden_size": 1024, "num_attention_heads": 16, "rope_theta": 10000.0},
}  # fmt: skip
LLAMA_4 = {
    "architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4", "torch_dtype": "bfloat16",
    "text_config": {
        "attention_chunk_size": 8192, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120, "intermediate_size": 8192,
        "max_position_embeddings": 10485760, "num_attention_heads": 40, "num_hidden_layers": 48, "num_key_value_heads": 8,
        "rope_scaling": {"factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "torch_dtype": "bfloat16", "vocab_size": 202048,
    },
}  # fmt: skip
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2880, "intermediate_size": 2880,
    "layer_types": [SLIDING, FULL] * 12, "max_position_embeddings": 131072, "num_attention_heads": 64, "num_hidden_layers": 24,
    "num_key_value_heads": 8, "rope_theta": 150000, "sliding_window": 128, "vocab_size": 201088,
    "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
                     "rope_type": "yarn", "truncate": False},
}  # fmt: skip
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"], "hidden_act": "silu", "hidden_size": 7168, "intermediate_size": 18432,
    "max_position_embeddings": 163840, "num_attention_heads": 128, "num_hidden_layers": 61, "num_key_value_heads": 128,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 4096, "type": "yarn"},
    "rope_theta": 10000, "vocab_size": 129280,
}  # fmt: skip
PHI_35 = {
    "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096, "rope_theta": 10000.0, "sliding_window": 262144, "vocab_size": 32064,
    "rope_scaling": {"type": "longrope", "long_factor": [1.08, *[64.0] * 47], "short_factor": [1.0] * 48},
}  # fmt: skip
PHI_2 = {
    "architectures": ["PhiForCausalLM"], "hidden_act": "gelu_new", "hidden_size": 2560, "intermediate_size": 10240,
    "max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": None,
    "partial_rotary_factor": 0.4, "rope_scaling": None, "rope_theta": 10000.0, "torch_dtype": "float16", "vocab_size": 51200,
}  # fmt: skip
PYTHIA = {
    "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu", "hidden_size": 2048, "intermediate_size": 8192,
    "max_position_embeddings": 2048, "num_attention_heads": 8, "num_hidden_layers": 16, "rotary_emb_base": 10000, "rotary_pct": 0.25,
    "vocab_size": 50304,
}  # fmt: skip
GPT_J = {
    "activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"], "n_embd": 4096, "n_head": 16, "n_inner": 16384,
    "n_layer": 28, "n_positions": 2048, "rotary": True, "rotary_dim": 64, "vocab_size": 50400,
}  # fmt: skip
GPT_2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "n_ctx": 1024, "n_embd": 768, "n_head": 12,
    "n_inner": 3072, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
}  # fmt: skip
OPT = {
    "activation_function": "relu", "architectures": ["OPTForCausalLM"], "ffn_dim": 3072, "hidden_size": 768,
    "max_position_embeddings": 2048, "num_attention_heads": 12, "num_hidden_layers": 12, "torch_dtype": "float16", "vocab_size": 50272,
}  # fmt: skip
GPT_NEO = {
    "activation_function": "gelu_new", "architectures": ["GPTNeoForCausalLM"], "hidden_size": 768, "intermediate_size": 3072,
    "max_position_embeddings": 2048, "num_heads": 12, "num_layers": 12, "vocab_size": 50257, "window_size": 256,
}  # fmt: skip
MODERNBERT = {
    "architectures": ["ModernBertForMaskedLM"], "global_rope_theta": 160000.0, "hidden_activation": "gelu", "hidden_size": 768,
    "intermediate_size": 1152, "local_rope_theta": 10000.0, "max_position_embeddings": 8192, "num_attention_heads": 12,
    "num_hidden_layers": 22, "sliding_window": 65, "layer_types": [FULL, SLIDING] * 11, "vocab_size": 50368,
}  # fmt: skip

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Llama 3.1": (LLAMA_31, {"head_dim": 128, "dtype": "bfloat16", "context": 131072, "layers": {FULL: 32}}),
    "Mixtral": (MIXTRAL, {"head_dim": 128, "theta": 1e6, "layers": {FULL: 32}}),
    "Qwen 3": (QWEN_3, {"head_dim": 128, "theta": 1e6, "tie_word_embeddings": True, "layers": {FULL: 28}}),
    "Qwen 2.5": (QWEN_25, {"sliding_window": None, "layers": {FULL: 28}}),
    "Qwen 2 VL": (QWEN_2_VL, {"hidden_size": 1536, "theta": 1e6, "sliding_window": None, "layers": {FULL: 28}}),
    "Qwen 2 VL, saved anew": (
        QWEN_2_VL_SAVED_ANEW,
        {"hidden_size": 1536, "theta": 1e6, "dtype": "bfloat16", "tie_word_embeddings": True, "layers": {FULL: 28},
         "model_type": "qwen2_vl_text", "architectures": ("Qwen2VLForConditionalGeneration",)},
    ),
    "Qwen 3 VL": (QWEN_3_VL, {"vocab_size": 151936, "theta": 5e6, "eos_token_id": 151645, "tie_word_embeddings": True}),
    "Qwen 3.5": (QWEN_35, {"theta": 1e7, "rotary_dim": 64, "layers": {LINEAR: 48, FULL: 16}, "kinds": {"recurrent", "full"}}),
    "Gemma 3": (
        GEMMA_3,
        {"hidden_size": 2560, "num_attention_heads": 8, "dtype": "bfloat16", "hidden_act": "gelu_tanh", "eos_token_id": [1, 106],
         "layers": {SLIDING: 29, FULL: 5}, "kinds": {"sliding", "full"}, "theta": 1e4, "context": 131072,
         "architectures": ("Gemma3ForConditionalGeneration",), "model_type": "gemma3_text"},
    ),
    "Mistral Small 3.1": (
        MISTRAL_31,
        {"head_dim": 128, "hidden_act": "silu", "hidden_size": 5120, "theta": 1e9, "dtype": "bfloat16", "layers": {FULL: 40}},
    ),
    "Llama 4": (LLAMA_4, {"head_dim": 128, "dtype": "bfloat16", "theta": 5e5, "context": 10485760}),
    "GPT-OSS": (GPT_OSS, {"layers": {SLIDING: 12, FULL: 12}, "kinds": {"sliding", "full"}, "context": 131072}),
    "DeepSeek": (DEEPSEEK, {"context": 163840, "theta": 1e4}),
    "Phi 3.5": (PHI_35, {"head_dim": 96, "layers": {SLIDING: 32}, "kinds": {"full"}, "context": 131072}),
    "Phi 2": (PHI_2, {"num_key_value_heads": 32, "rotary_dim": 32, "hidden_act": "gelu_tanh", "dtype": "float16"}),
    "Pythia": (PYTHIA, {"head_dim": 256, "rotary_dim": 64, "hidden_act": "gelu"}),
    "GPT-J": (
        GPT_J,
        {"hidden_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 28, "max_position_embeddings": 2048,
         "intermediate_size": 16384, "rotary_dim": 64, "hidden_act": "gelu_tanh"},
    ),
    "GPT-2": (GPT_2, {"hidden_size": 768, "num_key_value_heads": 12, "head_dim": 64, "context": 1024, "intermediate_size": 3072}),
    "OPT": (OPT, {"intermediate_size": 3072, "hidden_act": "relu"}),
    "GPT-Neo": (GPT_NEO, {"num_attention_heads": 12, "num_hidden_layers": 12}),
    "ModernBERT": (MODERNBERT, {"theta": 160000.0, "hidden_act": "gelu", "kinds": {"sliding", "full"}}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_published_configurations(case: str) -> None:
    data, expected = CASES[case]
    config = AnyDecoder.model_validate(data)
    found = {
        "theta": config.rope_for(0).rope_theta,
        "rotary_dim": config.rotary_dim(0),
        "layers": {kind: config.layer_types.count(kind) for kind in config.layer_types},
        "kinds": {"+".join(need.features) or "full" for need in config.attention_requirements()},
        "context": config.context_length(),
    }
    assert {key: found.get(key, getattr(config, key, None)) for key in expected} == expected
    assert {need.head_dim for need in config.attention_requirements()} == {config.head_dim}


def test_the_text_model_s_scaling_is_of_the_layers_without_windows() -> None:
    config = AnyDecoder.model_validate(GEMMA_3)
    assert config.layer_types[5] == FULL
    assert config.rope_for(5) == RopeParameters(rope_type="linear", factor=8.0, rope_theta=1e6)
    assert config.rope_for(6) == RopeParameters(rope_theta=1e4)
    assert (config.window(5), config.window(6)) == (None, 1024)


def test_a_type_that_is_not_known_is_refused() -> None:
    with pytest.raises(
        ValidationError, match="rope_parameters' full_attention's rope_type is 'proportional', wanted one of"
    ):
        AnyDecoder.model_validate(GEMMA_4)


# Keys of the whole model and of its text model.


def merged(outer: dict[str, Any], **text: Any) -> AnyDecoder:
    return AnyDecoder.model_validate({**outer, "text_config": {**TINY, **text}})


@pytest.mark.parametrize(
    ("outer", "text", "expected"),
    [
        ({"hidden_size": 9, "vocab_size": 9}, {}, {"hidden_size": 48, "vocab_size": 61}),
        ({"model_type": "whole"}, {"model_type": "text"}, {"model_type": "text"}),
        ({"architectures": ["Whole"]}, {"architectures": ["Text"]}, {"architectures": ("Whole",)}),
        ({}, {"architectures": ["Text"]}, {"architectures": ("Text",)}),
        ({"tie_word_embeddings": True}, {}, {"tie_word_embeddings": True}),
        ({"tie_word_embeddings": True}, {"tie_word_embeddings": None}, {"tie_word_embeddings": True}),
        ({"tie_word_embeddings": True}, {"tie_word_embeddings": False}, {"tie_word_embeddings": False}),
        ({"quantization_config": {"a": 1}}, {}, {"quantization_config": {"a": 1}}),
        ({"quantization_config": {"a": 1}}, {"quantization_config": {"b": 1}}, {"quantization_config": {"b": 1}}),
        ({"bos_token_id": 1, "eos_token_id": [2, 3]}, {"eos_token_id": 4}, {"bos_token_id": 1, "eos_token_id": 4}),
        ({"torch_dtype": "bfloat16"}, {}, {"dtype": "bfloat16"}),
        ({"torch_dtype": "bfloat16"}, {"dtype": None}, {"dtype": "bfloat16"}),
        ({"dtype": "bfloat16"}, {"torch_dtype": "float16"}, {"dtype": "float16"}),
        ({"torch_dtype": "bfloat16"}, {"dtype": "torch.float16"}, {"dtype": "float16"}),
        ({"num_attention_heads": 9}, {"num_attention_heads": None, "n_head": 4}, {"num_attention_heads": 4}),
        ({"sliding_window": 7}, {"sliding_window": None}, {"sliding_window": None}),
        ({"hidden_act": "gelu"}, {}, {"hidden_act": "gelu"}),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, {}, {"rope": {"": RopeParameters(rope_type="linear", factor=2.0)}}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rotary_pct": 0.5},
            {"rope_theta": 7.0},
            {"rope": {"": RopeParameters(rope_theta=7.0)}},
        ),
    ],
)  # fmt: skip
def test_the_text_model_s_keys_win(outer: dict[str, Any], text: dict[str, Any], expected: dict[str, Any]) -> None:
    config = merged(outer, **text)
    assert {key: getattr(config, key) for key in expected} == expected


def test_a_text_config_is_an_object_or_none() -> None:
    assert parsed(text_config=None) == parsed()
    with pytest.raises(ValidationError, match="text_config is 5, wanted an object"):
        parsed(text_config=5)


# Aliases.


class Aliased(ModelConfig):
    aliases: ClassVar[dict[str, str]] = {
        "shell": "num_hidden_layers",
        "depth": "num_hidden_layers",
        "n_embd": "n_inner",
    }

    n_inner: int = 0
    num_heads: int = 0


class AliasedAgain(Aliased):
    aliases: ClassVar[dict[str, str]] = {"kernel": "num_heads"}


def aliased(**keys: Any) -> AliasedAgain:
    return AliasedAgain.model_validate({"vocab_size": 5, "hidden_size": 3, **keys})


def test_aliases_of_all_bases_are_read() -> None:
    assert aliased(n_layer=2).num_hidden_layers == 2
    assert aliased(depth=2).num_hidden_layers == 2
    assert aliased(n_layer=2, kernel=7.0).num_heads == 7
    assert aliased(n_layer=2, num_heads=6, kernel=7).num_heads == 6


def test_of_several_aliases_the_first_of_the_most_special_class_is_read() -> None:
    assert aliased(n_layer=2, depth=4, shell=3).num_hidden_layers == 3
    assert aliased(num_hidden_layers=1, n_layer=2, shell=3).num_hidden_layers == 1
    assert aliased(num_hidden_layers=None, n_layer=2).num_hidden_layers == 2
    assert aliased(n_layer=2, n_embd=8).n_inner == 8
    assert aliased(n_layer=2, n_embd=8).hidden_size == 3


def test_a_field_is_no_alias() -> None:
    """``num_heads`` and ``n_inner`` are fields of their own here."""
    assert aliased(n_layer=2, num_heads=4, n_inner=9).num_heads == 4


# Layer types and windows.


@pytest.mark.parametrize(
    ("keys", "types"),
    [
        ({}, [FULL] * 4),
        ({"sliding_window": 9}, [SLIDING] * 4),
        ({"sliding_window": 0}, [FULL] * 4),
        ({"sliding_window": 9, "use_sliding_window": False}, [FULL] * 4),
        ({"sliding_window": 9, "use_sliding_window": True}, [SLIDING] * 4),
        ({"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 3}, [FULL, FULL, FULL, SLIDING]),
        ({"sliding_window": 9, "max_window_layers": 3}, [SLIDING] * 4),
        ({"sliding_window": 9, "sliding_window_pattern": 2}, [SLIDING, FULL] * 2),
        ({"sliding_window": 9, "sliding_window_pattern": 1}, [FULL] * 4),
        ({"sliding_window": None, "sliding_window_pattern": 2}, [FULL] * 4),
        ({"sliding_window": 9, "sliding_window_pattern": 2, "layer_types": [FULL] * 4}, [FULL] * 4),
        ({"sliding_window": 9, "layer_types": [FULL, SLIDING, LINEAR, CHUNKED]}, [FULL, SLIDING, LINEAR, CHUNKED]),
    ],
)
def test_layer_types(keys: dict[str, Any], types: list[str]) -> None:
    assert parsed(**keys).layer_types == tuple(types)


def test_windows_are_of_layers_with_windows() -> None:
    config = parsed(sliding_window=9, layer_types=[FULL, SLIDING, LINEAR, CHUNKED])
    assert [config.window(layer) for layer in range(4)] == [None, 9, None, None]
    features = [set(need.features) for need in config.attention_requirements()]
    assert features == [set(), {"sliding"}, {"recurrent"}, {"chunked"}]


@pytest.mark.parametrize(("window", "kept"), [(1, 1), (127, 127), (128, None), (4096, None)])
def test_a_window_as_long_as_the_longest_context_is_none(window: int, kept: int | None) -> None:
    config = parsed(sliding_window=window)
    assert config.window(0) == kept
    assert [set(need.features) for need in config.attention_requirements()] == [{"sliding"} if kept else set()]
    assert parsed(sliding_window=window, rope_scaling={"type": "linear", "factor": 64.0}).window(0) == window


# Rotary embeddings.


def test_rotary_embeddings_by_layer() -> None:
    kinds = {FULL: {"partial_rotary_factor": 0.5}, SLIDING: {"rope_theta": 7.0}}
    config = parsed(rope_parameters=kinds, sliding_window=9, layer_types=[LINEAR, SLIDING, FULL, FULL])
    assert [config.rotary_dim(layer) for layer in (1, 2, 3)] == [12, 6, 6]
    assert config.rope_for(1).rope_theta == 7.0
    with pytest.raises(KeyError):
        config.rope_for(0)


class Defaults(DecoderConfig):
    rope_defaults: ClassVar[dict[str, Any]] = {"rope_theta": 1e6, "partial_rotary_factor": 0.5}


class NoRotary(DecoderConfig):
    rotary: ClassVar[bool] = False


def test_defaults_of_a_model_s_class() -> None:
    config = Defaults.model_validate(TINY)
    assert config.rope == {"": RopeParameters(rope_theta=1e6, partial_rotary_factor=0.5)}
    assert Defaults.model_validate({**TINY, "rope_theta": 7.0}).rope_for(0).rope_theta == 7.0


def test_a_model_without_rotary_embeddings_reads_none() -> None:
    config = NoRotary.model_validate({**TINY, "head_dim": 7, "rope_scaling": {"type": "spiral"}})
    assert config.rope == {}
    assert (config.context_length(), config.longest_context()) == (128, 128)


def test_the_longest_of_all_layers_decides() -> None:
    kinds = {FULL: {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, SLIDING: {}}
    config = parsed(rope_parameters=kinds, sliding_window=9, layer_types=[SLIDING, FULL] * 2)
    assert (config.context_length(), config.longest_context()) == (256, 256)
    del kinds[FULL]["original_max_position_embeddings"]
    config = parsed(rope_parameters=kinds, sliding_window=9, layer_types=[SLIDING, FULL] * 2)
    assert (config.context_length(), config.longest_context()) == (128, 512)


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("swish", "silu"),
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("quick_gelu", "gelu_quick"),
        ("relu2", "relu2"),
    ],
)
def test_activations(name: str, activation: str) -> None:
    assert parsed(hidden_act=name).hidden_act == activation
    assert parsed(activation_function=name).hidden_act == activation


# What does not fit together, through the sentence that a user gets.


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_size": None}, "from the file: hidden_size: is missing;"),
        ({"num_attention_heads": None, "rotary_dim": 8}, "from the file: num_attention_heads: is missing;"),
        ({"num_attention_heads": "4"}, "num_attention_heads: Input should be a valid integer"),
        ({"num_attention_heads": True}, "num_attention_heads: Input should be a valid integer"),
        ({"num_attention_heads": 0}, "num_attention_heads: Input should be greater than 0"),
        ({"num_attention_heads": 5}, "hidden_size 48 is not a multiple of num_attention_heads 5, and there is no head_dim"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"num_key_value_heads": False}, "num_key_value_heads: Input should be a valid integer"),
        ({"head_dim": 10**12}, "head_dim: Input should be less than or equal to"),
        ({"head_dim": 10**400, "rotary_dim": 8}, "head_dim: Input should be"),
        ({"head_dim": 7}, "head_dim 7 is 7 channels, wanted an even number"),
        ({"partial_rotary_factor": 0.3}, "head_dim 12 times the partial_rotary_factor 0.3 is 3 channels, wanted an even"),
        ({"partial_rotary_factor": 0.01}, "is 0 channels, wanted an even number"),
        ({"rotary_dim": 16}, "rotary_dim is 16, wanted a whole number above 0 and at most the head_dim 12"),
        ({"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' has 2 channels, wanted more"),
        ({"rope_scaling": {"type": "su", "long_factor": [1.0], "short_factor": [1.0]}}, "long_factor has 1 numbers, wanted 6"),
        ({"rope_scaling": {"type": "yarn"}}, "from the file: rope_scaling: the type 'yarn' lacks factor;"),
        ({"rope_theta": float("nan")}, "from the file: rope_theta is nan, wanted a number above 1"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers: Input should be less than or equal to 10000"),
        ({"num_hidden_layers": -1}, "num_hidden_layers: Input should be greater than 0"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers: Input should be a valid integer"),
        ({"sliding_window": 10**9}, "sliding_window: Input should be less than or equal to"),
        ({"sliding_window": -1}, "sliding_window: Input should be greater than 0"),
        ({"sliding_window": 9, "sliding_window_pattern": "LLLG"}, "sliding_window_pattern is 'LLLG', wanted a whole number"),
        ({"sliding_window": 9, "max_window_layers": "3"}, "max_window_layers is '3', wanted a whole number"),
        ({"rope_theta": 10**400}, "rope_theta is .*, wanted a number above 1"),
        ({"layer_types": [FULL]}, "layer_types has 1 entries, wanted one for each of 4 layers"),
        ({"layer_types": [FULL] * 20_000}, "layer_types: .* at most 10000 items"),
        ({"layer_types": FULL}, "layer_types: Input should be a valid tuple"),
        ({"layer_types": [1, 2, 3, 4]}, "layer_types.0: Input should be a valid string"),
        ({"layer_types": [*[FULL] * 3, "mamba"]}, "layer 3 is of the type 'mamba', which is not supported, only full_attention,"),
        ({"layer_types": [SLIDING] * 4}, "layer_types has 'sliding_attention', and there is no sliding_window"),
        ({"hidden_act": "mish"}, r"hidden_act: wanted one of silu, swish, gelu, .* \(found 'mish'\)"),
        ({"hidden_act": ["silu"]}, r"hidden_act: wanted one of silu, .* \(found \['silu'\]\)"),
        ({"torch_dtype": 16}, "dtype: Input should be a valid string"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(Exception, match=told) as error:
        validate_config(AnyDecoder, {**TINY, **changes}, "the file")
    assert type(error.value).__name__ == "ConfigError"


def test_layer_types_that_a_model_does_not_have_are_refused() -> None:
    with pytest.raises(
        ValidationError, match="'linear_attention', which is not supported, only full_attention, sliding_attention"
    ):
        Defaults.model_validate({**TINY, "layer_types": [LINEAR] * 4})


class WindowByDefault(AnyDecoder):
    """Whose files have a window unless they say null."""

    @model_validator(mode="before")
    @classmethod
    def _read_window(cls, data: dict[str, Any]) -> dict[str, Any]:
        return {"sliding_window": 16, **data}


@pytest.mark.parametrize(("keys", "window"), [({}, 16), ({"sliding_window": None}, None), ({"sliding_window": 8}, 8)])
def test_a_model_can_tell_null_from_no_key(keys: dict[str, Any], window: int | None) -> None:
    assert WindowByDefault.model_validate({**TINY, **keys}).sliding_window == window


# What classes say of all files of their models.


class Windowed(DecoderConfig):
    if_missing: ClassVar[dict[str, Any]] = {"sliding_window": 32, "num_key_value_heads": 2}
    partial_rotary: ClassVar[bool] = False
    one_rope: ClassVar[bool] = True

    @classmethod
    def usual_layer_types(cls, data: Mapping[str, Any], layers: int) -> Iterable[str]:
        return every_nth_full(data.get("sliding_window_pattern", 2), layers)


@pytest.mark.parametrize(
    ("keys", "window", "heads"),
    [
        ({}, 32, 2),
        ({"sliding_window": None, "layer_types": [FULL] * 4}, None, 2),
        ({"num_key_value_heads": None}, 32, 4),
        ({"num_kv_heads": 1}, 32, 1),
        ({"text_config": {"sliding_window": 9}}, 9, 2),
    ],
)
def test_a_missing_key_is_not_null(keys: dict[str, Any], window: int | None, heads: int) -> None:
    config = Windowed.model_validate({**TINY, **keys})
    assert (config.sliding_window, config.num_key_value_heads) == (window, heads)


def test_layer_types_that_a_file_leaves_out() -> None:
    assert Windowed.model_validate(TINY).layer_types == (SLIDING, FULL) * 2
    assert Windowed.model_validate({**TINY, "sliding_window_pattern": 1}).layer_types == (FULL,) * 4
    assert Windowed.model_validate({**TINY, "layer_types": [FULL] * 4}).layer_types == (FULL,) * 4
    for pattern in (0, True, "2"):
        with pytest.raises(ValidationError, match=r"sliding_window_pattern is .*, wanted a positive number of layers"):
            Windowed.model_validate({**TINY, "sliding_window_pattern": pattern})


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported, only 1"),
        ({"rope_theta": 1e6, "rope_local_base_freq": 1e4}, "rotary embeddings that differ between layers"),
        ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, "lacks long_factor and short_factor"),
    ],
)
def test_rotary_embeddings_that_a_model_does_not_have(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Windowed.model_validate({**TINY, **keys})


def test_lists_of_fields_that_are_tuples() -> None:
    class Listed(DecoderConfig):
        sizes: tuple[int, ...] = ()

    assert Listed.model_validate({**TINY, "sizes": [1, 2]}).sizes == (1, 2)


class Follower(AnyDecoder):
    unread: ClassVar[tuple[str, ...]] = ("sliding_window", "n_head", "rope_theta")
    if_null: ClassVar[dict[str, Any]] = {"tie_word_embeddings": True}


def test_keys_that_a_model_does_not_follow_are_as_if_the_file_lacked_them() -> None:
    config = Follower.model_validate({**TINY, "sliding_window": 9, "n_head": 2, "rope_theta": 5e5})
    assert config == Follower.model_validate(TINY)
    assert config != Follower.model_validate({**TINY, "num_attention_heads": 2})


def test_null_may_be_another_value_than_the_default() -> None:
    assert Follower.model_validate({**TINY, "tie_word_embeddings": None}).tie_word_embeddings
    assert not Follower.model_validate(TINY).tie_word_embeddings
    with pytest.raises(ValidationError, match="is_causal is false, which is not supported"):
        Follower.model_validate({**TINY, "is_causal": None})  # what the base says of null stays


class ByType(AnyDecoder):
    rope_by_type: ClassVar[bool] = True


YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"rope_parameters": {"rope_theta": 1e6}}, "rope_parameters does not say of which layers it is"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling has a type and no rope_type"),
        ({"rope_parameters": {FULL: YARN | {"truncate": False}}}, "truncate of the rotary embedding is false"),
        (
            {"rope_parameters": {FULL: YARN | {"short_mscale": 1.1}}},
            "short_mscale and long_mscale .* are not supported",
        ),
    ],
)
def test_rotary_embeddings_by_layer_type(keys: dict[str, Any], told: str) -> None:
    assert ByType.model_validate({**TINY, "rope_parameters": {FULL: YARN}}).rope[FULL].factor == 4.0
    with pytest.raises(ValidationError, match=told):
        ByType.model_validate({**TINY, **keys})
