"""What agents and clients of other servers send besides: passed over and named, or refused where the server was told to be strict."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from server_fakes import FakeEngine

from dovetail.kernel.plan_parts import PoolingPlan
from dovetail.server.protocol import extra_fields
from dovetail.server.settings import ServerSettings
from dovetail.server.tools import provider_tools as hosted_tools

STRICT = ServerSettings(strict_parameters=True)
HEADER = "x-dovetail-ignored-parameters"
FUNCTION = {"type": "function", "name": "shell", "parameters": {"type": "object", "properties": {}}}
CHAT_FUNCTION = {"type": "function", "function": {"name": "shell"}}
QUESTION = {"messages": [{"role": "user", "content": "Why?"}]}


@pytest.fixture(autouse=True)
def nothing_told_yet() -> None:
    extra_fields._logged.clear()
    hosted_tools._log_dropped.cache_clear()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


EXTRA: list[tuple[str, dict[str, Any], list[str]]] = [
    ("/v1/chat/completions", {**QUESTION, "colour": "red"}, ["colour"]),
    ("/v1/chat/completions", {"messages": [{**QUESTION["messages"][0], "mood": 1}]}, ["messages[].mood"]),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}] * 2}] * 2},
        ["messages[].content[].cache_control"],
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "a", "id": 1}, "extra_content": {}}],
                    "id": 1,
                },
                {"role": "tool", "tool_call_id": "1", "content": "b", "usage": {}},
            ]
        },
        [
            "messages[].id",
            "messages[].tool_calls[].extra_content",
            "messages[].tool_calls[].function.id",
            "messages[].usage",
        ],
    ),
    ("/v1/chat/completions", {**QUESTION, "stream": True, "stream_options": {"b": 1}}, ["stream_options.b"]),
    (
        "/v1/chat/completions",
        {**QUESTION, "tools": [{**CHAT_FUNCTION, "a": 1, "b": 2}], "c": 3},
        ["c", "tools[].a", "tools[].b"],
    ),
    (
        "/v1/chat/completions",
        {
            **QUESTION,
            "tools": [CHAT_FUNCTION],
            "tool_choice": {"type": "function", "function": {"name": "shell", "x": 1}},
        },
        ["tool_choice.function.x"],
    ),
    (
        "/v1/completions",
        {"prompt": "a", "structured_outputs": {"regex": "a", "colour": 1}},
        ["structured_outputs.colour"],
    ),
    ("/v1/completions", {"prompt": "a", "stop": "b", "x" * 500: 1}, ["x" * 64 + "..."]),
    ("/v1/completions", {"prompt": "a", "é\r\nset-cookie: a=b": 1}, ["???set-cookie:?a?b"]),
    ("/v1/responses", {"input": "a", "mood": 1}, ["mood"]),
    ("/v1/responses", {"input": [{"role": "user", "content": "a", "mood": 1}]}, ["input[].mood"]),
    (
        "/v1/responses",
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a", "mood": 1}]}]},
        ["input[].content[].mood"],
    ),
    ("/v1/responses", {"input": "a", "text": {"tone": "low"}}, ["text.tone"]),
    ("/v1/responses", {"input": "a", "tools": [{**FUNCTION, "mood": 1}]}, ["tools[].mood"]),
    ("/v1/messages", {**QUESTION, "max_tokens": 9, "thinking": {"type": "enabled", "deep": 1}}, ["thinking.deep"]),
    (
        "/v1/messages",
        {"max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "mood": 1}]}]},
        ["messages[].content[].mood"],
    ),
    ("/v1/messages/count_tokens", {**QUESTION, "mood": 1}, ["mood"]),
    ("/tokenize", {"messages": [{**QUESTION["messages"][0], "mood": 1}], "colour": 1}, ["colour", "messages[].mood"]),
    ("/tokenize", {"prompt": "a", "mood": 1}, ["mood"]),
    ("/detokenize", {"tokens": [97], "mood": 1}, ["mood"]),
    ("/invocations", {"prompt": "a", "mood": 1}, ["mood"]),
]
POOLED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("/v1/embeddings", {"input": "a", "input_type": "query"}, ["input_type"]),
    ("/pooling", {"input": "a", "mood": 1}, ["mood"]),
    ("/score", {"text_1": "a", "text_2": "b", "mood": 1}, ["mood"]),
    ("/rerank", {"query": "a", "documents": [{"text": "b"}], "max_chunks_per_doc": 1}, ["max_chunks_per_doc"]),
]


@pytest.mark.parametrize(("path", "asked", "names"), EXTRA + POOLED)
def test_what_is_unknown_is_passed_over_and_named(
    ask, engine: FakeEngine, caplog: pytest.LogCaptureFixture, path: str, asked: dict[str, Any], names: list[str]
) -> None:
    if (path, asked, names) in POOLED:
        engine.plan.tasks, engine.plan.pooling = ("embed",), PoolingPlan(type="last", normalize=True, reason="")
    for _ in range(2):
        taken = ask("POST", path, json=asked)
        assert taken.status_code == 200, taken.text
        assert taken.headers[HEADER] == ", ".join(names)
    told = warnings(caplog)
    assert len(told) == len(names), "each is told once"
    assert all(any(f"parameter {name} " in line for line in told) for name in names)
    refused = ask("POST", path, json=asked, settings=STRICT)
    assert refused.status_code == 400
    assert "unknown parameter" in refused.text
    assert HEADER not in refused.headers


def test_what_is_known_is_not_named(ask) -> None:
    notes = {"annotations": [], "provider_specific_fields": {}, "reasoning_details": [], "name": None, "nothing": None}
    asked = {"messages": [{"role": "assistant", "content": "a", **notes}], "user": "me", "modalities": ["text"]}
    for settings in (None, STRICT):
        response = ask("POST", "/v1/chat/completions", json=asked, settings=settings)
        assert response.status_code == 200, response.text
        assert HEADER not in response.headers


def test_the_header_and_the_log_are_bounded(ask, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        names = {f"{number}{'x' * 50}{i}": 1 for i in range(100)}
        response = ask("POST", "/v1/completions", json={"prompt": "a", **names})
        assert response.status_code == 200
        assert 1000 < len(response.headers[HEADER]) <= 2000
    assert len(warnings(caplog)) == extra_fields.MAX_LOGGED


def test_errors_name_what_was_ignored_too(ask) -> None:
    response = ask("POST", "/v1/completions", json={"prompt": "a", "colour": 1, "model": "other"})
    assert (response.status_code, response.headers[HEADER]) == (404, "colour")


@pytest.mark.parametrize(
    ("path", "asked", "name"),
    [
        ("/v1/chat/completions", {**QUESTION, "web_search_options": {}}, "web_search_options"),
        (
            "/v1/chat/completions",
            {"messages": [{**QUESTION["messages"][0], "audio": {"id": "a"}}]},
            "messages[0].audio",
        ),
        ("/v1/responses", {"input": "a", "tools": [{**FUNCTION, "defer_loading": True}]}, "tools[0].defer_loading"),
        ("/v1/responses", {"input": "a", "reasoning": {"context": "all"}}, "reasoning.context"),
        (
            "/v1/completions",
            {"prompt": "a", "structured_outputs": {"regex": "a", "whitespace_pattern": "b"}},
            "structured_outputs.whitespace_pattern",
        ),
    ],
)
def test_what_is_known_and_cannot_be_had_is_refused_or_ignored_as_the_server_was_told(
    ask, path: str, asked: dict[str, Any], name: str
) -> None:
    refused = ask("POST", path, json=asked)
    assert refused.status_code == 400
    assert (refused.json()["error"]["param"], refused.json()["error"]["code"]) == (name, "unsupported_parameter")
    for strict in (False, True):
        settings = ServerSettings(ignore_unsupported_parameters=True, strict_parameters=strict)
        taken = ask("POST", path, json=asked, settings=settings)
        assert taken.status_code == 200, taken.text
        assert taken.headers[HEADER] == name.replace("[0]", "[]")


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({**QUESTION, "temperature": "hot", "colour": "red"}, "temperature"),
        ({"messages": [], "colour": "red"}, "messages"),
        ({**QUESTION, "tools": [{**CHAT_FUNCTION, "colour": 1, "type": "method"}]}, "tools[0].type"),
        (
            {**QUESTION, "tools": [CHAT_FUNCTION], "tool_choice": {"type": "function", "name": "shell"}},
            "tool_choice.function",
        ),
    ],
)
def test_what_is_wrong_is_refused(ask, asked: dict[str, Any], param: str) -> None:
    response = ask("POST", "/v1/chat/completions", json=asked)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "hints",
    [
        {"verbosity": "low", "prompt_cache_retention": "24h", "prediction": {"type": "content", "content": "Paris"}},
        {"guided_decoding_backend": "xgrammar", "guided_whitespace_pattern": None},
        {
            "structured_outputs": {
                "regex": "a",
                "json": None,
                "disable_any_whitespace": False,
                "whitespace_pattern": None,
            }
        },
    ],
)
def test_hints_are_taken(chat, engine: FakeEngine, hints: dict[str, Any]) -> None:
    response = chat(**hints)
    assert response.status_code == 200, response.text
    assert engine.tokenizer.last.get("verbosity") == hints.get("verbosity")


def test_what_an_agent_asks_of_responses_is_taken(ask, engine: FakeEngine) -> None:
    asked = {
        "input": "Why?",
        "store": False,
        "tools": [FUNCTION],
        "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
        "reasoning": {"effort": "high", "summary": "detailed"},
        "text": {"verbosity": "low"},
        "service_tier": "priority",
        "client_metadata": {"session": "1"},
        "prompt_cache_key": "k",
    }
    response = ask("POST", "/v1/responses", json=asked)
    assert response.status_code == 200, response.text
    shown = response.json()
    assert (shown["text"]["verbosity"], shown["reasoning"]["summary"]) == ("low", "detailed")
    assert engine.tokenizer.last["verbosity"] == "low"
    assert engine.tokenizer.last["reasoning_effort"] == "high"


def test_tools_of_a_provider_are_left_out_beside_functions(ask, caplog: pytest.LogCaptureFixture) -> None:
    asked = {"input": "Why?", "tools": [{"type": "web_search", "external_web_access": False}, FUNCTION]}
    for _ in range(2):
        response = ask("POST", "/v1/responses", json=asked)
        assert response.status_code == 200, response.text
    assert [tool["name"] for tool in response.json()["tools"]] == ["shell"]
    assert len(warnings(caplog)) == 1
    anthropic = {
        **QUESTION,
        "max_tokens": 9,
        "tools": [
            {"name": "shell", "input_schema": {"type": "object"}},
            {"type": "web_search_20250305", "name": "web"},
        ],
    }
    assert ask("POST", "/v1/messages", json=anthropic).status_code == 200
    assert (
        ask("POST", "/v1/messages/count_tokens", json={k: anthropic[k] for k in ("messages", "tools")}).status_code
        == 200
    )


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "web_search"}],
        [FUNCTION, {"type": "file_search", "vector_store_ids": ["v"]}],
        [FUNCTION, {"type": "mcp", "server_label": "l", "server_url": "https://example.com"}],
    ],
)
def test_tools_that_a_request_is_about_are_refused(ask, tools: list[dict[str, Any]]) -> None:
    response = ask("POST", "/v1/responses", json={"input": "Why?", "tools": tools})
    assert response.status_code == 400
    assert "no tools of its own" in response.json()["error"]["message"]


def test_the_choice_of_a_tool_that_was_left_out_is_refused(ask) -> None:
    asked = {"input": "a", "tools": [FUNCTION, {"type": "web_search"}], "tool_choice": {"type": "web_search"}}
    response = ask("POST", "/v1/responses", json=asked)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tool_choice.type"
