"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_gpt_oss
import pytest
import torch
from dovetail_models_gpt_oss.config import GptOssConfig
from dovetail_models_gpt_oss.model import clamped_swiglu

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration

CARD, EMBEDDING, CLASSIFIER = dovetail_models_gpt_oss.dovetail_register_models()

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_local_experts": 6,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 9,
    "max_position_embeddings": 128,
}


def test_registration() -> None:
    check_registration(dovetail_models_gpt_oss)


def test_every_claim() -> None:
    other = {"tie_word_embeddings": True, "attention_bias": False, "rope_parameters": {"rope_type": "default"}}
    check_model(CARD, TINY, {**TINY, **other, "layer_types": ["full_attention"] * 2})


@pytest.mark.parametrize("card", [EMBEDDING, CLASSIFIER], ids=lambda card: card.name)
def test_every_claim_of_other_tasks(card: ModelCard) -> None:
    check_model(card, {**TINY, "num_labels": 3})


def test_keys_that_are_missing_have_the_original_s_values() -> None:
    sizes = {key: TINY[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    config = GptOssConfig.model_validate({**sizes, "num_attention_heads": 16})
    assert (config.num_local_experts, config.num_experts_per_tok, config.num_key_value_heads) == (128, 4, 8)
    assert (config.head_dim, config.window(0), config.window(1), config.attention_bias) == (64, 128, None, True)
    rope = config.rope_for(0)
    assert (rope.rope_type, rope.factor, rope.rope_theta, rope.truncate) == ("yarn", 32.0, 150000.0, False)
    assert config.context_length() == 131072
    assert GptOssConfig.model_validate({**TINY, "num_local_experts": None, "num_experts": 9}).num_local_experts == 9


def test_gate_and_up_are_clamped() -> None:
    found = clamped_swiglu(torch.tensor([100.0, -100.0, 1.0, 100.0, 3.0, -100.0]), limit=7.0, alpha=0.0)
    assert found.tolist() == [28.0, -200.0, -3.0]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_experts_per_tok": 7}, "num_experts_per_tok is 7, more than num_local_experts, which is 6"),
        ({"num_local_experts": 0}, "num_local_experts: Input should be greater than 0"),
        ({"swiglu_limit": 0.0}, "swiglu_limit: Input should be greater than 0"),
        ({"sliding_window": None}, "layer_types has 'sliding_attention', and there is no sliding_window"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"rope_scaling": {"type": "longrope"}}, "'longrope' lacks long_factor and short_factor"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
