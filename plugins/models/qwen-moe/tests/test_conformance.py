"""The conformance kit, and what the configurations refuse."""

from __future__ import annotations

from typing import Any

import dovetail_models_qwen_moe
import pytest
from dovetail_models_qwen_moe.config import Qwen2MoeConfig, Qwen3MoeConfig

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration

CARDS = {card.name: card for card in dovetail_models_qwen_moe.dovetail_register_models()}

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 9}
OTHER = {"tie_word_embeddings": True, "norm_topk_prob": True, "attention_bias": True, "qkv_bias": False}


def test_registration() -> None:
    check_registration(dovetail_models_qwen_moe)


@pytest.mark.parametrize("name", ["qwen2-moe", "qwen3-moe"])
def test_every_claim(name: str) -> None:
    check_model(CARDS[name], TINY, {**TINY, **WINDOW, **OTHER, "decoder_sparse_step": 2})


@pytest.mark.parametrize("card", [card for card in CARDS.values() if card.tasks != ("generate",)], ids=lambda c: c.name)
def test_every_claim_of_other_tasks(card: ModelCard) -> None:
    check_model(card, {**TINY, **WINDOW, "num_labels": 3, "mlp_only_layers": [1]})


def test_keys_that_are_missing_have_the_original_s_values() -> None:
    sizes = {key: TINY[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    second, third = (
        cls.model_validate({**sizes, "num_attention_heads": 16, "head_dim": 12})
        for cls in (Qwen2MoeConfig, Qwen3MoeConfig)
    )
    assert (second.num_experts, second.num_experts_per_tok, second.num_key_value_heads) == (60, 4, 16)
    assert (second.moe_intermediate_size, second.shared_expert_intermediate_size, second.qkv_bias) == (1408, 5632, True)
    assert (third.num_experts, third.num_experts_per_tok, third.num_key_value_heads) == (128, 8, 4)
    assert (third.moe_intermediate_size, third.norm_topk_prob, third.attention_bias) == (768, False, False)
    assert Qwen3MoeConfig.model_validate({**TINY, "num_experts": None, "num_local_experts": 9}).num_experts == 9


@pytest.mark.parametrize(
    ("keys", "second", "third"),
    [
        ({"sliding_window": 9}, (None, None, None, None), (None, None, None, None)),
        (WINDOW, (9, None, 9, None), (9, 9, 9, 9)),
        ({**WINDOW, "max_window_layers": 2}, (9, None, None, None), (9, 9, 9, 9)),
        ({"use_sliding_window": True}, (4096, None, 4096, None), (4096, 4096, 4096, 4096)),
    ],
)
def test_windows(keys: dict[str, Any], second: tuple[int | None, ...], third: tuple[int | None, ...]) -> None:
    whole = {**TINY, "num_hidden_layers": 4, "max_position_embeddings": 32768, **keys}
    for cls, windows in ((Qwen2MoeConfig, second), (Qwen3MoeConfig, third)):
        config = cls.model_validate(whole)
        assert tuple(map(config.window, range(4))) == windows


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_attention_heads": 5}, "hidden_size 48 .* 5"),
        ({"hidden_act": "mish"}, "'mish'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"rope_scaling": {"type": "longrope"}}, "'longrope' lacks long_factor and short_factor"),
        ({"num_experts_per_tok": 7}, "num_experts_per_tok is 7, more than num_experts, which is 6"),
        ({"num_experts": 0}, "num_experts: Input should be greater than 0"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step"),
        ({"mlp_only_layers": ["first"]}, "mlp_only_layers"),
        ({"is_causal": False}, "is_causal is false, which is not supported"),
        ({"use_sliding_window": 1}, "use_sliding_window"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARDS["qwen3-moe"], {**TINY, **keys}, {})
