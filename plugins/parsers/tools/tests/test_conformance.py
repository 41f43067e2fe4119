"""The conformance kit on every card, with the outputs in ``corpus``."""

from __future__ import annotations

from pathlib import Path

import dovetail_parsers_tools
import pytest

from dovetail.api import ToolParserCard
from dovetail.testing import check_registration, check_tool_parser, read_tool_samples

CARDS = dovetail_parsers_tools.dovetail_register_parsers()
OWN = [card for card in CARDS if card.name not in sum(dovetail_parsers_tools.ALIASES.values(), ())]
CORPUS = Path(__file__).parent / "corpus"


def test_registration() -> None:
    check_registration(dovetail_parsers_tools)


@pytest.mark.parametrize("card", OWN, ids=lambda card: card.name)
def test_every_claim(card: ToolParserCard) -> None:
    samples = read_tool_samples(CORPUS / f"{card.name}.json")
    assert len(samples) >= 8
    assert all(sample.source for sample in samples)
    check_tool_parser(card, samples)
