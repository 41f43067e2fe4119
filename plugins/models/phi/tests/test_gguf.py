"""GGUF's names and metadata of Phi-2, Phi-3 and Phi-3.5-MoE."""

from __future__ import annotations

from typing import Any

import dovetail_models_phi
import pytest
import torch
from dovetail_models_phi.config import Phi3Config, PhiConfig, PhimoeConfig
from dovetail_models_phi.gguf import NAMING, PHI3, PHIMOE

from dovetail.api import ConfigError
from dovetail.testing import build_model, random_checkpoint

CARDS = {card.name: card for card in dovetail_models_phi.dovetail_register_models()}

METADATA: dict[str, Any] = {
    "phi2.vocab_size": 61,
    "phi2.context_length": 128,
    "phi2.embedding_length": 80,
    "phi2.block_count": 2,
    "phi2.feed_forward_length": 112,
    "phi2.attention.head_count": 4,
    "phi2.attention.head_count_kv": 4,
    "phi2.attention.layer_norm_epsilon": 1e-5,
    "phi2.rope.dimension_count": 8,
}
TOP = ("token_embd.weight", "output_norm.weight", "output_norm.bias", "output.weight", "output.bias")
LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")
"""What llama.cpp's conversion writes, each with a bias."""


def others(architecture: str) -> dict[str, Any]:
    """What the conversions of Phi-3 and Phi-3.5-MoE write."""
    shared = {key.replace("phi2", architecture): value for key, value in METADATA.items() if "norm" not in key}
    return shared | {
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.attention.sliding_window": 9,
        f"{architecture}.rope.freq_base": 500.0,
        f"{architecture}.rope.dimension_count": 20,
        f"{architecture}.rope.scaling.original_context_length": 32,
    }


PHI3_METADATA = others("phi3")
PHIMOE_METADATA = others("phimoe") | {"phimoe.expert_count": 4, "phimoe.expert_used_count": 2}
PHI3_LAYER = ("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")
NORMS = ("attn_norm", "ffn_norm")
PHIMOE_BIASED = (*NORMS, "attn_q", "attn_k", "attn_v", "attn_output")
PHIMOE_PLAIN = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


def test_the_names_are_those_that_the_model_expects() -> None:
    names = [*TOP, *(f"blk.{i}.{name}.{part}" for i in range(2) for name in LAYER for part in ("weight", "bias"))]
    expected = set(random_checkpoint(CARDS["phi"], NAMING.config("phi2", METADATA)))
    assert {NAMING.rename(name) for name in names} == expected
    assert NAMING.rename("blk.1.ffn_down.bias") == "model.layers.1.mlp.fc2.bias"
    assert NAMING.rename("blk.0.ffn_gate.weight") == "blk.0.ffn_gate.weight"


def test_the_names_of_phi_3_are_those_that_the_model_expects() -> None:
    config = PHI3.config("phi3", PHI3_METADATA | {"phi3.rope.scaling.attn_factor": 1.19})
    names = [*TOP[:2], "output", *(f"blk.{i}.{name}.weight" for i in range(2) for name in PHI3_LAYER)]
    names = [name if "." in name else f"{name}.weight" for name in (*names, "rope_factors_long", "rope_factors_short")]
    found = {PHI3.rename(name) for name in names}
    lists = {"rope_factors_long.weight", "rope_factors_short.weight"}
    assert found - lists == set(random_checkpoint(CARDS["phi3"], config)) - lists
    assert found >= lists
    assert PHI3.rename("blk.1.ffn_up.weight") == "model.layers.1.mlp.gate_up_proj.weight"


def test_the_names_of_phimoe_are_those_that_the_model_expects() -> None:
    config = PHIMOE.config("phimoe", PHIMOE_METADATA)
    names = [f"blk.{i}.{name}.{part}" for i in range(2) for name in PHIMOE_BIASED for part in ("weight", "bias")]
    names += [f"blk.{i}.{name}.weight" for i in range(2) for name in PHIMOE_PLAIN]
    expected = random_checkpoint(CARDS["phimoe"], config, optional=True)
    stacks = {name.replace(".experts.0.", ".experts.") for name in expected if ".experts.0." in name}
    plain = {name for name in expected if ".experts." not in name and name != "rope_freqs.weight"}
    assert {PHIMOE.rename(name) for name in (*TOP, *names)} == plain | stacks
    assert PHIMOE.rename("blk.1.ffn_up_exps.weight") == "model.layers.1.block_sparse_moe.experts.w3.weight"


@pytest.mark.parametrize(("hidden", "rotated"), [(80, 8), (96, 8), (320, 32), (224, 22), (392, 46)])
def test_config(hidden: int, rotated: int) -> None:
    changed = {"phi2.embedding_length": hidden, "phi2.rope.dimension_count": rotated}
    config = PhiConfig.model_validate(NAMING.config("phi2", METADATA | changed))
    assert config.rotary_dim(0) == rotated
    assert (config.head_dim, config.num_key_value_heads, config.hidden_act) == (hidden // 4, 4, "gelu_tanh")
    assert not config.tie_word_embeddings


def test_config_of_phi_3() -> None:
    plain = Phi3Config.model_validate(PHI3.config("phi3", PHI3_METADATA))
    assert (plain.window(0), plain.rope_for(0).rope_type, plain.rope_for(0).rope_theta) == (9, "default", 500.0)
    none = Phi3Config.model_validate(PHI3.config("phi3", PHI3_METADATA | {"phi3.attention.sliding_window": 0}))
    assert none.window(0) is None
    more = {"phi3.rope.scaling.attn_factor": 1.19, "phi3.rope.dimension_count": 16}
    config = Phi3Config.model_validate(PHI3.config("phi3", PHI3_METADATA | more))
    assert config.rope_for(0).model_dump(exclude_defaults=True) == {
        "rope_type": "longrope",
        "rope_theta": 500.0,
        "attention_factor": 1.19,
        "original_max_position_embeddings": 32,
        "partial_rotary_factor": 0.8,
    }


@pytest.mark.parametrize(("most", "used"), [(32, "short"), (33, "long")])
def test_lists_of_longrope_are_tensors(most: int, used: str) -> None:
    config = PHI3.config("phi3", PHI3_METADATA | {"phi3.rope.scaling.attn_factor": 1.19})
    tensors = random_checkpoint(CARDS["phi3"], config)
    lists = {name: torch.full((10,), 2.0 if name == used else 8.0) for name in ("long", "short")}
    tensors |= {f"rope_factors_{name}.weight": value for name, value in lists.items()}
    model, _ = build_model(CARDS["phi3"], config, tensors, max_tokens=most)
    rotary = model.rotary.rotaries[0]
    torch.testing.assert_close(rotary.inverse, 500.0 ** (-torch.arange(0, 20, 2) / 20) / 2)
    assert rotary.factor == 1.19


def test_config_of_phimoe() -> None:
    more = {"phimoe.rope.scaling.attn_factor": 1.19}
    config = PhimoeConfig.model_validate(PHIMOE.config("phimoe", PHIMOE_METADATA | more))
    assert (config.num_local_experts, config.num_experts_per_tok, config.window(0)) == (4, 2, 9)
    assert (config.rope_for(0).short_mscale, config.rope_for(0).long_mscale) == (1.19, 1.19)
    with pytest.raises(ConfigError, match=r"lacks the key phimoe\.expert_count"):
        PHIMOE.config("phimoe", others("phimoe"))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lacks the key phi2\.rope\.dimension_count"):
        NAMING.config("phi2", {key: value for key, value in METADATA.items() if "rope" not in key})
