"""Parsers in the Plan: which may serve, and which of them a chat template asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.api import PluginError, ResolutionError
from dovetail.kernel.plan import render
from dovetail.kernel.plan_parts import recognise

from .fakes import reasoning_parser, tool_parser
from .installation import plan

TAGS = tool_parser("tags", "<tool>", "<call>", special_tokens=("<tool>",), rank=100)
PLAIN = tool_parser("plain", "", rank=0)
THOUGHTS = reasoning_parser("thoughts", "<think>")


def test_the_template_decides_among_all_from_the_highest_rank_down(folder: Path) -> None:
    found = plan(folder, PLAIN, TAGS, THOUGHTS)
    assert [p.part.name for p in found.tool_parsers] == ["tags", "calls", "plain"]
    assert [p.part.name for p in found.reasoning_parsers] == ["thinks", "thoughts"]
    for template, name in (("a <call> b", "tags"), ("<tool>", "tags"), ("nothing", "plain")):
        serves = recognise(found.tool_parsers, template)
        assert serves is not None
        assert serves.part.name == name
    assert recognise(found.reasoning_parsers, "nothing") is None
    assert found.tool_parsers[0].special_tokens == ("<tool>",)
    assert "the first that knows the chat template's notation: tags, calls, plain" in render(found)


def test_one_that_is_named_serves_whatever_the_template_says(folder: Path) -> None:
    found = plan(folder, PLAIN, TAGS, tool_call_parser="tags")
    serves = recognise(found.tool_parsers, "nothing")
    assert serves is not None
    assert serves.part.name == "tags"
    assert "tags (more-" in render(found)


def test_none_turns_parsing_off(folder: Path) -> None:
    found = plan(folder, TAGS, THOUGHTS, tool_call_parser="none", reasoning_parser="none")
    assert (found.tool_parsers, found.reasoning_parsers) == ((), ())


def test_an_unknown_name_says_what_there_is(folder: Path) -> None:
    with pytest.raises(ResolutionError, match="'other', found tags, calls"):
        plan(folder, TAGS, tool_call_parser="other")
    with pytest.raises(ResolutionError, match="'tags', found thinks, thoughts"):
        plan(folder, TAGS, THOUGHTS, reasoning_parser="tags")


def test_a_card_with_a_malformed_expression_is_named(folder: Path) -> None:
    with pytest.raises(PluginError, match=r"tool_parser broken .*'\(', which is no regular expression"):
        plan(folder, tool_parser("broken", "("))
