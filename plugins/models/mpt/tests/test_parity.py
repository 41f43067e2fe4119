"""Results against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from dovetail_models_mpt import dovetail_register_models

from dovetail.testing import check_parity

CARDS = {card.name: card for card in dovetail_register_models()}

BASE: dict[str, Any] = {"vocab_size": 97, "d_model": 64, "n_layers": 3, "n_heads": 4, "max_seq_len": 96}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("mpt", {}),
    "sixteen heads": ("mpt", {"n_heads": 16, "norm_type": "layernorm"}),
    "no power of two": ("mpt", {"n_heads": 12, "d_model": 96, "tie_word_embeddings": False}),
    "clipped": ("mpt", {"attn_config": {"clip_qkv": 0.7}}),
    "another scale": ("mpt", {"attn_config": {"softmax_scale": 0.5}, "layer_norm_epsilon": 1e-2}),
    "no head": ("mpt-embedding", {}),
    "labels": ("mpt-classifier", {"num_labels": 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_original_gives_the_same_results(case: str) -> None:
    name, changes = CASES[case]
    check_parity(CARDS[name], {**BASE, **changes})
