"""Results against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from dovetail_models_opt import dovetail_register_models

from dovetail.testing import check_parity

CARDS = {card.name: card for card in dovetail_register_models()}

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "ffn_dim": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "as 350M": {"do_layer_norm_before": False, "word_embed_proj_dim": 48},
    "norms after": {"do_layer_norm_before": False},
    "projected, untied": {"word_embed_proj_dim": 48, "tie_word_embeddings": False},
    "no last norm": {"_remove_final_layer_norm": True},
    "no biases": {"enable_bias": False, "activation_function": "gelu"},
    "norms without parameters": {"layer_norm_elementwise_affine": False},
}


@pytest.mark.parametrize("case", CASES)
def test_the_original_gives_the_same_logits(case: str) -> None:
    check_parity(CARDS["opt"], {**BASE, **CASES[case]})


@pytest.mark.parametrize("name", ["opt-embedding", "opt-classifier"])
@pytest.mark.parametrize("case", ["usual", "as 350M"])
def test_the_original_gives_the_same_results_without_its_head(name: str, case: str) -> None:
    check_parity(CARDS[name], {**BASE, **CASES[case], "num_labels": 3, "pad_token_id": None})
