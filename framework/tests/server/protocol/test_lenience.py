"""What agents and clients of other servers send besides, and a server that is told to pass over what it does not know."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from server_fakes import FakeEngine

from dovetail.server.protocol import body
from dovetail.server.settings import ServerSettings
from dovetail.server.tools import provider_tools as hosted_tools

LENIENT = ServerSettings(ignore_unsupported_parameters=True)
FUNCTION = {"type": "function", "name": "shell", "parameters": {"type": "object", "properties": {}}}
CHAT_FUNCTION = {"type": "function", "function": {"name": "shell"}}
QUESTION = {"messages": [{"role": "user", "content": "Why?"}]}


@pytest.fixture(autouse=True)
def nothing_told_yet() -> None:
    body._log_ignored.cache_clear()
    hosted_tools._log_dropped.cache_clear()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("path", "asked", "names"),
    [
        ("/v1/chat/completions", {**QUESTION, "colour": "red"}, ["colour"]),
        ("/v1/chat/completions", {**QUESTION, "web_search_options": {}}, ["web_search_options"]),
        ("/v1/chat/completions", {"messages": [{**QUESTION["messages"][0], "mood": 1}]}, ["mood"]),
        ("/v1/chat/completions", {**QUESTION, "stream": True, "stream_options": {"b": 1}}, ["b"]),
        ("/v1/chat/completions", {**QUESTION, "tools": [{**CHAT_FUNCTION, "a": 1, "b": 2}], "c": 3}, ["a", "b", "c"]),
        ("/v1/completions", {"prompt": "a", "structured_outputs": {"regex": "a", "colour": 1}}, ["colour"]),
        ("/v1/completions", {"prompt": "a", "stop": "b", "x" * 500: 1}, ["x" * 60]),
        ("/v1/responses", {"input": "a", "tools": [{**FUNCTION, "defer_loading": True}]}, ["defer_loading"]),
        ("/v1/responses", {"input": [{"role": "user", "content": "a", "mood": 1}]}, ["mood"]),
        ("/v1/responses", {"input": "a", "text": {"tone": "low"}}, ["tone"]),
        ("/v1/messages", {**QUESTION, "max_tokens": 9, "thinking": {"type": "enabled", "deep": 1}}, ["deep"]),
        (
            "/v1/messages",
            {"max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "mood": 1}]}]},
            ["mood"],
        ),
        ("/tokenize", {"messages": [{**QUESTION["messages"][0], "mood": 1}]}, ["mood"]),
    ],
)
def test_what_is_unknown_is_refused_or_ignored_as_the_server_was_told(
    ask, caplog: pytest.LogCaptureFixture, path: str, asked: dict[str, Any], names: list[str]
) -> None:
    refused = ask("POST", path, json=asked)
    assert refused.status_code == 400, refused.text
    assert "unknown parameter" in refused.text or "not supported yet" in refused.text
    assert not warnings(caplog)
    for _ in range(2):
        taken = ask("POST", path, json=asked, settings=LENIENT)
        assert taken.status_code == 200, taken.text
    told = warnings(caplog)
    assert len(told) == len(names), "each is told once"
    assert all(any(f"parameter {name!r}"[:60] in line for line in told) for name in names)


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
def test_a_lenient_server_refuses_what_is_wrong(ask, asked: dict[str, Any], param: str) -> None:
    response = ask("POST", "/v1/chat/completions", json=asked, settings=LENIENT)
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
