"""The conformance kit, over configurations that use every claim of the card."""

from __future__ import annotations

import dovetail_models_mixtral
import pytest
import torch
from dovetail_models_mixtral.config import MixtralConfig

from dovetail.api import CheckpointError, ConfigError
from dovetail.testing import build_model, check_model, check_registration, random_checkpoint

(CARD,) = dovetail_models_mixtral.dovetail_register_models()

TINY = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 3,
    "max_position_embeddings": 128,
}


def test_registration() -> None:
    check_registration(dovetail_models_mixtral)


def test_every_claim() -> None:
    check_model(CARD, TINY, {**TINY, "sliding_window": 9, "tie_word_embeddings": True, "num_experts_per_tok": 1})


def parsed(**changes: object) -> MixtralConfig:
    return MixtralConfig.model_validate({**TINY, **changes})


def test_defaults_follow_from_other_keys() -> None:
    config = parsed(num_key_value_heads=None, head_dim=None)
    assert (config.num_key_value_heads, config.head_dim) == (4, 12)
    assert (parsed().num_experts_per_tok, parsed().rope_for(0).rope_theta) == (2, 1e6)


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": None},
    ],
)
def test_the_base_of_the_rotary_embedding_is_found(keys: dict[str, object]) -> None:
    assert parsed(**keys).rope_for(0).rope_theta == 5e5


@pytest.mark.parametrize(("window", "kept"), [(None, None), (9, 9), (127, 127), (128, None), (4096, None)])
def test_a_window_as_long_as_the_context_is_none(window: int | None, kept: int | None) -> None:
    assert parsed(sliding_window=window).window(0) == kept


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"hidden_act": "wave"}, "hidden_act"),
        ({"rope_scaling": {"type": "twist", "factor": 2.0}}, "rope_type"),
        ({"num_experts_per_tok": 4}, "num_experts_per_tok is 4, more than num_local_experts, which is 3"),
        ({"head_dim": 9}, "head_dim 9 is 9 channels, wanted an even number"),
        ({"num_local_experts": 0}, "num_local_experts: Input should be greater than 0"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
        ({"num_attention_heads": None}, "num_attention_heads: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})


def test_a_checkpoint_of_other_experts_is_refused() -> None:
    tensors = random_checkpoint(CARD, TINY)
    with pytest.raises(CheckpointError, match=r"unexpected: .*experts\.2\.w1\.weight"):
        build_model(CARD, {**TINY, "num_local_experts": 2}, tensors)
    with pytest.raises(CheckpointError, match=r"missing: .*experts\.3\.w1\.weight"):
        build_model(CARD, {**TINY, "num_local_experts": 4}, tensors)
    stacked = {"model.layers.0.mlp.experts.gate_up_proj": torch.zeros(2, 80, 48)}
    left = {name: value for name, value in tensors.items() if "layers.0.block_sparse_moe.experts" not in name}
    down = {"model.layers.0.mlp.experts.down_proj": torch.zeros(3, 48, 40)}
    with pytest.raises(CheckpointError, match=r"gate_up_proj is \[2, 80, 48\], wanted one of each of 3 experts"):
        build_model(CARD, TINY, {**left, **stacked, **down})
