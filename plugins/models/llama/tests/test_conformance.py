"""The conformance kit, over configurations that use every claim of the card."""

from __future__ import annotations

import dovetail_models_llama
import pytest
import torch
from dovetail_models_llama.config import LlamaConfig

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_model, check_registration, random_checkpoint

(CARD,) = dovetail_models_llama.dovetail_register_models()

TINY = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def test_registration() -> None:
    check_registration(dovetail_models_llama)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 20},
        {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.1, "logits_scaling": 3.0},
    ],
)
def test_every_claim(changes: dict[str, object]) -> None:
    check_model(CARD, {**TINY, **changes}, {**TINY, **changes, "sliding_window": 9})


def test_frequency_factors_of_a_checkpoint_are_taken() -> None:
    tensors = random_checkpoint(CARD, TINY, optional=True)
    del tensors["lm_head.weight"]
    build_model(CARD, {**TINY, "tie_word_embeddings": True}, tensors)


def parsed(**changes: object) -> LlamaConfig:
    return LlamaConfig.model_validate({**TINY, **changes})


def test_defaults_follow_from_other_keys() -> None:
    config = parsed(num_key_value_heads=None, head_dim=None)
    assert (config.num_key_value_heads, config.head_dim) == (4, 12)
    assert parsed(architectures=["GraniteForCausalLM"]).attention_multiplier == 1.0
    assert parsed().attention_multiplier is None


@pytest.mark.parametrize(
    ("keys", "kind", "theta"),
    [
        ({}, None, 10000.0),
        ({"rope_theta": 5e5}, None, 5e5),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}, "linear", 5e5),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}, "linear", 5e5),
        ({"rope_scaling": None, "rope_parameters": None}, None, 10000.0),
    ],
)
def test_rope_keys_of_all_ages(keys: dict[str, object], kind: str | None, theta: float) -> None:
    config = parsed(**keys)
    assert config.rope_scaling.get("rope_type") == kind
    assert config.rope_theta == theta


@pytest.mark.parametrize(("window", "kept"), [(None, None), (9, 9), (127, 127), (128, None), (4096, None)])
def test_a_window_as_long_as_the_context_is_none(window: int | None, kept: int | None) -> None:
    assert parsed(sliding_window=window).window == kept


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "lacks factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "lacks low_freq_factor, high_freq_factor"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})


def test_frequencies_that_old_checkpoints_saved_are_left_out() -> None:
    saved = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    build_model(CARD, TINY, {**random_checkpoint(CARD, TINY), **saved})
