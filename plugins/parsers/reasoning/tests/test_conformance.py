"""The conformance kit on every card, with the outputs in ``corpus``."""

from __future__ import annotations

from pathlib import Path

import dovetail_parsers_reasoning
import pytest

from dovetail.api import ReasoningParserCard
from dovetail.testing import check_reasoning_parser, check_registration, read_reasoning_samples

CARDS = dovetail_parsers_reasoning.dovetail_register_parsers()
OWN = [card for card in CARDS if card.name not in sum(dovetail_parsers_reasoning.ALIASES.values(), ())]
CORPUS = Path(__file__).parent / "corpus"


def test_registration() -> None:
    check_registration(dovetail_parsers_reasoning)


@pytest.mark.parametrize("card", OWN, ids=lambda card: card.name)
def test_every_claim(card: ReasoningParserCard) -> None:
    samples = read_reasoning_samples(CORPUS / f"{card.name}.json")
    assert len(samples) >= 8
    assert all(sample.source for sample in samples)
    check_reasoning_parser(card, samples)
