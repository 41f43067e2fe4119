"""The parts of the toolkit for parsers, each by itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from dovetail.api import CallArguments, CallBegin, Content, Reasoning, Tool
from dovetail.api.parsing import (
    EventGenerator,
    JsonToolParser,
    Markers,
    Reader,
    StreamingToolParser,
    TaggedReasoningParser,
    json_value,
    parameter_types,
    read_string,
    read_value,
)


def run(steps: Any, reader: Reader, pieces: Iterable[str]) -> list[Any]:
    """What a generator yields while pieces come in; the last is what it returns."""
    found: list[Any] = []
    waiting = iter(pieces)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return [*found, end.value]
        if step is not None:
            found.append(step)
        elif (piece := next(waiting, None)) is not None:
            reader.push(piece)
        else:
            reader.ended = True


def joined(steps: Any, reader: Reader, text: str) -> str:
    """The text that a generator yields, which must be the same for the whole text and for its characters."""
    return "".join(run(steps, reader, text)[:-1])


@pytest.mark.parametrize(
    ("text", "before", "marker", "rest"),
    [
        ("a<b>c", "a", "<b>", "c"),
        ("a<bc<b>", "a<bc", "<b>", ""),
        ("<<<b>", "<<", "<b>", ""),
        ("<b", "<b", "", ""),
        ("x</b>y", "x", "</b>", "y"),
        ("", "", "", ""),
    ],
)
def test_markers_are_found_wherever_they_are_cut(text: str, before: str, marker: str, rest: str) -> None:
    def read(reader: Reader) -> EventGenerator[str]:
        found = yield from reader.read_until(Markers("<b>", "</b>"), str)
        yield "|"
        yield from reader.read_rest(str)
        return found

    for pieces in ([text], list(text)):
        reader = Reader()
        *texts, found = run(read(reader), reader, pieces)
        assert ("".join(texts), found) == (f"{before}|{rest}", marker)


def test_only_what_may_begin_a_marker_is_held_back() -> None:
    reader = Reader()
    steps = reader.read_until(Markers("<tool>"), str)
    reader.push("a < b <to")
    assert next(steps) == "a < b "
    assert next(steps) is None
    reader.push("p")
    assert next(steps) == "<top"


def test_markers_that_begin_with_each_other_are_a_bug() -> None:
    with pytest.raises(AssertionError):
        Markers("<a", "<a>")


def test_a_pattern_waits_no_longer_than_its_limit() -> None:
    import re

    reader = Reader()
    steps = reader.match(re.compile("a+(?=b)"), 4)
    reader.push("aaa")
    assert next(steps) is None
    reader.push("aab")
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r'"a\"b\\c\/\n\t"rest', 'a"b\\c/\n\t'),
        (r'"\u00fc\uD83C\uDF26"', "ü🌦"),
        (r'"\ud83c"', "\ufffd"),
        (r'"\ud83cx\udf26"', "\ufffdx\ufffd"),
        (r'"\q\u12"', r"\q\u12"),
        ('"cut off', "cut off"),
        ('"cut off \\u00', "cut off "),
        ('"cut off \\ud83c\\ud', "cut off "),
        ('"cut off \\', "cut off "),
    ],
)
def test_strings_are_handed_out_as_what_they_stand_for(text: str, wanted: str) -> None:
    for pieces in ([text], list(text)):
        reader = Reader()
        reader.push("")
        assert "".join(run(opened(reader), reader, pieces)[:-1]) == wanted


def opened(reader: Reader) -> EventGenerator[None]:
    """Wait for a string, and read it."""
    yield from reader.peek()
    yield from read_string(reader, lambda text: text or None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, {"b": "}]"}]} x', '{"a": [1, {"b": "}]"}]}'),
        ('{"a": "\\\\"}}', '{"a": "\\\\"}'),
        ("[]]", "[]"),
        ('"a\\"b" c', '"a\\"b"'),
        ("-1.5e3, 2", "-1.5e3"),
        ("null}", "null"),
        ('{"a": 1</tag>', '{"a": 1'),
        ('{"a": "</tag>', '{"a": "</tag>'),
        ("<tag>", ""),
    ],
)
def test_values_are_handed_out_as_they_stand(text: str, value: str) -> None:
    for pieces in ([text], list(text)):
        reader = Reader()
        assert "".join(run(read_value(reader, str), reader, pieces)[:-1]) == value


@pytest.mark.parametrize(
    ("text", "types", "wanted"),
    [
        ("3", {"string"}, '"3"'),
        ("3", {"integer"}, "3"),
        ("3", set(), "3"),
        ("1.50", {"number"}, "1.50"),
        ("3", {"string", "integer"}, "3"),
        ("three", {"integer"}, '"three"'),
        ("null", {"string"}, '"null"'),
        ("null", {"string", "null"}, "null"),
        ("None", {"string", "null"}, "null"),
        ("True", {"boolean"}, "true"),
        ("TRUE", {"boolean"}, "true"),
        (" [1, 2]\n", {"array"}, "[1, 2]"),
        ("{'a': (1, -2), \"b\": None}", {"object"}, '{"a": [1, -2], "b": null}'),
        ("{1: 2}", {"object"}, '"{1: 2}"'),
        ("{'a': 1, **b}", {"object"}, "\"{'a': 1, **b}\""),
        ("[x]", {"array"}, '"[x]"'),
        ("NaN", {"number"}, '"NaN"'),
        ("1e999", {"number"}, "1e999"),
        ('"quoted"', set(), '"\\"quoted\\""'),
        ("'\\ud800'", {"array"}, "\"'\\\\ud800'\""),
        ("['\\ud800']", {"array"}, '["?"]'),
        ("[" * 100_000, {"array"}, json.dumps("[" * 100_000)),
        ("-" * 100_000 + "1", {"integer"}, json.dumps("-" * 100_000 + "1")),
        ("", {"integer"}, '""'),
    ],
)
def test_types_say_what_an_argument_is(text: str, types: set[str], wanted: str) -> None:
    assert json_value(text, frozenset(types)) == wanted


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"enum": ["a", 1, None]}, {"string", "integer", "null"}),
        ({"const": True}, {"boolean"}),
        ({"anyOf": [{"type": "integer"}, {"oneOf": [{"type": "null"}]}]}, {"integer", "null"}),
        ({"$ref": "#/$defs/Name"}, {"string"}),
        ({"$ref": "#/properties/p"}, set()),  # itself
        ({"$ref": "#/nowhere"}, set()),
        ({}, set()),
        (True, set()),
        ({"type": 3}, set()),
        ({"type": [{}]}, set()),
    ],
)
def test_schemas_say_which_types_a_parameter_has(schema: Any, types: set[str]) -> None:
    tool: Tool = {
        "name": "f",
        "parameters": {"properties": {"p": schema}, "$defs": {"Name": {"type": "string"}}},
    }
    assert parameter_types([{"name": "g"}, tool], "f", "p") == types
    assert parameter_types([tool], "f", "q") == set()
    assert parameter_types([tool], "g", "p") == set()


@pytest.mark.parametrize(
    "tool", [{"name": "f"}, {"name": "f", "parameters": None}, {"name": "f", "parameters": {"properties": 1}}]
)
def test_tools_need_no_schema(tool: Tool) -> None:
    assert parameter_types([tool], "f", "p") == set()


class Script(StreamingToolParser):
    """Yields what ``a``, ``b`` … stand for, and text as it is."""

    def read(self) -> EventGenerator[None]:
        while found := (yield from self.reader.read_until(Markers("#"), Content)):
            assert found
            yield CallBegin("f")
            yield CallArguments("{}")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  a  ", "  a  "),
        ("\n\n", "\n\n"),
        ("  #", ""),
        ("#  ", ""),
        (" # # ", ""),
        ("a\n#\n", "a"),
        ("\n#\na", "a"),
        ("a\n#\n\nb", "a\nb"),
        ("a#\nb", "a\nb"),
        ("a # # b ", "a b "),
        ("a#b", "ab"),
    ],
)
def test_white_space_that_only_separates_calls_is_dropped(text: str, wanted: str) -> None:
    for pieces in ([text], list(text)):
        parser = Script([])
        events = [event for piece in pieces for event in parser.feed(piece)]
        events += parser.finish()
        assert "".join(event.text for event in events if isinstance(event, Content)) == wanted


def test_neighbours_are_one_event() -> None:
    class Tagged(JsonToolParser):
        start_markers = ("<c>",)

    text = 'a < b <c>{"name": "f", "arguments": {"a": {"b": "c\\n"}}}'
    assert list(Tagged([]).feed(text)) == [
        Content("a < b"),
        CallBegin("f"),
        CallArguments('{"a": {"b": "c\\n"}}'),
    ]


def test_a_call_is_announced_as_soon_as_its_name_is_known() -> None:
    class Tagged(JsonToolParser):
        start_markers = ("<c>",)

    parser = Tagged([])
    assert list(parser.feed('<c>{"name": "f"')) == [CallBegin("f")]
    assert list(parser.feed(', "arguments": {"a": "long')) == [CallArguments('{"a": "long')]


def test_thoughts_are_handed_out_as_they_come() -> None:
    parser = TaggedReasoningParser("")
    assert list(parser.feed("<think>\nwhy ")) == [Reasoning("why")]
    assert list(parser.feed("not</th")) == [Reasoning(" not")]
    assert list(parser.feed("ink>\n\nyes")) == [Content("yes")]
    assert list(parser.finish()) == []
