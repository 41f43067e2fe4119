"""Output formats for the conformance tests of grammar backends, each with valid and invalid texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dovetail.api import GrammarSource


@dataclass(frozen=True)
class GrammarSample:
    """A grammar, with valid and invalid outputs.

    Attributes:
        matches: whether a whole output is valid.
        good: valid outputs.
        bad: invalid outputs.
        broken: sources of the same kind that must be refused.
    """

    source: GrammarSource
    matches: Callable[[str], bool]
    good: tuple[str, ...]
    bad: tuple[str, ...]
    broken: tuple[str, ...] = field(default=())


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "on": {"type": "boolean"},
        "size": {"enum": ["s", "xl\n"]},
        "marks": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["name", "on"],
    "additionalProperties": False,
}
ENTRIES: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "null", "format": "unheard-of"}, "next": {"$ref": "#"}},
    "patternProperties": {"^(a|b)$": {"type": ["null", "integer"]}},
    "additionalProperties": False,
    "required": None,
}
"""A schema whose property names can all be used up, which refers to itself, and which has keywords without effect as
people write them.
"""
BLANKS = " " * 200
CHOICES = ["yes", "yes sir", "no", 'a "b"\n', "\\d"]
TAGS = {
    "structures": [{"begin": "<call=f>", "schema": {"enum": [1, "x"]}, "end": "</call>"}],
    "triggers": ["<call="],
}
THOUGHT = {
    "type": "sequence",
    "elements": [
        {"type": "tag", "begin": "so{", "content": {"type": "any_text", "excludes": ["ab", "<"]}, "end": "}"},
        {"type": "json_schema", "json_schema": SCHEMA},
    ],
}
CALLS = {
    "type": "tags_with_separator",
    "tags": [
        {"begin": "<f>", "content": {"type": "json_schema", "json_schema": {"enum": [1, "x"]}}, "end": "</f>"},
        {"begin": "<g>", "content": {"type": "json_schema", "json_schema": {"type": "boolean"}}, "end": "</g>"},
    ],
    "separator": ", ",
    "at_least_one": True,
}
FIRST_CALL = {**CALLS, "at_least_one": False, "stop_after_first": True}
TRIGGERED = {
    "type": "triggered_tags",
    "triggers": ["<"],
    "tags": CALLS["tags"],
    "at_least_one": True,
    "excludes": ["}"],
}
PARTS = {
    "type": "sequence",
    "elements": [
        {"type": "const_string", "value": '"é\\\n'},
        {"type": "or", "elements": [{"type": "regex", "pattern": "[0-9]+"}, {"type": "const_string", "value": "no"}]},
        {"type": "optional", "content": {"type": "const_string", "value": "?"}},
        {"type": "star", "content": {"type": "tag", "begin": "[", "content": {"type": "any_text"}, "end": ["]", "}"]}},
        {"type": "plus", "content": {"type": "const_string", "value": "!"}},
    ],
}
CALL = r'(<f>\s*(1|"x")\s*</f>|<g>\s*(true|false)\s*</g>)'
WRONG_FORMATS: tuple[Any, ...] = (
    None,
    {},
    {"type": "unheard_of"},
    {"type": "const_string"},
    {"type": "regex", "pattern": "("},
    {"type": "json_schema", "json_schema": {"type": "objekt"}},
    {"type": "sequence", "elements": "x"},
    {"type": "tag", "begin": "<", "content": {"type": "any_text"}, "end": 1},
    {**CALLS, "tags": []},
    {**CALLS, "at_least_one": "yes"},
    {**TRIGGERED, "triggers": ["<other"]},
)


def _has_schema(text: str) -> bool:
    value = _json(text)
    if not isinstance(value, dict) or not {"name", "on"} <= set(value) <= set(SCHEMA["properties"]):
        return False
    marks = value.get("marks", [])
    return (
        isinstance(value["name"], str)
        and isinstance(value["on"], bool)
        and value.get("size", "s") in ("s", "xl\n")
        and isinstance(marks, list)
        and all(isinstance(m, int) and not isinstance(m, bool) for m in marks)
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _has_entries(text: str) -> bool:
    def has(value: Any) -> bool:
        if not isinstance(value, dict) or not set(value) <= {"a", "b", "next"}:
            return False
        number = value.get("b")
        whole = number is None or (isinstance(number, int) and not isinstance(number, bool))
        return whole and value.get("a") is None and ("next" not in value or has(value["next"]))

    return has(_json(text))


def _has_thought_and_schema(text: str) -> bool:
    thought, _, answer = text.partition("}")
    return re.fullmatch(r"so\{((?!ab)[^<])*", thought, re.DOTALL) is not None and _has_schema(answer)


def _structural(
    form: dict[str, Any],
    matches: Callable[[str], bool],
    good: tuple[str, ...],
    bad: tuple[str, ...],
    broken: tuple[Any, ...] = (),
) -> GrammarSample:
    """A structural tag in the newer notation; ``broken`` are formats."""
    texts = [json.dumps({"type": "structural_tag", "format": each}) for each in (form, *broken)]
    return GrammarSample(GrammarSource("structural_tag", texts[0]), matches, good, bad, tuple(texts[1:]))


SAMPLES = (
    GrammarSample(
        GrammarSource("json", json.dumps(SCHEMA)),
        _has_schema,
        good=('{"name": "é\\n", "on": true}', '{"name":"","on":false,"size":"s","marks":[1,-2]}'),
        bad=(
            "",
            "{}",
            '{"name": 1, "on": true}',
            '{"name": "a", "on": true, "x": 1}',
            '{"name": "a", "on": true',
            f'{{{BLANKS}"name": "a", "on": true}}',
            f'{{"name":{BLANKS}"a", "on": true}}',
            f'{{"name": "a", "on": true{BLANKS}}}',
        ),
        broken=(
            *("", "{", "[1]", '{"type": "objekt"}', '{"properties": 5}', "[" * 100_000, '{"const": "\ud800"}'),
            *('{"enum": []}', '{"type": "string", "minLength": 3, "maxLength": 2}'),
            *('{"type": "integer", "minimum": 3, "maximum": 2}', '{"allOf": [{"type": "null"}, {"type": "string"}]}'),
            '{"type": "object", "required": ["a"], "additionalProperties": false}',
            '{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}',
        ),
    ),
    GrammarSample(
        GrammarSource("json", json.dumps(ENTRIES)),
        _has_entries,
        good=("{}", '{"a": null, "next": {"b": 1}}', '{"a": null, "b": null}'),
        bad=('{"a": 1}', '{"c": null}', '{"next": null}'),
    ),
    GrammarSample(
        GrammarSource("json_object", ""),
        lambda text: isinstance(_json(text), dict),
        good=("{}", '{"a": [1, {"b": null}]}'),
        bad=("", "[]", "1", '{"a"}', f"{{{BLANKS}}}", f'{{"a": [{BLANKS}]}}'),
    ),
    GrammarSample(
        GrammarSource("regex", r"[ab]{2,4}-([0-9]{1,3}|é)"),
        lambda text: re.fullmatch(r"[ab]{2,4}-([0-9]{1,3}|é)", text) is not None,
        good=("ab-1", "bbaa-999", "aa-é"),
        bad=("", "a-1", "ab-", "ab-1000", "ab-1 "),
        broken=("(", "a{2,1}", "[b-a]", "(" * 100_000, "\ud800"),
    ),
    GrammarSample(
        GrammarSource("choice", json.dumps(CHOICES)),
        lambda text: text in CHOICES,
        good=tuple(CHOICES),
        bad=("", "ye", "yes s", "yess", "x"),
        broken=("", "[]", "{}", "[1]", '"yes"', '["\\ud800"]'),
    ),
    GrammarSample(
        GrammarSource("structural_tag", json.dumps(TAGS)),
        lambda text: all(re.match(r'f>\s*(1|"x")\s*</call>', part) for part in text.split("<call=")[1:]),
        good=("", "no call", '<call=f>"x"</call>', "a <call=f>1</call> b <call=f>1</call>"),
        bad=("<call=", "<call=g>1</call>", "<call=f>2</call>", "a <call=f>1", f"<call=f>{BLANKS}1</call>"),
        broken=("", "{}", "[]", '{"structures": [], "triggers": ["<"]}', json.dumps({**TAGS, "triggers": ["<other"]})),
    ),
    _structural(
        THOUGHT,
        _has_thought_and_schema,
        good=('so{}{"name": "", "on": true}', 'so{a{b}{"name":"}ab<","on":false,"marks":[]}'),
        bad=("", "so{}", '{"name": "", "on": true}', 'so{ab}{"name": "", "on": true}', 'so{}{"name": ""}'),
        broken=WRONG_FORMATS,
    ),
    _structural(
        CALLS,
        lambda text: re.fullmatch(f"{CALL}(, {CALL})*", text) is not None,
        good=("<f>1</f>", '<g>true</g>, <f>"x"</f>, <f>1</f>'),
        bad=("", "<f>true</f>", "<g>true</g>,", "<g>true</g><f>1</f>", "x<f>1</f>"),
    ),
    _structural(
        FIRST_CALL,
        lambda text: re.fullmatch(f"{CALL}?", text) is not None,
        good=("", "<f>1</f>", "<g>true</g>"),
        bad=("<f>true</f>", "<g>true</g>, <f>1</f>"),
    ),
    _structural(
        TRIGGERED,
        lambda text: re.fullmatch(f"{CALL}([^<}}]|{CALL})*", text) is not None,
        good=("<f>1</f>", "<g>true</g> and\n<f>1</f>.<g>false</g>"),
        bad=("", "a<f>1</f>", "<f>1</f><", "<f>1</f> <h>", "<f>1</f>}"),
    ),
    _structural(
        PARTS,
        lambda text: re.fullmatch(r'"é\\\n([0-9]+|no)\??(\[[^]}]*[]}])*!+', text) is not None,
        good=('"é\\\nno!', '"é\\\n123?[][!}!!'),
        bad=("", '"é\\\n!', '"é\\\n1no!', '"é\\\n1', '"é\\\n1[!', '"é\\\n1[]]!'),
    ),
)
