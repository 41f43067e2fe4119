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


def test_every_claim() -> None:
    check_model(CARD, TINY, {**TINY, "sliding_window": 9, "tie_word_embeddings": True})


ORIGINAL = "LlamaForCausalLM"
"""The class in transformers that computes the same; where transformers is not installed, the test is skipped."""


def test_logits_are_those_of_the_original_implementation() -> None:
    check_parity(CARD, TINY, ORIGINAL)


def test_a_tied_head_multiplies_by_the_embedding() -> None:
    tensors = random_checkpoint(CARD, TINY)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    apart = run_tokens(*build_model(CARD, TINY, tensors), [1, 2, 3])
    del tensors["lm_head.weight"]
    tied = run_tokens(*build_model(CARD, {**TINY, "tie_word_embeddings": True}, tensors), [1, 2, 3])
    assert torch.equal(apart, tied)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_attention_heads is not a multiple of num_key_value_heads"):
        build_model(CARD, {**TINY, "num_key_value_heads": 3}, {})
