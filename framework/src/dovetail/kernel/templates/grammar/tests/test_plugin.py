"""The conformance kit on the backend's card, and what the kit cannot know."""

from __future__ import annotations

import pytest
from dovetail.api import GrammarSource, RequestError
from dovetail.testing import check_grammar, check_registration

import PLUGIN_MODULE
from PLUGIN_MODULE.validation import validate_source

(CARD,) = PLUGIN_MODULE.dovetail_register_grammars()


def test_registration() -> None:
    check_registration(PLUGIN_MODULE)


def test_every_claim() -> None:
    check_grammar(CARD)


def test_a_choice_of_numbers_is_refused() -> None:
    with pytest.raises(RequestError, match=r"the choice is '\[1, 2\]', wanted a list"):
        validate_source(GrammarSource("choice", "[1, 2]"))
