"""GGUF's names, metadata and row order, translated and back."""

from __future__ import annotations

import math
from typing import Any

import dovetail_models_llama
import pytest
import torch
from dovetail_models_llama.config import GraniteConfig, LlamaConfig, MistralConfig, SmolLM3Config
from dovetail_models_llama.gguf import NAMING

from dovetail.api import CheckpointError, ConfigError
from dovetail.testing import build_model, empty_model, random_checkpoint

CARD, *_ = dovetail_models_llama.dovetail_register_models()

METADATA: dict[str, Any] = {
    "llama.vocab_size": 61,
    "llama.context_length": 128,
    "llama.embedding_length": 48,
    "llama.block_count": 2,
    "llama.feed_forward_length": 80,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 12,
    "llama.rope.freq_base": 100000.0,
}

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "output_norm.weight": "model.norm.weight",
    "rope_freqs.weight": "rope_freqs.weight",
    "blk.0.attn_norm.weight": "model.layers.0.input_layernorm.weight",
    "blk.0.ffn_norm.weight": "model.layers.0.post_attention_layernorm.weight",
    "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
    "blk.0.attn_k.bias": "model.layers.0.self_attn.k_proj.bias",
    "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
    "blk.11.attn_output.weight": "model.layers.11.self_attn.o_proj.weight",
    "blk.0.ffn_gate.weight": "model.layers.0.mlp.gate_proj.weight",
    "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
    "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
}


@pytest.mark.parametrize("name", NAMES)
def test_rename(name: str) -> None:
    assert NAMING.rename(name) == NAMES[name]


@pytest.mark.parametrize("name", ["blk.0.attn_sinks.weight", "blk.0.ffn_gate_exps.weight", "mystery.weight"])
def test_an_unknown_name_stays_so_that_the_reader_refuses_it_by_name(name: str) -> None:
    assert NAMING.rename(name) == name


def test_the_names_are_those_that_the_model_expects() -> None:
    config = NAMING.config("llama", METADATA)
    _, ctx = empty_model(CARD, config)
    expected = {f"{name}.weight" for name in ctx.layers} | set(ctx.vectors)
    top = {new for old, new in NAMES.items() if not old.startswith("blk.")}
    layers = {
        f"model.layers.{i}.{new.split('.', 3)[3].removesuffix('bias').removesuffix('weight')}weight"
        for old, new in NAMES.items()
        if old.startswith("blk.")
        for i in range(2)
    }
    assert top | layers == expected


def test_config() -> None:
    config = LlamaConfig.model_validate(NAMING.config("llama", METADATA))
    assert config.architectures == ("LlamaForCausalLM",)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (61, 48, 2)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 12)
    assert (config.rope_for(0).rope_theta, config.rms_norm_eps) == (100000.0, 1e-5)
    assert not config.tie_word_embeddings
    assert config.attention_bias == config.mlp_bias == "optional"
    assert config.rope_for(0).rope_type == "default"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"tied_embeddings": True}, {"tie_word_embeddings": True}),
        ({"llama.attention.head_count_kv": None}, {"num_key_value_heads": 4}),
        ({"llama.attention.key_length": 20, "llama.rope.dimension_count": 20}, {"head_dim": 20}),
        ({"llama.attention.head_count": [4, 4], "llama.attention.head_count_kv": [2, 2]}, {"num_key_value_heads": 2}),
        ({"llama.attention.sliding_window": 0}, {"sliding_window": None}),
    ],
)
def test_config_of_variants(changes: dict[str, Any], found: dict[str, Any]) -> None:
    metadata = {key: value for key, value in {**METADATA, **changes}.items() if value is not None}
    config = LlamaConfig.model_validate(NAMING.config("llama", metadata))
    for key, value in found.items():
        assert getattr(config, key) == value, key


def test_files_of_llama_with_a_window_are_of_mistral() -> None:
    config = MistralConfig.model_validate(NAMING.config("llama", {**METADATA, "llama.attention.sliding_window": 9}))
    assert (config.architectures, config.sliding_window) == (("MistralForCausalLM",), 9)


SCALED, YARN = "llama.rope.scaling.", {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({}, {}),
        ({SCALED + "type": "none"}, {}),
        ({SCALED + "type": "none", SCALED + "factor": 4.0}, {}),
        ({SCALED + "type": "linear"}, {}),
        ({SCALED + "factor": 0.0}, {}),
        ({SCALED + "factor": 1.0}, {}),
        ({"llama.rope.scale_linear": 1.0}, {}),
        ({"llama.rope.scale_linear": 8.0}, {"rope_type": "linear", "factor": 8.0}),
        ({SCALED + "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({SCALED + "factor": 4.0, "llama.rope.scale_linear": 8.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {SCALED + "type": "linear", SCALED + "factor": 4.0, SCALED + "original_context_length": 32},
            {"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
        (YARN, {"rope_type": "yarn", "factor": 4.0}),
        (
            {**YARN, SCALED + "yarn_beta_fast": 16.0, SCALED + "yarn_beta_slow": 2.0, SCALED + "yarn_ext_factor": 0.5},
            {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0, "extrapolation_factor": 0.5},
        ),
        ({**YARN, SCALED + "yarn_ext_factor": -1.0}, {"rope_type": "yarn", "factor": 4.0}),
        (
            {**YARN, SCALED + "yarn_log_multiplier": 0.7},
            {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.7},
        ),
        ({**YARN, SCALED + "yarn_attn_factor": 1.3}, {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.3}),
        (
            {**YARN, SCALED + "attn_factor": 2.0},
            {"rope_type": "yarn", "factor": 4.0, "attention_factor": pytest.approx(2 * (0.1 * math.log(4) + 1))},
        ),
        (
            {SCALED + "type": "longrope", SCALED + "attn_factor": 1.19, SCALED + "original_context_length": 32},
            {"rope_type": "longrope", "attention_factor": 1.19, "original_max_position_embeddings": 32},
        ),
    ],
)
def test_rope_scaling_in_all_spellings(keys: dict[str, Any], scaling: dict[str, Any]) -> None:
    rope = LlamaConfig.model_validate(NAMING.config("llama", METADATA | keys)).rope_for(0)
    assert rope.model_dump(exclude_defaults=True) == {"rope_theta": 100000.0, **scaling}


@pytest.mark.parametrize(("most", "used", "other"), [(32, "short", "long"), (33, "long", "short")])
def test_lists_of_longrope_are_tensors(most: int, used: str, other: str) -> None:
    keys = {SCALED + "type": "longrope", SCALED + "original_context_length": 32}
    config = NAMING.config("llama", METADATA | keys)
    tensors = random_checkpoint(CARD, config)
    tensors.pop("rope_factors_long.weight", None)
    with pytest.raises(CheckpointError, match=f"missing: rope_factors_{used}.weight"):
        build_model(CARD, config, tensors, max_tokens=most)
    factors = {f"rope_factors_{name}.weight": torch.full((6,), 2.0 if name == used else 8.0) for name in (used, other)}
    model, _ = build_model(CARD, config, tensors | factors, max_tokens=most)
    plain, _ = build_model(CARD, NAMING.config("llama", METADATA), tensors)
    assert torch.equal(model.rotary.rotaries[0].inverse, plain.rotary.rotaries[0].inverse / 2)


def test_multipliers_that_a_file_leaves_out_or_sets_to_0_change_nothing() -> None:
    metadata = {key.replace("llama.", "granite."): value for key, value in METADATA.items()}
    for more in (
        {},
        {f"granite.{key}": 0.0 for key in ("embedding_scale", "residual_scale", "attention.scale", "logit_scale")},
    ):
        config = GraniteConfig.model_validate(NAMING.config("granite", metadata | more))
        assert (config.embedding_multiplier, config.residual_multiplier, config.logits_scaling) == (1.0, 1.0, 1.0)
        assert config.attention_multiplier == 12**-0.5


def test_granite_without_rotary_embeddings_is_refused() -> None:
    metadata = {key.replace("llama.", "granite."): value for key, value in METADATA.items()}
    with pytest.raises(ConfigError, match=r"rope\.scaling\.finetuned = False, wanted rotary embeddings"):
        NAMING.config("granite", metadata | {"granite.rope.scaling.finetuned": False})


def test_rotary_embeddings_that_old_files_hold_are_left_out() -> None:
    name = NAMING.rename("blk.1.attn_rot_embd.inv_freq")
    assert name == "model.layers.1.self_attn.rotary_emb.inv_freq"


def test_config_of_granite() -> None:
    metadata = {key.replace("llama.", "granite."): value for key, value in METADATA.items()}
    scalars = {"embedding_scale": 12.0, "residual_scale": 0.22, "attention.scale": 0.0156, "logit_scale": 8.0}
    metadata |= {f"granite.{key}": value for key, value in scalars.items()}
    config = GraniteConfig.model_validate(NAMING.config("granite", metadata))
    assert config.architectures == ("GraniteForCausalLM",)
    assert (config.embedding_multiplier, config.residual_multiplier) == (12.0, 0.22)
    assert (config.attention_multiplier, config.logits_scaling) == (0.0156, 8.0)


def test_config_of_smollm3() -> None:
    metadata = {key.replace("llama.", "smollm3."): value for key, value in METADATA.items()}
    config = SmolLM3Config.model_validate(NAMING.config("smollm3", metadata | {"smollm3.block_count": 8}))
    assert config.architectures == ("SmolLM3ForCausalLM",)
    assert [config.has_rope(layer) for layer in range(8)] == [True, True, True, False] * 2
    assert (config.num_key_value_heads, config.rope_for(0).rope_theta, config.attention_bias) == (2, 1e5, "optional")
    assert NAMING.row_order("model.layers.3.self_attn.k_proj.weight", NAMING.config("smollm3", metadata)) is not None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"llama.block_count": None}, r"lacks the key llama\.block_count"),
        ({"llama.expert_count": 8}, r"llama\.expert_count = 8, wanted a dense model"),
        ({"llama.rope.dimension_count": 6}, r"rope\.dimension_count = 6, wanted the head size 12"),
        ({"llama.attention.value_length": 6}, r"attention\.value_length = 6, wanted the head size 12"),
        ({"llama.feed_forward_length": [80, 96]}, r"feed_forward_length = \[80, 96\], wanted one value for all layers"),
        ({"llama.rope.scaling.factor": -2.0}, r"rope\.scaling\.factor = -2\.0, wanted a positive number"),
        (
            {"llama.rope.scaling.factor": 2.0, "llama.rope.scaling.attn_factor": 1.2},
            r"attn_factor = 1\.2 for RoPE scaling of the type 'linear', wanted 1",
        ),
    ],
)
def test_metadata_that_cannot_be_honoured_is_refused(changes: dict[str, Any], told: str) -> None:
    metadata = {key: value for key, value in {**METADATA, **changes}.items() if value is not None}
    with pytest.raises(ConfigError, match=told):
        NAMING.config("llama", metadata)


def as_stored(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The order in which the container keeps q and k: each rotary pair side by side."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


@pytest.mark.parametrize(("part", "heads"), [("q", 4), ("k", 2)])
def test_row_order_undoes_the_container_s(part: str, heads: int) -> None:
    config = NAMING.config("llama", METADATA)
    weight = torch.randn(heads * 12, 5)
    for component in ("weight", "bias"):
        order = NAMING.row_order(f"model.layers.0.self_attn.{part}_proj.{component}", config)
        assert order is not None
        assert torch.equal(as_stored(weight, heads)[torch.tensor(order)], weight)


@pytest.mark.parametrize("name", ["self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm"])
def test_other_rows_stay_where_they_are(name: str) -> None:
    assert NAMING.row_order(f"model.layers.0.{name}.weight", NAMING.config("llama", METADATA)) is None
