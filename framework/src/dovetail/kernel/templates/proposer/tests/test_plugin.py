"""The conformance kit on the proposer's card, and what the kit cannot know."""

from __future__ import annotations

import pytest
from dovetail.api import DraftRequest, ProposerContext
from dovetail.testing import check_proposer, check_registration

import PLUGIN_MODULE
from PLUGIN_MODULE.config import PLUGIN_CLASSConfig
from PLUGIN_MODULE.proposer import PLUGIN_CLASSProposer

(CARD,) = PLUGIN_MODULE.dovetail_register_proposers()


def test_registration() -> None:
    check_registration(PLUGIN_MODULE)


@pytest.mark.parametrize("memory", [1, 5, 1000])
def test_every_claim(memory: int) -> None:
    check_proposer(CARD, memory=memory)


def test_what_followed_the_last_time_follows_again() -> None:
    context = ProposerContext(vocab_size=10, max_seqs=1, num_tokens=4)
    proposer = PLUGIN_CLASSProposer(PLUGIN_CLASSConfig(), context)
    sequences = [DraftRequest("a", [1, 2, 1, 3, 1], 4), DraftRequest("b", [1, 2], 4)]
    assert proposer.propose(sequences) == [[3, 1, 3, 1], []]
