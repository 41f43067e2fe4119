"""The conformance kit, and what the configurations refuse."""

from __future__ import annotations

from typing import Any

import dovetail_models_qwen
import pytest
from dovetail_models_qwen.config import Qwen2Config, Qwen3Config

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration

CARDS = {card.name: card for card in dovetail_models_qwen.dovetail_register_models()}

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}


def test_registration() -> None:
    check_registration(dovetail_models_qwen)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_every_claim(name: str) -> None:
    check_model(CARDS[name], TINY, {**TINY, **WINDOW, "tie_word_embeddings": True, "attention_bias": True})


@pytest.mark.parametrize("card", [card for card in CARDS.values() if "-" in card.name], ids=lambda card: card.name)
def test_every_claim_of_other_tasks(card: ModelCard) -> None:
    check_model(card, {**TINY, **WINDOW, "num_labels": 3}, {**TINY, "is_causal": False})


def test_every_claim_of_labels_that_are_tokens() -> None:
    labels = {"classifier_token_ids": [3, 60, 31], "method": "no_post_processing"}
    two = {"classifier_token_ids": [3, 60], "is_original_qwen3_reranker": True}
    tied = {"tie_word_embeddings": True, "is_causal": False}
    check_model(CARDS["qwen3-classifier"], {**TINY, **WINDOW, **labels}, {**TINY, **tied, **two})


def test_keys_that_are_missing_have_the_original_s_values() -> None:
    short = {key: value for key, value in TINY.items() if key not in ("head_dim", "max_position_embeddings")}
    second, third = (cls.model_validate(short) for cls in (Qwen2Config, Qwen3Config))
    assert (second.head_dim, third.head_dim) == (12, 128)
    assert (second.max_position_embeddings, second.rms_norm_eps, second.rope_for(0).rope_theta) == (32768, 1e-6, 1e4)
    del short["num_key_value_heads"]
    assert (
        Qwen2Config.model_validate({**short, "num_attention_heads": 64, "hidden_size": 128}).num_key_value_heads == 32
    )
    assert Qwen2Config.model_validate({**short, "num_key_value_heads": None}).num_key_value_heads == 4


@pytest.mark.parametrize(
    ("keys", "windows"),
    [
        ({}, (None, None)),
        ({"sliding_window": 9}, (None, None)),
        ({"use_sliding_window": True, "sliding_window": 9}, (None, None)),  # fewer layers than 28
        ({"use_sliding_window": True, "max_window_layers": 1}, (None, 4096)),
        ({"use_sliding_window": True, "max_window_layers": 0, "sliding_window": None}, (None, None)),
        (
            {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 9},
            (9, None),
        ),
    ],
)
def test_windows(keys: dict[str, Any], windows: tuple[int | None, int | None]) -> None:
    config = Qwen2Config.model_validate({**TINY, "max_position_embeddings": 32768, **keys})
    assert (config.window(0), config.window(1)) == windows


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads 5 is not a multiple of num_key_value_heads 2"),
        ({"hidden_act": "mish"}, "'mish'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"rope_scaling": {"type": "longrope"}}, "'longrope' lacks long_factor and short_factor"),
        ({"rope_scaling": {"type": "yarn"}}, "'yarn' lacks factor"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "there is no sliding_window"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "'chunked_attention'"),
        ({**WINDOW, "is_causal": False}, "is_causal is false and a layer has a window"),
        ({"use_sliding_window": 1}, "use_sliding_window"),
        ({"use_sliding_window": True, "max_window_layers": -1}, "max_window_layers is -1"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
        ({"num_hidden_layers": None}, "num_hidden_layers: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARDS["qwen3"], {**TINY, **keys}, {})
