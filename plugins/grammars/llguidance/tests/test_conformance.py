"""Every claim on the card."""

from __future__ import annotations

import re

import dovetail_grammars_llguidance
import pytest

from dovetail.api import GrammarSource
from dovetail.testing import GrammarSample, check_grammar

(CARD,) = dovetail_grammars_llguidance.dovetail_register_grammars()

LARK = """
start: sum
sum: NUMBER | sum "+" NUMBER
NUMBER: /[0-9]{1,2}/
"""
GBNF = """
root ::= sum
sum ::= number ("+" number)*
number ::= [0-9] [0-9]?
"""


@pytest.mark.parametrize("notation", [LARK, GBNF], ids=["lark", "gbnf"])
def test_every_claim(notation: str) -> None:
    sums = GrammarSample(
        GrammarSource("grammar", notation),
        lambda text: re.fullmatch(r"[0-9]{1,2}(\+[0-9]{1,2})*", text) is not None,
        good=("1", "12+3", "1+1+99"),
        bad=("", "+", "1+", "123", "1 + 1"),
        broken=("", "start: missing", "root ::= missing", 'start: "a', "start: " + "(" * 100_000),
    )
    check_grammar(CARD, sums)
