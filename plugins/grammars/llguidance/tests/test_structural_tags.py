"""Structural tags in their newer form: where free text ends, which tokens spell a text, what is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from dovetail_grammars_llguidance.validation import validate_source

from dovetail.api import GrammarSource, RequestError

from .tokens import CALL, CLOSE, END, SEPARATOR, Follower, letters

Form = dict[str, Any]
ANY: Form = {"type": "any_text"}
ONE: Form = {"type": "json_schema", "json_schema": {"enum": [1, 2]}}
EMPTY: Form = {"type": "json_schema", "json_schema": {"type": "object", "additionalProperties": False}}
SUM: Form = {"type": "grammar", "grammar": 'start: N ("+" N)*\nN: /[0-9]+/'}


def const(text: str) -> Form:
    return {"type": "const_string", "value": text}


def regex(pattern: str) -> Form:
    return {"type": "regex", "pattern": pattern}


def seq(*elements: Form) -> Form:
    return {"type": "sequence", "elements": list(elements)}


def either(*elements: Form) -> Form:
    return {"type": "or", "elements": list(elements)}


def some(kind: str, content: Form, **more: int) -> Form:
    return {"type": kind, "content": content, **more}


def tag(begin: str, content: Form, end: str | list[str]) -> Form:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def triggered(triggers: list[str], *tags: Form, **more: Any) -> Form:
    return {"type": "triggered_tags", "triggers": triggers, "tags": list(tags), **more}


def separated(separator: str, *tags: Form, **more: Any) -> Form:
    return {"type": "tags_with_separator", "separator": separator, "tags": list(tags), **more}


def text_of(form: Form) -> str:
    return json.dumps({"type": "structural_tag", "format": form})


def writes(found: Follower, output: str) -> bool:
    """Whether an output can be written and ended; the follower is as before."""
    tokens = [*found.spelt(output), END]
    accepted = 0
    while accepted < len(tokens) and found.accept(tokens[accepted]):
        accepted += 1
    found.state.rollback(accepted)
    return accepted == len(tokens)


F, G = tag("<f>", ONE, "</f>"), tag("<g>", EMPTY, "</g>")


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (seq(tag("<t>", ANY, "</t>"), ONE), ["<t>a<b</t>1", "<t></t>2"], ["1", "<t>a</t>3", "<t>a</t>1</t>1"]),
        (seq(ANY, const("X"), ANY, const("Y"), ANY), ["XY", "aXbYc"], ["X", "aaY"]),
        (seq(ANY, either(const(""), const("b"))), ["", "b", "x"], []),
        (seq(ANY, some("optional", const("X")), some("optional", const("Y")), const("Z")), ["aXYZ", "Z"], ["XX"]),
        (seq(ANY, some("star", tag("<", ONE, ">")), const("Z")), ["aZ", "a<1><2>Z"], ["a<3>Z"]),
        (seq(ANY, some("repeat", F, min=1, max=2)), ["<f>1</f>", "a<f>1</f><f>2</f>"], ["a", "<f>1</f>" * 3]),
        (seq(ANY, EMPTY), ["{}", "abc {}"], ["abc", "a{}b"]),
        (seq(either(seq(const("1"), ANY), const("2"), ANY), const("x")), ["1abx", "2x", "x", "zx"], ["1abxx"]),
        (seq(some("optional", ANY), const("x")), ["x", "abx"], ["xx", "ab"]),
        (tag("<", seq(tag("(", ANY, ")"), ANY), ">"), ["<(a>b)c>"], ["<>", "<()"]),
        (tag("<", ANY, ["</a>", "</b>"]), ["<x</a>", "<x</b>"], ["<x</a></b>", "<x"]),
        (tag("<", ONE, ["</a>", "</b>"]), ["<1</a>", "<2</b>"], ["<1", "<1</c>"]),
        (tag("<", triggered(["<f"], F), ">"), ["<>", "<a<f>1</f>b>"], ["<a<f>3</f>>", "<a>b"]),
        (seq(ANY, triggered(["<f"], F), const("!")), ["!", "a<f>1</f>b!"], ["a", "<f>3</f>!"]),
        (triggered(["<", "<f"], F, G), ["<f>1</f>a<g>{}</g>"], ["<", "<h>"]),
        (triggered(["<f"], F, stop_after_first=True), ["", "a", "a<f>1</f>"], ["<f>1</f>a", "<f"]),
        (triggered(["<f"], F, at_least_one=True), ["<f>1</f>a<f>2</f>b"], ["", "a", "a<f>1</f>"]),
        (triggered(["<f"], F, at_least_one=True, stop_after_first=True), ["<f>1</f>"], ["", "<f>1</f>a"]),
        (triggered(["<f"], F, excludes=["b"]), ["a<f>1</f>a"], ["ab", "a<f>1</f>b"]),
        (separated(";", F, G), ["", "<f>1</f>", "<f>1</f>;<g>{}</g>"], ["<f>1</f>;", "<f>{}</f>", "<f>1</f><g>{}</g>"]),
        (separated(";", F, G, at_least_one=True, stop_after_first=True), ["<g>{}</g>"], ["", "<f>1</f>;<f>1</f>"]),
        ({"type": "any_text", "excludes": ["ab", "c"]}, ["", "ba"], ["ab", "xab", "c"]),
        (seq({"type": "any_text", "excludes": ["ab"]}, const("ab")), ["ab", "xaab"], ["abab"]),
        # Each of these would take what belongs to the next, were it a lexeme of its own.
        (tag("<n>", regex(".*"), ["</a>", "</b>"]), ["<n></a>", "<n></b>x</a>"], ["<n>"]),
        (seq(some("star", const("1")), either(const("1"), regex("[23]"))), ["1", "111", "13"], ["", "33"]),
        (seq(SUM, const("="), {"type": "grammar", "grammar": 'root ::= [0-9]+ "b"'}), ["1+2=33b"], ["1+=3b", "1=3"]),
        (regex("a/b\n|a b"), ["a/b\n", "a b"], ["ab"]),
        (regex(""), [""], ["a"]),
        (some("plus", const("ab")), ["ab", "abab"], ["", "aba"]),
        (some("repeat", const("ab"), min=2, max=-1), ["abab", "ababab"], ["ab"]),
        (some("repeat", F, min=0, max=0), [""], ["<f>1</f>"]),
        (const('a\x7f"\\\u2028é/\n'), ['a\x7f"\\\u2028é/\n'], ["a"]),
    ],
    ids=lambda value: json.dumps(value)[:80] if isinstance(value, dict) else "",
)
def test_formats(form: Form, good: list[str], bad: list[str]) -> None:
    validate_source(GrammarSource("structural_tag", text_of(form)))
    found = Follower("structural_tag", text_of(form))
    assert [text for text in good if not writes(found, text)] == []
    assert [text for text in bad if writes(found, text)] == []


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (seq(tag(CALL, ANY, CLOSE), regex(r"\s*"), EMPTY), [[CALL, "a", CLOSE, "Ċ", "{", "}"]], [[CALL, CLOSE]]),
        (
            triggered(
                [CALL], tag(f"{CALL}f:0{SEPARATOR}", ONE, f"\n{CLOSE}"), tag(f"{CALL}g:0{SEPARATOR}", ONE, CLOSE)
            ),
            [
                ["a", CALL, "f", ":", "0", SEPARATOR, "1", "Ċ", CLOSE, "b"],
                [CALL, "g", ":", "0", SEPARATOR, "2", CLOSE],
            ],
            [[CALL, "f", ":", "0", SEPARATOR, "1", CLOSE], [CALL], ["a", SEPARATOR]],
        ),
        # Only the text right before the token is a part of the trigger.
        (triggered([f"`{CALL}"], tag(f"`{CALL}", ONE, CLOSE)), [["`", "a", "`", CALL, "1", CLOSE, "`"]], [["a", CALL]]),
        # A trigger that ends within a token's name is that token.
        (triggered(["<ca"], tag(f"{CALL}a", ONE, CLOSE)), [["<", "c", "a", CALL, "a", "1", CLOSE]], [[CALL, "b"]]),
        (tag("<", ANY, [">", CLOSE]), [["<", "a", ">"], ["<", "a", CLOSE]], [["<", "a", CALL]]),
        (seq(const(SEPARATOR), const(SEPARATOR)), [[SEPARATOR, SEPARATOR]], [list(SEPARATOR)]),
    ],
    ids=lambda value: json.dumps(value)[:80] if isinstance(value, dict) else "",
)
def test_special_tokens_amid_texts(form: Form, good: list[list[str]], bad: list[list[str]]) -> None:
    found = Follower("structural_tag", text_of(form))
    for tokens in good:
        assert found.accept(*tokens, END), tokens
        found.state.rollback(len(tokens) + 1)
    for tokens in bad:
        assert not found.accept(*tokens, END), tokens
        found = Follower("structural_tag", text_of(form))


def test_a_token_whose_name_is_a_character_is_no_special_one() -> None:
    assert letters().token_to_id("ÿ") is not None
    assert writes(Follower("structural_tag", text_of(const("ÿ"))), "ÿ")


@pytest.mark.parametrize("schema", [EMPTY["json_schema"], {}, True], ids=json.dumps)
def test_white_space_within_json_comes_to_an_end(schema: Any) -> None:
    found = Follower("structural_tag", text_of(tag("<", {**EMPTY, "json_schema": schema}, ">")))
    assert found.accept("<", "{", "Ċ", *["Ġ"] * 40)
    assert not found.allowed() & {"Ċ", "Ġ", "ĉ", "č"}


def test_a_schema_may_say_how_much_white_space_there_is() -> None:
    free = {**EMPTY, "json_schema": {**EMPTY["json_schema"], "x-guidance": {"whitespace_flexible": False}}}
    found = Follower("structural_tag", text_of(tag("<", free, ">")))
    assert found.accept("<", "{")
    assert found.allowed() == {"}"}


DEEP = json.loads('{"type": "sequence", "elements": [' * 34 + json.dumps(ANY) + "]}" * 34)


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (None, "format: Input should be a valid dictionary"),
        ({}, "format: wanted an object with type, one of const_string, json_schema,"),
        ({"type": "foo"}, "format: wanted the type to be one of const_string"),
        ({"type": "any_tokens"}, "format: any_tokens is not supported: write a special token as its text"),
        ({"type": "dispatch", "rules": []}, "format: dispatch is not supported: write triggered_tags"),
        ({"type": "qwen_xml_parameter"}, "format: qwen_xml_parameter is not supported: write a sequence with a tag"),
        (seq(), "format.elements: List should have at least 1 item"),
        (seq(const("a"), {"type": "tag", "begin": "<", "end": ">"}), "format.elements[1].content: Field required"),
        (tag("<", {**const("a"), "text": ""}, ">"), "format.content.text: Extra inputs are not permitted"),
        (tag("<", ANY, []), "format.end: "),
        ({**ONE, "style": "glm_xml"}, "format.style: Input should be 'json'"),
        ({**ONE, "any_order": True}, "format.any_order: Input should be False"),
        ({"type": "json_schema", "json_schema": 1}, "format.json_schema: Input should be a valid dictionary"),
        ({"type": "json_schema", "json_schema": False}, "the schema false has no values"),
        ({"type": "json_schema", "json_schema": {"x-guidance": 1}}, "x-guidance: wanted an object, found 1"),
        ({"type": "json_schema", "json_schema": {"enum": []}}, "Unsatisfiable schema: anyOf is empty"),
        (
            {"type": "json_schema", "json_schema": {"not": {}, "x-strict": True}},
            "used: not at # cannot be kept, and the schema is strict",
        ),
        (regex("a("), "used: at character 2: unclosed group"),
        (seq(regex("a" * 200_000), regex("a" * 200_000)), "more than 262,144 bytes"),
        ({"type": "grammar", "grammar": "start: foo"}, 'unknown name: "foo"'),
        ({"type": "grammar", "grammar": "root ::= foo"}, "as GBNF: Rule 'foo' not found"),
        (triggered([], F), "format.triggers: List should have at least 1 item"),
        (triggered(["<f"]), "format.tags: List should have at least 1 item"),
        (triggered([""], F), "format.triggers[0]: String should have at least 1 character"),
        (triggered(["<f"], F, G), "a tag begins with '<g>', which begins with none of the triggers"),
        (triggered(["<f"], F, at_least_one=1), "format.at_least_one: Input should be a valid boolean"),
        (separated(","), "format.tags: List should have at least 1 item"),
        (separated(",", const("a")), "format.tags[0].type: Input should be 'tag'"),
        (some("repeat", F, min=3, max=2), "a repeat has min 3 and max 2"),
        (some("star", ANY), "any text, which ends where something else begins, is the last part of what is repeated"),
        (seq(ANY, some("plus", ANY)), "is the last part of what is repeated"),
        (separated(",", tag("<", ANY, "")), "give a tag with any text an end"),
        (seq(ANY, regex("a")), "any text is followed by a regex, so that where it ends cannot be told; put a const"),
        (seq(ANY, SUM), "any text is followed by a grammar"),
        (seq(ANY, ONE), "any text is followed by a JSON schema whose type is neither object nor array"),
        (const("\ud800"), "half of a surrogate pair"),
        (DEEP, "its formats nest more than 32 deep"),
        (json.loads('{"type": "star", "content": ' * 300 + json.dumps(ANY) + "}" * 300), "… nests too deep"),
        (either(*[const("a")] * 1100), "it has more than 1,024 formats"),
        (
            seq(*[part for i in range(300) for part in ({**ANY, "excludes": [str(i)]}, some("optional", const("a")))]),
            "as a grammar it has more than 4,194,304 characters",
        ),
    ],
    ids=lambda value: json.dumps(value)[:80] if isinstance(value, dict) else "",
)
def test_what_is_refused(form: Any, told: str) -> None:
    with pytest.raises(RequestError) as caught:
        validate_source(GrammarSource("structural_tag", text_of(form)))
    assert told in str(caught.value)
    assert len(str(caught.value)) < 600


def test_schemas_of_any_depth_are_taken_or_refused() -> None:
    for depth in [*range(1, 900, 100), *range(900, 1000)]:
        schema = '{"items": ' * depth + "{}" + "}" * depth
        text = f'{{"format": {{"type": "json_schema", "json_schema": {schema}}}}}'
        try:
            validate_source(GrammarSource("structural_tag", text))
        except RequestError:
            assert depth > 100


def test_both_forms_at_once_are_refused() -> None:
    both = {"format": ANY, "structures": [{"begin": "<", "schema": {}, "end": ">"}], "triggers": ["<"]}
    with pytest.raises(RequestError, match="structures: Extra inputs are not permitted"):
        validate_source(GrammarSource("structural_tag", json.dumps(both)))


def test_many_tools_are_compiled_at_once() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    tags = [tag(f"<f{i}>", {"type": "json_schema", "json_schema": schema}, "</f>") for i in range(300)]
    started = time.monotonic()
    found = Follower("structural_tag", text_of(triggered(["<f"], *tags)))
    assert time.monotonic() - started < 20
    assert writes(found, 'a<f299>{"x": 1}</f>b')
    assert not writes(found, 'a<f300>{"x": 1}</f>b')
