"""The conformance kit, and what the configurations refuse."""

from __future__ import annotations

from typing import Any

import dovetail_models_glm
import pytest
import torch

from dovetail.api import CheckpointError, ConfigError
from dovetail.testing import build_model, check_model, check_registration, random_checkpoint, run_tokens

CARDS = {card.name: card for card in dovetail_models_glm.dovetail_register_models()}

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 128,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "use_qk_norm": True,
    "num_labels": 3,
}
MOE = CARDS["glm4-moe"]


def test_registration() -> None:
    check_registration(dovetail_models_glm)


@pytest.mark.parametrize("name", CARDS)
def test_every_claim(name: str) -> None:
    check_model(CARDS[name], TINY)


def test_layers_that_predict_further_tokens_are_left_out() -> None:
    tensors, tokens = random_checkpoint(MOE, TINY), list(range(20))
    further = {"eh_proj.weight": torch.ones(48, 96), "self_attn.q_proj.weight": torch.ones(48, 48)}
    further = {f"model.layers.2.{name}": value for name, value in further.items()}
    wanted, found = (run_tokens(*build_model(MOE, TINY, form), tokens) for form in (tensors, tensors | further))
    assert torch.equal(found, wanted)
    with pytest.raises(CheckpointError, match=r"unexpected: model\.layers\.2\.eh_proj\.weight"):
        build_model(CARDS["glm4"], TINY, random_checkpoint(CARDS["glm4"], TINY) | further)


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("glm", {"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ("glm", {"intermediate_size": None}, "intermediate_size: is missing"),
        ("glm4", {"sliding_window": 9}, "'sliding_attention', which is not supported"),
        ("glm4", {"partial_rotary_factor": 0.25}, "is 3 channels, wanted an even number"),
        ("glm4-moe", {"n_group": 4, "topk_group": 4}, "each group has one of 4 experts, wanted two or more"),
        ("glm4-moe", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5, more than n_routed_experts, which is 4"),
    ],
)
def test_what_cannot_be_honoured_is_refused(name: str, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARDS[name], {**TINY, **keys}, {})
