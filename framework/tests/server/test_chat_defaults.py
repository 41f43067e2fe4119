"""What the server's settings say where requests are silent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_samples import KNOWS, TOOLS
from pydantic import ValidationError
from server_fakes import FakeEngine

from dovetail.server.settings import ServerSettings

MESSAGES = [{"role": "user", "content": "Hi"}]


def chat(ask: Any, settings: ServerSettings, **body: Any) -> Any:
    answer = ask("POST", "/v1/chat/completions", settings=settings, json={"messages": MESSAGES, **body})
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ({}, {"enable_thinking": False, "mood": "calm"}),
        ({"chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True, "mood": "calm"}),
        ({"thinking": True}, {"enable_thinking": True, "thinking": True, "mood": "calm"}),
        ({"reasoning_effort": "high"}, {"enable_thinking": False, "mood": "calm", "reasoning_effort": "high"}),
    ],
)
def test_variables_of_the_template_are_the_requests_first(
    ask: Any, engine: FakeEngine, body: dict[str, Any], seen: dict[str, Any]
) -> None:
    chat(ask, ServerSettings(default_chat_template_kwargs={"enable_thinking": False, "mood": "calm"}), **body)
    assert {name: value for name, value in engine.tokenizer.last.items() if name in {*seen, "thinking"}} == seen


def test_variables_reach_the_route_that_tokenizes(ask: Any, engine: FakeEngine) -> None:
    settings = ServerSettings(default_chat_template_kwargs={"mood": "calm"})
    assert ask("POST", "/tokenize", settings=settings, json={"messages": MESSAGES}).status_code == 200
    assert engine.tokenizer.last["mood"] == "calm"


def test_variables_that_requests_have_fields_for_are_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="messages, tools cannot be set here"):
        ServerSettings(default_chat_template_kwargs={"tools": [], "messages": [], "mood": 1})


@pytest.mark.parametrize(
    ("setting", "given", "as_ids"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
def test_tokens_as_ids(ask: Any, setting: bool, given: bool | None, as_ids: bool) -> None:
    settings = ServerSettings(return_tokens_as_token_ids=setting)
    answer = chat(ask, settings, logprobs=True, max_tokens=1, return_tokens_as_token_ids=given)
    (entry,) = answer.json()["choices"][0]["logprobs"]["content"]
    assert entry["token"] == ("token_id:97" if as_ids else "a")


@pytest.mark.parametrize("stream", [False, True])
def test_tools_that_may_not_be_called_can_be_shown(ask: Any, engine: FakeEngine, stream: bool) -> None:
    engine.tokenizer.chat_template = KNOWS
    chat(ask, ServerSettings(), tools=TOOLS, tool_choice="none")
    assert engine.tokenizer.last["tools"] is None
    engine.words = ('<call>{"name": "weather", "arguments": {}}</call>',)
    settings = ServerSettings(exclude_tools_when_tool_choice_none=False)
    answer = chat(ask, settings, tools=TOOLS, tool_choice="none", stream=stream)
    assert [tool["function"]["name"] for tool in engine.tokenizer.last["tools"]] == ["weather", "now"]
    # What reads like a call is text.
    assert "tool_calls" not in answer.text
    assert json.dumps(engine.words[0]) in answer.text
