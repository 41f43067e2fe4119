"""Results against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from dovetail_models_bloom import dovetail_register_models

from dovetail.testing import check_parity

CARDS = {card.name: card for card in dovetail_register_models()}

BASE: dict[str, Any] = {"vocab_size": 97, "hidden_size": 64, "n_layer": 3, "n_head": 4}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("bloom", {}),
    "sixteen heads": ("bloom", {"n_head": 16, "tie_word_embeddings": False}),
    "no power of two": ("bloom", {"n_head": 12, "hidden_size": 96}),
    "other epsilon": ("bloom", {"layer_norm_epsilon": 1e-2}),
    "no head": ("bloom-embedding", {}),
    "labels": ("bloom-classifier", {"num_labels": 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_original_gives_the_same_results(case: str) -> None:
    name, changes = CASES[case]
    check_parity(CARDS[name], {**BASE, **changes})
