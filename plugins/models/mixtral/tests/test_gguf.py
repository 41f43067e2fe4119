"""GGUF's names, metadata and row order, translated."""

from __future__ import annotations

from typing import Any

import dovetail_models_mixtral
import pytest
import torch
from dovetail_models_mixtral.config import MixtralConfig
from dovetail_models_mixtral.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import empty_model

(CARD,) = dovetail_models_mixtral.dovetail_register_models()

METADATA: dict[str, Any] = {
    "llama.vocab_size": 61,
    "llama.context_length": 128,
    "llama.embedding_length": 48,
    "llama.block_count": 2,
    "llama.feed_forward_length": 80,
    "llama.expert_count": 4,
    "llama.expert_used_count": 3,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 12,
    "llama.rope.freq_base": 1000000.0,
}

BLOCK = "model.layers.1"
NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "output_norm.weight": "model.norm.weight",
    "blk.1.attn_norm.weight": f"{BLOCK}.input_layernorm.weight",
    "blk.1.ffn_norm.weight": f"{BLOCK}.post_attention_layernorm.weight",
    "blk.1.attn_q.weight": f"{BLOCK}.self_attn.q_proj.weight",
    "blk.1.attn_k.weight": f"{BLOCK}.self_attn.k_proj.weight",
    "blk.1.attn_v.weight": f"{BLOCK}.self_attn.v_proj.weight",
    "blk.1.attn_output.weight": f"{BLOCK}.self_attn.o_proj.weight",
    "blk.1.ffn_gate_inp.weight": f"{BLOCK}.block_sparse_moe.gate.weight",
    "blk.1.ffn_gate_exps.weight": f"{BLOCK}.block_sparse_moe.experts.w1.weight",
    "blk.1.ffn_up_exps.weight": f"{BLOCK}.block_sparse_moe.experts.w3.weight",
    "blk.1.ffn_down_exps.weight": f"{BLOCK}.block_sparse_moe.experts.w2.weight",
    "blk.1.ffn_gate.3.weight": f"{BLOCK}.block_sparse_moe.experts.3.w1.weight",
    "blk.1.ffn_up.3.weight": f"{BLOCK}.block_sparse_moe.experts.3.w3.weight",
    "blk.1.ffn_down.3.weight": f"{BLOCK}.block_sparse_moe.experts.3.w2.weight",
}


@pytest.mark.parametrize("name", NAMES)
def test_rename(name: str) -> None:
    assert NAMING.rename(name) == NAMES[name]


@pytest.mark.parametrize(
    "name", ["blk.0.ffn_gate.weight", "blk.0.attn_sinks.weight", "blk.0.attn_q_exps.weight", "mystery.weight"]
)
def test_an_unknown_name_stays_so_that_the_reader_refuses_it_by_name(name: str) -> None:
    assert NAMING.rename(name) == name


def test_the_names_are_those_that_the_model_expects() -> None:
    _, ctx = empty_model(CARD, NAMING.config("llama", METADATA))
    known = {f"{name}.weight" for name in (*ctx.layers, *ctx.together)} | set(ctx.vectors)
    assert set(NAMES.values()) <= known
    stacked = {part for name in ctx.together for group in ctx.together[name].groups for part in group}
    alone = {f"{n}.weight" for n in ctx.layers.keys() - stacked} | set(ctx.vectors)
    assert {n.replace("layers.0", "layers.1") for n in alone} <= set(NAMES.values())


def test_config() -> None:
    config = MixtralConfig.model_validate(NAMING.config("llama", METADATA))
    assert config.architectures == ("MixtralForCausalLM",)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (61, 48, 2)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 12)
    assert (config.num_local_experts, config.num_experts_per_tok, config.intermediate_size) == (4, 3, 80)
    assert (config.rope_for(0).rope_theta, config.rms_norm_eps, config.window(0)) == (1e6, 1e-5, None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"llama.expert_count": None}, r"llama\.expert_count = 0, wanted experts"),
        ({"llama.expert_count": 0}, r"llama\.expert_count = 0, wanted experts"),
        ({"llama.expert_used_count": None}, r"lacks the key llama\.expert_used_count"),
        ({"llama.rope.dimension_count": 6}, r"llama\.rope\.dimension_count = 6, wanted 12"),
        ({"llama.attention.value_length": 6}, r"llama\.attention\.value_length = 6, wanted 12"),
    ],
)
def test_metadata_that_cannot_be_honoured_is_refused(changes: dict[str, Any], told: str) -> None:
    metadata = {key: value for key, value in {**METADATA, **changes}.items() if value is not None}
    with pytest.raises(ConfigError, match=told):
        NAMING.config("llama", metadata)


@pytest.mark.parametrize(("part", "heads"), [("q", 4), ("k", 2)])
def test_row_order_undoes_the_container_s(part: str, heads: int) -> None:
    weight = torch.randn(heads * 12, 5)
    stored = weight.view(heads, 2, 6, 5).swapaxes(1, 2).reshape(heads * 12, 5)
    order = NAMING.row_order(f"{BLOCK}.self_attn.{part}_proj.weight", NAMING.config("llama", METADATA))
    assert order is not None
    assert torch.equal(stored[torch.tensor(order)], weight)


@pytest.mark.parametrize("name", ["self_attn.v_proj", "block_sparse_moe.gate", "block_sparse_moe.experts.w1"])
def test_other_rows_stay_where_they_are(name: str) -> None:
    assert NAMING.row_order(f"{BLOCK}.{name}.weight", NAMING.config("llama", METADATA)) is None
