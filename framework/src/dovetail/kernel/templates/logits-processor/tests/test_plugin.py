"""The conformance kit on the processor's card, and what the kit cannot know."""

from __future__ import annotations

import torch
from dovetail.api import LogitsProcessorContext, LogitsRow
from dovetail.testing import check_logits_processor, check_registration

import PLUGIN_MODULE
from PLUGIN_MODULE import processor

(CARD,) = PLUGIN_MODULE.dovetail_register_logits_processors()


def test_registration() -> None:
    check_registration(PLUGIN_MODULE)


def test_every_claim() -> None:
    check_logits_processor(CARD, {}, {"token": 5}, {"token": 7, "after": 3})


def test_the_token_is_forbidden_once_the_output_is_long_enough() -> None:
    context = LogitsProcessorContext(vocab_size=4, device=torch.device("cpu"))
    forbidding = processor.PLUGIN_CLASSProcessor(context)
    logits = torch.zeros(2, 4)
    rows = [LogitsRow(str(n), {"token": 2, "after": 1}, [0] * (1 + n), 1) for n in range(2)]
    forbidding.apply(logits, rows)
    assert logits.isneginf().nonzero().tolist() == [[1, 2]]
