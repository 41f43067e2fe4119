"""The conformance kit, and what the configurations refuse."""

from __future__ import annotations

from typing import Any

import dovetail_models_gemma
import pytest
import torch
from dovetail_models_gemma.config import Gemma2Config, GemmaConfig

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration, random_checkpoint, run_tokens

GEMMA, GEMMA2, GEMMA3, MULTIMODAL, CLASSIFIER = dovetail_models_gemma.dovetail_register_models()

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 128,
}


def test_registration() -> None:
    check_registration(dovetail_models_gemma)


def test_every_claim_of_the_first() -> None:
    check_model(GEMMA, TINY, {**TINY, "attention_bias": True, "tie_word_embeddings": False})


def test_every_claim_of_the_second() -> None:
    check_model(GEMMA2, {**TINY, "sliding_window": 9}, {**TINY, "attn_logit_softcapping": None})


@pytest.mark.parametrize("card", [GEMMA3, MULTIMODAL, CLASSIFIER], ids=lambda card: card.name)
def test_every_claim_of_the_third(card: ModelCard) -> None:
    check_model(card, {**TINY, "sliding_window": 9, "sliding_window_pattern": 2})


def test_the_text_model_of_a_multimodal_checkpoint() -> None:
    tensors = random_checkpoint(MULTIMODAL, TINY)
    text = {key: value for key, value in TINY.items() if key != "vocab_size"}
    wanted = run_tokens(*build_model(MULTIMODAL, TINY, tensors), [1, 2, 3])
    for prefix in ("language_model.model.", "model.language_model."):
        stored = {name.replace("model.", prefix, 1): value for name, value in tensors.items()}
        stored |= {"vision_tower.x.weight": torch.ones(2), "multi_modal_projector.y": torch.ones(2)}
        model, ctx = build_model(MULTIMODAL, {"text_config": text, "vocab_size": 61}, stored)
        assert torch.equal(run_tokens(model, ctx, [1, 2, 3]), wanted)


def test_a_missing_key_is_the_default_and_null_is_none() -> None:
    usual = Gemma2Config.model_validate({**TINY, "max_position_embeddings": 8192})
    assert (usual.attn_logit_softcapping, usual.final_logit_softcapping) == (50.0, 30.0)
    assert (usual.window(0), usual.window(1)) == (4096, None)
    none = dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "sliding_window"))
    changed = Gemma2Config.model_validate({**TINY, "max_position_embeddings": 8192, **none})
    assert (changed.attn_logit_softcapping, changed.final_logit_softcapping, changed.window(0)) == (None, None, None)


def test_a_window_as_long_as_the_context_is_none() -> None:
    assert Gemma2Config.model_validate({**TINY, "sliding_window": 127}).window(0) == 127
    assert Gemma2Config.model_validate({**TINY, "sliding_window": 128}).window(0) is None


def test_the_first_files_name_another_activation_than_they_mean() -> None:
    assert (
        GemmaConfig.model_validate({**TINY, "hidden_act": "gelu", "hidden_activation": None}).hidden_act == "gelu_tanh"
    )
    assert GemmaConfig.model_validate({**TINY, "hidden_activation": "relu"}).hidden_act == "gelu_tanh"
    assert Gemma2Config.model_validate({**TINY, "hidden_act": "relu"}).hidden_act == "gelu_tanh"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"head_dim": 11}, "head_dim 11"),
        ({"hidden_activation": "mish"}, "'mish'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"is_causal": False}, "is_causal is false"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is not supported"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "'chunked_attention'"),
        ({"attn_logit_softcapping": 0.0}, "attn_logit_softcapping"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(GEMMA2, {**TINY, **keys}, {})


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"rope_parameters": {"rope_type": "default"}}, "rope_parameters does not say of which layers"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling has a type and no rope_type"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "truncate of the rotary embedding"),
    ],
)
def test_rotary_embeddings_that_the_third_reads_otherwise_are_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(GEMMA3, {**TINY, "sliding_window_pattern": 2, **keys}, {})
