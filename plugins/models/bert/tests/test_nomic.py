"""Nomic's BERT: the conformance kit, results against transformers, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dovetail_models_bert import dovetail_register_models
from dovetail_models_bert.config import NomicBertConfig

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_model, check_parity, run_tokens

CARDS = {card.name: card for card in dovetail_register_models()}
CARD = CARDS["nomic-bert"]

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
PUBLISHED: dict[str, Any] = {
    "activation_function": "swiglu",
    "architectures": ["NomicBertModel"],
    "causal": False,
    "fused_bias_fc": True,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 128,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "model_type": "nomic_bert",
    "n_embd": 48,
    "n_head": 4,
    "n_inner": 80,
    "n_layer": 2,
    "n_positions": 512,
    "parallel_block": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "type_vocab_size": 2,
    "use_rms_norm": False,
    "vocab_size": 61,
}
"""The keys of nomic-embed-text-v1.5's file, with small sizes."""


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"type_vocab_size": 1, "layer_norm_eps": 1e-2},
        {"hidden_act": "gelu", "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
        {"head_dim": 16},
    ],
)
def test_hidden_states(changes: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    check_parity(CARD, {**TINY, **changes}, chunks=(None,))


def test_the_published_form_of_the_configuration() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.NomicBertModel(
        transformers.NomicBertConfig(**TINY, initializer_range=0.2, attn_implementation="eager")
    ).eval()
    names = {
        "embeddings.LayerNorm": "emb_ln",
        "self_attn.o_proj": "attn.out_proj",
        "mlp.up_proj": "mlp.fc11",
        "mlp.gate_proj": "mlp.fc12",
        "mlp.down_proj": "mlp.fc2",
        "post_attention_layernorm": "norm1",
        "post_mlp_layernorm": "norm2",
        "layers.": "encoder.layers.",
    }
    tensors = dict(theirs.state_dict())
    for layer in range(2):
        parts = [tensors.pop(f"layers.{layer}.self_attn.{part}_proj.weight") for part in "qkv"]
        tensors[f"layers.{layer}.attn.Wqkv.weight"] = torch.cat(parts)
    for theirs_name, published in names.items():
        tensors = {name.replace(theirs_name, published): value for name, value in tensors.items()}
    tokens = torch.randint(0, 61, (100,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = theirs(tokens[None]).last_hidden_state[0]
    for form in (tensors, {f"bert.{name}": value for name, value in tensors.items()}):
        model, ctx = build_model(CARD, PUBLISHED, form)
        torch.testing.assert_close(run_tokens(model, ctx, tokens.tolist()), wanted, rtol=0, atol=1e-4)


def test_every_claim() -> None:
    biases = {"qkv_proj_bias": True, "mlp_fc1_bias": True, "mlp_fc2_bias": True}
    changed = {**biases, "rotary_emb_interleaved": True, "rotary_emb_fraction": 0.5, "activation_function": "geglu"}
    check_model(CARD, TINY, {**PUBLISHED, **changed})


def test_the_context_is_what_was_trained() -> None:
    config = NomicBertConfig.model_validate(PUBLISHED)
    assert (config.context_length(), config.longest_context(), config.hidden_act) == (128, 128, "silu")
    assert config.rope_for(0).rope_theta == 1000.0
    scaled = NomicBertConfig.model_validate({**PUBLISHED, "rotary_scaling_factor": 2})
    assert (scaled.context_length(), scaled.longest_context()) == (128, 256)
    assert NomicBertConfig.model_validate(TINY).rope_for(0).rope_theta == 1000.0


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"prenorm": True}, "prenorm True is not supported"),
        ({"causal": True}, "causal True is not supported"),
        ({"use_rms_norm": True}, "use_rms_norm"),
        ({"rotary_emb_scale_base": 512}, "rotary_emb_scale_base 512"),
        ({"moe_every_n_layers": 2}, "moe_every_n_layers 2"),
        ({"activation_function": "gelu"}, "activation_function 'gelu' is not supported, only swiglu, geglu"),
        ({"mlp_fc1_bias": True}, "mlp_fc1_bias and mlp_fc2_bias differ"),
        ({"rotary_emb_fraction": 0.0}, "rotary_emb_fraction|partial_rotary_factor"),
        ({"n_inner": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**PUBLISHED, **keys}, {})
