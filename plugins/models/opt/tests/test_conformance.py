"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_opt
import pytest
import torch
from dovetail_models_opt.config import OPTConfig

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration, random_checkpoint, run_tokens

CARD, EMBEDDING, CLASSIFIER = dovetail_models_opt.dovetail_register_models()

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "ffn_dim": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
AFTER: dict[str, Any] = {"do_layer_norm_before": False, "word_embed_proj_dim": 32}


def test_registration() -> None:
    check_registration(dovetail_models_opt)


def test_every_claim() -> None:
    check_model(CARD, TINY, {**TINY, **AFTER, "enable_bias": False, "tie_word_embeddings": False})


@pytest.mark.parametrize("card", [EMBEDDING, CLASSIFIER])
def test_every_claim_of_the_others(card: ModelCard) -> None:
    check_model(card, {**TINY, "layer_norm_elementwise_affine": False})


def test_a_checkpoint_without_the_prefix_of_the_whole_model() -> None:
    tensors = random_checkpoint(CARD, TINY)
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    assert bare.keys() != tensors.keys()
    found = [run_tokens(*build_model(CARD, TINY, form), list(range(9))) for form in (tensors, bare)]
    assert torch.equal(*found)


def test_null_is_the_size_of_the_layers() -> None:
    assert OPTConfig.model_validate({**TINY, "word_embed_proj_dim": None}).word_embed_proj_dim == 48


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_attention_heads": 5}, "hidden_size 48 .* 5"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, wanted one for each head"),
        ({"head_dim": 16}, "head_dim 16 is not hidden_size / num_attention_heads"),
        ({"sliding_window": 9}, "'sliding_attention'"),
        ({"activation_function": "mish"}, "'mish'"),
        ({"ffn_dim": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
