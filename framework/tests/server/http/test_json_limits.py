"""Parts of a request that are too large are refused by name, and before they cost anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from server_fakes import FakeEngine

from dovetail.server.http.errors import ApiError
from dovetail.server.http.json_limits import (
    MAX_BYTES,
    MAX_COMPILED_BYTES,
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_ENTRIES,
    MAX_TEXTS,
    MAX_VALUES,
    check_raw_limits,
    value_limit,
)
from dovetail.server.settings import ServerSettings

JSON = {"content-type": "application/json"}
MESSAGE = {"role": "user", "content": "a"}


def refused(answer: Any, param: str | None, words: str) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), answer.text[:500]
    assert words in error["message"]


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels - 1):
        found = {"a": found}
    return found


def test_depth(chat, engine: FakeEngine) -> None:
    assert chat(documents=[nested(MAX_DEPTH - 2)]).status_code == 200
    for levels in (MAX_DEPTH - 1, 500, 900):
        refused(chat(documents=[nested(levels)]), None, "nested too deeply")
    flat = [MESSAGE] * (2 * MAX_DEPTH)
    assert chat(messages=flat).status_code != 500
    engine.asked.clear()
    # A bracket in a text is no level.
    assert chat(messages=[{"role": "user", "content": "[{" * MAX_DEPTH}]).status_code == 200
    assert engine.asked


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("messages", MESSAGE),
        ("stop", "x"),
        ("stop_token_ids", 1),
        ("bad_words", "x"),
        ("documents", {}),
        ("tools", {"type": "function", "function": {"name": "a"}}),
    ],
)
def test_counts(chat, name: str, entry: Any) -> None:
    refused(
        chat(**{name: [entry] * (MAX_ENTRIES[name] + 1)}),
        name,
        f"{MAX_ENTRIES[name] + 1} entries, more than the {MAX_ENTRIES[name]}",
    )


def test_count_of_biases(chat) -> None:
    most = MAX_ENTRIES["logit_bias"]
    refused(chat(logit_bias={str(i): 1 for i in range(most + 1)}), "logit_bias", f"more than the {most}")


def test_size_of_schemas(chat) -> None:
    large = {"type": "object", "description": "x" * MAX_COMPILED_BYTES}
    for name, value in {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": large}},
        "structured_outputs": {"json": large},
        "guided_json": json.dumps(large),
        "guided_regex": "x" * (MAX_COMPILED_BYTES + 1),
        "tools": [{"type": "function", "function": {"name": "a", "parameters": large}}],
    }.items():
        refused(chat(**{name: value}), name, f"more than the {MAX_COMPILED_BYTES}")


def test_number_of_prompts_is_looked_at_before_they_are_encoded(ask, engine: FakeEngine) -> None:
    engine.tokenizer.encode = None  # type: ignore[assignment,method-assign]
    answer = ask("POST", "/v1/completions", json={"prompt": ["a"] * 5}, settings=ServerSettings(max_request_choices=4))
    refused(answer, "prompt", "5 prompts, more than 4")


def test_texts_that_cannot_fit_are_not_encoded(chat, complete, engine: FakeEngine) -> None:
    text = "x" * (engine.max_model_len + 1)
    encode, engine.tokenizer.encode = engine.tokenizer.encode, None  # type: ignore[assignment,method-assign]
    for answer, param in (
        (complete(prompt=[text]), "prompt"),
        (chat(messages=[{**MESSAGE, "content": text}]), "messages"),
    ):
        refused(answer, param, "the model's context is 512")
        assert answer.json()["error"]["code"] == "context_length_exceeded"
    engine.tokenizer.encode = encode  # type: ignore[method-assign]
    assert complete(prompt=text, truncate_prompt_tokens=5).status_code == 200


@pytest.mark.parametrize(
    ("most", "build", "words"),
    [
        (MAX_VALUES, lambda n: b"[%s1]" % (b"1," * (n - 1)), "values, more than"),
        (MAX_CONTAINERS, lambda n: b"[%s{}]" % (b"{}," * (n - 2)), "objects and lists, more than"),
        (MAX_TEXTS, lambda n: b'[%s"a"]' % (b'"a",' * (n - 1)), "texts, more than"),
        (MAX_DIGITS, lambda n: b'{"seed": %s}' % (b"1" * n), "more than 256 digits"),
    ],
    ids=["values", "containers", "texts", "digits"],
)
def test_counts_of_a_body(most: int, build: Any, words: str) -> None:
    check_raw_limits(build(most))
    with pytest.raises(ApiError, match=words) as caught:
        check_raw_limits(build(most + 1))
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize("text", [b",", b"[", b"{", b'\\",', b"\\\\", b"1"])
def test_what_is_in_texts_is_not_counted(text: bytes) -> None:
    check_raw_limits(b'{"prompt": "%s", "n": 1}' % (text * (MAX_VALUES + 1)))


def test_a_long_context_may_have_as_many_token_ids() -> None:
    assert value_limit(512) == MAX_VALUES
    assert value_limit(1_000_000) == 2_000_000
    check_raw_limits(b"[%s1]" % (b"1," * 1_000_000), value_limit(1_000_000))


@pytest.mark.parametrize("name", ["stop", "bad_words"])
def test_bytes_of_texts(chat, name: str) -> None:
    most = MAX_BYTES[name]
    half = "é" * (most // 4)
    assert chat(**{name: [half, half]}).status_code == 200
    refused(chat(**{name: [half, half, "x"]}), name, f"{most + 1} bytes, more than the {most}")


def test_texts_to_cut_are_not_of_any_length(complete, ask, engine: FakeEngine) -> None:
    most = 1 << 20
    assert complete(prompt="x" * most, truncate_prompt_tokens=5).status_code == 200
    answer = complete(prompt="x" * (most + 1), truncate_prompt_tokens=5)
    refused(answer, "prompt", f"{most + 1} bytes, and the server tokenizes at most {most}")
    refused(ask("POST", "/tokenize", json={"prompt": "x" * (most + 1)}), "prompt", "tokenizes at most")
    engine.max_model_len = most
    assert ask("POST", "/tokenize", json={"prompt": "x" * (most + 1)}).status_code == 200


def test_number_of_unknown_fields(complete) -> None:
    refused(complete(**{f"k{i}": 1 for i in range(65_537)}), None, "more than 65536 unknown fields")


def test_number_of_logprobs_of_prompts(complete) -> None:
    answer = complete(prompt="x" * 400, n=1000, logprobs=5, echo=True)
    refused(answer, "prompt_logprobs", "2406000 logprobs of prompts were asked for")
