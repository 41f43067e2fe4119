"""The conformance kit, and what the configurations refuse."""

from __future__ import annotations

from typing import Any

import dovetail_models_phi
import pytest
import torch
from dovetail_models_phi.config import Phi3Config, PhimoeConfig
from torch import Tensor

from dovetail.api import ConfigError, ModelCard
from dovetail.nn import Parallel
from dovetail.testing import build_model, check_model, check_registration, random_checkpoint, run_ranks, run_tokens

CARDS = {card.name: card for card in dovetail_models_phi.dovetail_register_models()}

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
EXPERTS: dict[str, Any] = {"num_key_value_heads": 2, "num_local_experts": 4, "intermediate_size": 32}
LONGROPE: dict[str, Any] = {
    "type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(6)],
    "long_factor": [2.0 + 0.5 * i for i in range(6)],
}
MSCALES = {"short_mscale": 1.2, "long_mscale": 1.3}
HALVED = {
    "partial_rotary_factor": 0.5,
    "rope_scaling": {**LONGROPE, "long_factor": [2.0] * 3, "short_factor": [1.0] * 3},
}
CASES: dict[str, list[dict[str, Any]]] = {
    "phi": [{}, {"qk_layernorm": True, "num_key_value_heads": 2, "tie_word_embeddings": True}],
    "phi3": [{"sliding_window": 9, "num_key_value_heads": 2}, {**HALVED, "tie_word_embeddings": True}],
    "phimoe": [
        {**EXPERTS, "sliding_window": 9, "lm_head_bias": True, "attention_bias": True},
        {**EXPERTS, "tie_word_embeddings": True, "rope_scaling": {**LONGROPE, **MSCALES}},
    ],
}


@pytest.mark.parametrize("tied", [False, True])
def test_labels_that_are_tokens_have_the_head_s_logits(tied: bool) -> None:
    ids, tokens = [60, 3, 31], list(range(20))
    config = {**TINY, "num_attention_heads": 4, "tie_word_embeddings": tied}
    tensors = random_checkpoint(CARDS["phi"], config)
    assert "lm_head.bias" in tensors
    logits = run_tokens(*build_model(CARDS["phi"], config, tensors), tokens)

    def label(parallel: Parallel | None = None) -> Tensor:
        labels = {**config, "classifier_token_ids": ids}
        model, ctx = build_model(CARDS["phi-classifier"], labels, tensors, parallel=parallel)
        return model.pooled_logits(run_tokens(model, ctx, tokens))

    for found in (label(), *run_ranks(2, label)):
        torch.testing.assert_close(found, logits[:, ids], rtol=0, atol=1e-5)


def test_registration() -> None:
    check_registration(dovetail_models_phi)


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_every_claim(card: ModelCard) -> None:
    cases = CASES[card.name.partition("-")[0]]
    configs = [{**TINY, **changes} for changes in (cases if "generate" in card.tasks else cases[:1])]
    check_model(card, *configs)


def test_the_original_length_is_read_beside_the_scaling() -> None:
    inner = {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 32}}
    assert Phi3Config.model_validate({**TINY, **inner}).rope_for(0).original_max_position_embeddings == 4096
    outer = Phi3Config.model_validate({**TINY, **inner, "original_max_position_embeddings": 64})
    assert outer.rope_for(0).original_max_position_embeddings == 64
    assert outer.context_length() == 128
    older = {"rope_scaling": {**LONGROPE, "type": "su"}, "original_max_position_embeddings": 64}
    assert Phi3Config.model_validate({**TINY, **older}).rope == outer.rope


def test_null_key_value_heads_are_as_many_as_heads() -> None:
    heads = {**TINY, "num_attention_heads": 24}
    assert PhimoeConfig.model_validate(heads).num_key_value_heads == 8
    assert PhimoeConfig.model_validate({**heads, "num_key_value_heads": None}).num_key_value_heads == 24


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("phi", {"num_attention_heads": 5}, "hidden_size 48 .* 5"),
        ("phi", {"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ("phi", {"hidden_act": "mish"}, "'mish'"),
        ("phi", {"rope_scaling": {"type": "longrope"}}, "lacks long_factor and short_factor"),
        ("phi", {"partial_rotary_factor": 0.25}, "is 3"),
        ("phi", {"sliding_window": 9}, "'sliding_attention'"),
        ("phi", {"intermediate_size": None}, "intermediate_size: is missing"),
        ("phi3", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'yarn' is not supported, only 'default' and"),
        ("phi3", {"rope_scaling": {**LONGROPE, "long_factor": [1.0]}}, "long_factor has 1 numbers, wanted 6"),
        ("phi3", {"hidden_size": None}, "hidden_size: is missing"),
        ("phimoe", {**EXPERTS, "num_experts_per_tok": 1}, "num_experts_per_tok is 1, wanted 2"),
        ("phimoe", {**EXPERTS, "num_local_experts": 1}, "num_experts_per_tok is 2, more than num_local_experts"),
        ("phimoe", {**EXPERTS, "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ("phi3", {"rope_scaling": LONGROPE | MSCALES}, "short_mscale and long_mscale of the rotary embedding"),
        ("phimoe", {**EXPERTS, "rope_scaling": LONGROPE}, "'longrope' lacks long_mscale or short_mscale"),
        ("phimoe", {**EXPERTS, "rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear' is not supported"),
    ],
)
def test_what_cannot_be_honoured_is_refused(name: str, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARDS[name], {**TINY, **keys}, {})
