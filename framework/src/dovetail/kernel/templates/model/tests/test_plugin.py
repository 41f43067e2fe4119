"""The conformance kit on the model's card, and what the kit cannot know."""

from __future__ import annotations

import pytest
import torch
from dovetail.api import ConfigError
from dovetail.testing import (
    build_model,
    check_model,
    check_parity,
    check_registration,
    random_checkpoint,
    run_tokens,
)

import PLUGIN_MODULE

(CARD,) = PLUGIN_MODULE.dovetail_register_models()

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
    check_registration(PLUGIN_MODULE)


MIXED = {**TINY, "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}
"""One layer with a window, and one that sees everything."""


def test_every_claim() -> None:
    check_model(CARD, TINY, {**MIXED, "tie_word_embeddings": True})


TENSORS = random_checkpoint(CARD, TINY)


def logits(**changes: object) -> torch.Tensor:
    return run_tokens(*build_model(CARD, {**MIXED, **changes}, TENSORS), list(range(30)))


def test_rotary_embeddings_are_read_from_rope_parameters() -> None:
    scaled = {"rope_theta": 500.0, "rope_type": "linear", "factor": 4.0}
    flat = logits(rope_parameters=scaled)
    assert torch.equal(flat, logits(rope_theta=500.0, rope_scaling={"type": "linear", "factor": 4.0}))
    assert torch.equal(flat, logits(rope_parameters={"full_attention": scaled, "sliding_attention": scaled}))
    for other in ({}, {"rope_theta": 500.0}, {"rope_parameters": {**scaled, "partial_rotary_factor": 0.5}}):
        assert not torch.allclose(flat, logits(**other), atol=1e-4)


def test_rotary_embeddings_of_a_layer_type_are_its_own() -> None:
    def apart(full: float, sliding: float) -> torch.Tensor:
        kinds = {"full_attention": {"rope_theta": full}, "sliding_attention": {"rope_theta": sliding}}
        return logits(rope_parameters=kinds)

    both = apart(500.0, 20.0)
    assert torch.equal(both, logits(rope_theta=500.0, rope_local_base_freq=20.0))
    for other in (apart(500.0, 500.0), apart(20.0, 20.0), apart(20.0, 500.0)):
        assert not torch.allclose(both, other, atol=1e-4)


ORIGINAL = "LlamaForCausalLM"
"""The class in transformers that computes the same as these layers: name the one that yours are written after. Where
transformers is not installed, the test is skipped.
"""


def test_logits_are_those_of_the_original_implementation() -> None:
    check_parity(CARD, TINY, ORIGINAL)


def test_a_tied_head_multiplies_by_the_embedding() -> None:
    tensors = random_checkpoint(CARD, TINY)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    apart = run_tokens(*build_model(CARD, TINY, tensors), [1, 2, 3])
    del tensors["lm_head.weight"]
    tied = run_tokens(*build_model(CARD, {**TINY, "tie_word_embeddings": True}, tensors), [1, 2, 3])
    assert torch.equal(apart, tied)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "rope_type is 'spiral', wanted one of default, linear"),
    ],
)
def test_what_is_not_supported_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **changes}, {})
