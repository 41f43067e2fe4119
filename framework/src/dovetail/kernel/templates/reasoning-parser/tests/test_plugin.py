"""The conformance kit on the parser's card, with outputs of the model."""

from __future__ import annotations

from dovetail.testing import ReasoningSample, check_reasoning_parser, check_registration

import PLUGIN_MODULE

(CARD,) = PLUGIN_MODULE.dovetail_register_parsers()

START, END = "<PLUGIN_NAME>", "</PLUGIN_NAME>"
SAMPLES = [
    ReasoningSample(f"{START}\nHm. 🤔\n{END}\n\nYes.\n", "Hm. 🤔", "Yes.\n"),
    ReasoningSample(f"Hm.\n{END}\n\nYes.", "Hm.", "Yes.", prompt=f"assistant\n{START}\n"),
    ReasoningSample("Yes.", content="Yes.", prompt=f"assistant\n{START}\n\n{END}\n\n"),
    ReasoningSample("Yes.", content="Yes."),
    ReasoningSample(f"{START}Hm.", "Hm."),
]


def test_registration() -> None:
    check_registration(PLUGIN_MODULE)


def test_every_claim() -> None:
    check_reasoning_parser(CARD, SAMPLES)
