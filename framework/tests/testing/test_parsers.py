"""check_tool_parser and check_reasoning_parser: what passes, and what each wrong parser is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dovetail.api import ReasoningParserCard, ToolParserCard
from dovetail.testing import (
    ReasoningSample,
    ToolSample,
    check_reasoning_parser,
    check_tool_parser,
    read_reasoning_samples,
    read_tool_samples,
)

CALL = '<c>{"name": "now", "arguments": {"a": "ü"}}</c>'
SAMPLE = ToolSample(CALL, (("now", {"a": "ü"}),))
THOUGHTS = ReasoningSample("<t>\nwhy ü\n</t>\n\nyes", "why ü", "yes")
CLOSED = ReasoningSample("yes", "", "yes", prompt="<t></t>\n")


def card(target: str, **claims: Any) -> ToolParserCard:
    return ToolParserCard(name="under-test", target=f"kit_parsers:{target}", recognises=(), **claims)


def thinker(target: str, **claims: Any) -> ReasoningParserCard:
    return ReasoningParserCard(name="under-test", target=f"kit_parsers:{target}", recognises=(), **claims)


def test_right_parsers_pass() -> None:
    check_tool_parser(card("Right", special_tokens=("<c>", "</c>")), [SAMPLE])
    check_reasoning_parser(thinker("RightThoughts", special_tokens=("<t>",)), [THOUGHTS, CLOSED])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (card("Hasty"), "cut into"),
        (card("Completing"), "which is not how"),
        (card("Slow"), "times as long"),
        (card("Fragile"), "cut short after 1 characters: ValueError: unfinished"),
        (card("Hollow"), "Content(text='') is empty"),
        (card("Headless"), "arguments before any call"),
        (card("Misframed"), "written as its call format says"),
        (card("ShortOfFrames"), "its call format has 1 calls for 3 tools"),
        (card("Right", special_tokens=("<d>",)), "the special token <d> stands in no sample"),
        (card("no_such_class"), "its target: cannot import kit_parsers:no_such_class"),
    ],
)
def test_what_is_wrong_with_a_tool_parser_is_said(wrong: ToolParserCard, told: str) -> None:
    with pytest.raises(AssertionError, match="under-test") as failure:
        check_tool_parser(wrong, [SAMPLE])
    assert told in str(failure.value)


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        (ToolSample(CALL, (("now", {"a": "u"}),)), "found the call"),
        (ToolSample(CALL, (("then", {"a": "ü"}),)), "found the call"),
        (ToolSample(CALL, (("now", '{"a":"ü"}'),)), "found the call"),
        (ToolSample(CALL), "found the calls"),
        (ToolSample(CALL, (("now", {"a": "ü"}),), content="x"), "found the content ''"),
        (ToolSample("<c>{}", (("now", {}),)), "found the content"),
    ],
)
def test_outputs_that_mean_something_else_are_told(sample: ToolSample, told: str) -> None:
    with pytest.raises(AssertionError, match="under-test") as failure:
        check_tool_parser(card("Right"), [sample])
    assert told in str(failure.value)


def test_numbers_and_truth_are_told_apart() -> None:
    text = '<c>{"name": "now", "arguments": {"a": %s}}</c>'
    for written, wanted in (("1", True), ("1.0", 1), ("true", 1)):
        with pytest.raises(AssertionError, match="found the call"):
            check_tool_parser(card("Right"), [ToolSample(text % written, (("now", {"a": wanted}),))])


@pytest.mark.parametrize(
    ("wrong", "samples", "told"),
    [
        (thinker("Thoughtless"), [THOUGHTS], "found the reasoning and content ('', 'why üyes')"),
        (thinker("Blind"), [CLOSED], "by its reasoning_markers"),
        (thinker("RightThoughts", special_tokens=("<u>",)), [THOUGHTS], "the special token <u>"),
        (thinker("RightThoughts"), [ReasoningSample("<t>a", "", "a")], "wanted ('', 'a')"),
    ],
)
def test_what_is_wrong_with_a_reasoning_parser_is_said(
    wrong: ReasoningParserCard, samples: list[ReasoningSample], told: str
) -> None:
    with pytest.raises(AssertionError, match="under-test") as failure:
        check_reasoning_parser(wrong, samples)
    assert told in str(failure.value)


def test_without_samples_nothing_is_checked_and_that_is_said() -> None:
    with pytest.raises(AssertionError, match="no samples"):
        check_tool_parser(card("Right"), [])
    with pytest.raises(AssertionError, match="no samples"):
        check_reasoning_parser(thinker("RightThoughts"), [])


def test_samples_are_read_from_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"source": "s", "text": CALL, "calls": [["now", {"a": "ü"}]]}]))
    assert read_tool_samples(path) == [ToolSample(CALL, (("now", {"a": "ü"}),), source="s")]
    path.write_text(json.dumps([{"text": "a", "reasoning": "b", "content": "c", "prompt": "d", "source": "e"}]))
    assert read_reasoning_samples(path) == [ReasoningSample("a", "b", "c", "d", "e")]
