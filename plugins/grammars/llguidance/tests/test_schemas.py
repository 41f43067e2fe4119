"""Schemas as people write them, and what an output may be that follows them."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from dovetail_grammars_llguidance.keywords import FORMATS, LACKING
from dovetail_grammars_llguidance.schemas import prepare_schema
from dovetail_grammars_llguidance.validation import validate_source
from llguidance import LLMatcher

from dovetail.api import GrammarSource, RequestError

from .random_schemas import OUTPUTS, random_schema, walk
from .tokens import END, Follower

Schema = dict[str, Any]
LIST: Schema = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/list"}},
    "required": ["v"],
    "additionalProperties": False,
}


def notices(schema: Any) -> list[str]:
    return list(validate_source(GrammarSource("json", json.dumps(schema))))


def writes(schema: Any, output: str, kind: Any = "json") -> bool:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    found = Follower(kind, text)
    return found.accept(*found.spelt(output)) and END in found.allowed()


def an_object(part: Any, **more: Any) -> Schema:
    return {"type": "object", "properties": {"a": part}, "additionalProperties": False, **more}


@pytest.mark.parametrize("seed", range(0, 150, 25))
def test_whatever_is_taken_leads_to_json_that_the_schema_allows(seed: int) -> None:
    for number in range(seed, seed + 25):
        schema = random_schema(random.Random(number))
        try:
            told = notices(schema)
        except RequestError:
            continue
        texts = [
            walk(Follower("json", json.dumps(schema)), random.Random(number * OUTPUTS + i)) for i in range(OUTPUTS)
        ]
        for text in texts:
            if text is None:
                continue
            assert re.search(r"\s{42}", text) is None, (schema, text)
            value = json.loads(text)
            if not told:
                jsonschema.Draft202012Validator(schema).validate(value)


@pytest.mark.parametrize(
    ("blanks", "taken"),
    [
        ("", True),
        (" ", True),
        ("\n", True),
        ("\n  ", True),
        ("\n\t\t", True),
        ("\n" + " " * 40, True),
        ("\n" + " " * 41, False),
        ("  ", False),
        ("\n\n", False),
        ("\t", False),
        ("\r", False),
        ("\n\t\t\r\t\t", False),
        (" \n", False),
    ],
)
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json", "true"),
        ("json", '{"x-guidance": {"whitespace_flexible": true}}'),
        ("json_object", ""),
        ("structural_tag", '{"format": {"type": "json_schema", "json_schema": {"type": "object"}}}'),
        ("grammar", 'start: %json {"type": "object"} // %json'),
    ],
)
def test_white_space_is_what_people_write(kind: Any, text: str, blanks: str, taken: bool) -> None:
    for place in ('{%s"a":1}', '{"a":%s1}', '{"a":1%s}', '{"a":[1,%s2]}'):
        assert writes(text, place % blanks, kind) == taken


def test_a_schema_may_say_how_much_white_space_there_is() -> None:
    assert not writes({"x-guidance": {"whitespace_flexible": False}}, '{"a": 1}')
    assert writes({"x-guidance": {"whitespace_flexible": False}}, '{"a":1}')
    assert writes({"x-guidance": {"whitespace_pattern": "  "}}, '{"a":  1}')


@pytest.mark.parametrize("word", LACKING)
def test_llguidance_lacks_what_is_left_out(word: str) -> None:
    grammar = LLMatcher.grammar_from_json_schema(json.dumps({word: {}}))
    assert "Unimplemented keys" in LLMatcher.validate_grammar(grammar)


def test_llguidance_has_the_formats_that_are_kept() -> None:
    for name in FORMATS:
        assert not LLMatcher.validate_grammar(
            LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "format": name}))
        )


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems at # is not kept"),
        (an_object({"not": {"type": "null"}}), "not at #/properties/a is not kept"),
        ({"if": {"type": "null"}, "then": True}, "if at # is not kept"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired at # is not kept"),
        ({"type": "array", "contains": {"const": 1}}, "contains at # is not kept"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames at # is not kept"),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 2},
            "minProperties at # is not kept",
        ),
        ({"type": "string", "pattern": "^(?!a)"}, "pattern, for its look-around, at # is not kept"),
        ({"type": "integer", "maximum": 2**64 - 1}, "maximum at # is not kept"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "array", "uniqueItems": True}}}, "uniqueItems at #/$defs/x"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf is taken for anyOf"),
    ],
)
def test_what_is_lacking_is_left_out_with_a_notice_or_refused_where_the_schema_is_strict(
    schema: Schema, told: str
) -> None:
    (found, *_) = notices(schema)
    assert found.startswith(told)
    with pytest.raises(RequestError, match=r"and the schema is strict|oneOf constraints are not supported"):
        notices({**schema, "x-strict": True})


def test_strictness_of_a_part_is_its_own() -> None:
    strict, lax = {"type": "array", "uniqueItems": True, "x-strict": True}, {"type": "array", "uniqueItems": True}
    with pytest.raises(RequestError, match="uniqueItems at #/anyOf/1 cannot be kept"):
        notices({"anyOf": [{"type": "null"}, strict]})
    assert notices({"anyOf": [{"type": "null", "x-strict": True}, lax]})
    twice = {"anyOf": [{"$ref": "#/$defs/x"}, {"items": {"$ref": "#/$defs/x"}, "x-strict": True}], "$defs": {"x": lax}}
    with pytest.raises(RequestError, match="uniqueItems at #"):
        notices(twice)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "format": "colour"}, ["red"], [1]),
        ({"type": "object", "properties": None, "required": None}, [{}, {"x": 1}], [1]),
        (an_object(None), [{"a": 1}], [{"b": 1}]),
        ({"type": None, "enum": None, "items": None}, [1, "a", []], []),
        ({"const": None}, [None], [1]),
        (an_object({"type": "null", "required": True}), [{"a": None}], [{}]),
        ({"type": "string", "minLength": 1.0}, ["a"], [""]),
        ({"type": "string", "maxLength": 1e30}, ["a"], [1]),
        ({"type": "object", "unevaluatedProperties": False}, [{}], [{"a": 1}]),
        ({"type": "array", "prefixItems": [{}], "unevaluatedItems": False}, [[1]], [[1, 2]]),
        ({"type": "object", "propertyNames": {"type": "string", "format": "x"}}, [{"a": 1}], [1]),
        (
            {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}},
            [{}, {"a": None}, {"b": None}],
            [{"c": None}, {"a": 1}],
        ),
        ({"type": "object", "propertyNames": {"pattern": "^x-"}}, [{"x-1": 1}], [{"a": 1}]),
        (
            {
                "type": "array",
                "prefixItems": [{}],
                "items": False,
                "$schema": "http://json-schema.org/draft-07/schema#",
            },
            [[1]],
            [[1, 2]],
        ),
        ({"$schema": "nonsense", "type": "null"}, [None], [1]),
        ({"uniqueItems": False, "then": {}, "minContains": 1, "dependentRequired": {}}, [1], []),
        # Names that a pattern and a list share.
        (
            an_object({"type": "integer"}, patternProperties={"^a$": {"minimum": 3}}),
            [{}, {"a": 3}],
            [{"a": 1}, {"b": 1}],
        ),
        # References in all spellings.
        ({"$ref": "#/$defs/A[B] c", "$defs": {"A[B] c": {"type": "null"}}}, [None], [1]),
        ({"$ref": "#/definitions/x", "definitions": {"x": {"type": "null"}}}, [None], [1]),
        ({"$ref": "#x", "$defs": {"x": {"$anchor": "x", "type": "null"}}}, [None], [1]),
        ({"$id": "http://a/b", "$ref": "http://a/b#/$defs/x", "$defs": {"x": {"type": "null"}}}, [None], [1]),
        ({"$ref": "#/components/x", "components": {"x": {"type": "null", "format": "y"}}}, [None], [1]),
        # References back, with more beside them.
        (
            {"$ref": "#/$defs/list", "$defs": {"list": LIST}, "title": "x"},
            [{"v": 1}, {"v": 1, "next": {"v": 2, "next": {"v": 3}}}],
            [{"v": 1, "next": None}],
        ),
        (
            an_object({"$ref": "#", "type": "object", "title": "x", "nullable": True, "x": 1}),
            [{"a": {"a": {}}}],
            [{"a": 1}],
        ),
        # Ways that never end are none.
        (
            {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["a"]},
            [{"a": None}, {"a": {"a": None}}],
            [{"a": 1}],
        ),
        (
            an_object({"$ref": "#/$defs/x"}, **{"$defs": {"x": an_object({"$ref": "#/$defs/x"}, required=["a"])}}),
            [{}],
            [{"a": {}}],
        ),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_schemas_are_read_as_their_users_mean_them(schema: Schema, good: list[Any], bad: list[Any]) -> None:
    assert notices({**schema, "x-strict": True}) == []
    for value in good:
        assert writes(schema, json.dumps(value)), value
    for value in bad:
        assert not writes(schema, json.dumps(value)), value


def test_a_schema_is_not_changed() -> None:
    schema = an_object({"type": "string", "format": "x", "not": {}}, **{"$schema": "x"})
    before = json.dumps(schema)
    prepare_schema(schema)
    assert json.dumps(schema) == before


def test_a_schema_in_lark_is_found_where_it_is_one() -> None:
    grammar = 'start: "%json {" x /%json \\{/ // %json {\nx: %json {"type": "array",\n "uniqueItems": true}\n'
    assert list(validate_source(GrammarSource("grammar", grammar))) == ["uniqueItems at # is not kept"]
    assert writes(grammar, "%json {[1,1]%json {", "grammar")
