"""What clients of other servers write for nothing, and in other words: null everywhere, empty lists, -1 for no limit, whole numbers as fractions."""

from __future__ import annotations

from typing import Any

import pytest
from server_fakes import FakeEngine

from dovetail.kernel.plan_parts import PoolingPlan
from dovetail.server.messages.protocol import MessagesRequest
from dovetail.server.pooling.protocol import EmbeddingRequest
from dovetail.server.protocol.requests import ChatCompletionRequest, ChatMessage, CompletionRequest
from dovetail.server.responses.protocol import ResponsesRequest

QUESTION = [{"role": "user", "content": "Why?"}]
TOOL = {"type": "function", "function": {"name": "look"}}
BODIES: list[tuple[str, type[Any], dict[str, Any]]] = [
    ("/v1/chat/completions", ChatCompletionRequest, {"messages": QUESTION}),
    ("/v1/completions", CompletionRequest, {"prompt": "a"}),
    ("/v1/responses", ResponsesRequest, {"input": "a"}),
    ("/v1/messages", MessagesRequest, {"messages": QUESTION, "max_tokens": 5}),
]


@pytest.mark.parametrize(("path", "model", "body"), BODIES)
def test_null_is_nothing_in_every_field(ask, path: str, model: type[Any], body: dict[str, Any]) -> None:
    nulls = {field.alias or name: None for name, field in model.model_fields.items()}
    response = ask("POST", path, json={**nulls, "colour": None, **body})
    assert response.status_code == 200, response.text


def test_null_is_nothing_in_messages_and_embeddings(ask, chat, engine: FakeEngine) -> None:
    nulls = dict.fromkeys(ChatMessage.model_fields)
    for role in ("system", "developer", "user", "assistant", "tool"):
        assert chat(messages=[{**nulls, "role": role}, *QUESTION]).status_code == 200
    engine.plan.tasks, engine.plan.pooling = ("embed",), PoolingPlan(type="last", normalize=True, reason="")
    body = {**dict.fromkeys(EmbeddingRequest.model_fields), "input": "a"}
    assert ask("POST", "/v1/embeddings", json=body).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"stop": ""},
        {"stop": []},
        {"stop": [""]},
        {"stop": {"Single": ""}},
        {"stop": {"Multi": ["", ""]}},
        {"logit_bias": {}},
        {"bad_words": []},
        {"bad_words": [""]},
        {"stop_token_ids": []},
        {"metadata": {}},
        {"stream_options": {"include_usage": True}},
        {"stream_options": {}, "stream": False},
        {"user": 5},
        {"user": ""},
        {"user": {"id": 5}},
        {"response_format": {"type": "text"}},
        {"n": 1.0, "max_tokens": 5.0, "seed": 1e10, "top_k": 20.0},
        {"top_k": -1, "top_p": 1, "min_p": 0, "temperature": 1},
        {"top_k": 10**30},
        {"seed": -1},
        {"seed": 2**63 - 1},
        {"max_tokens": -1},
        {"frequency_penalty": 0, "presence_penalty": -2.0, "repetition_penalty": 1},
        {"best_of": 1, "n": 1},
        {"model": ""},
        {"stream": False},
        {"priority": 0},
        {"service_tier": "auto"},
        {"keep_alive": "5m", "options": {"num_ctx": 4096}, "think": False, "mirostat": 0, "typical_p": 1},
    ],
    ids=str,
)
def test_what_asks_for_nothing_is_taken(chat, complete, body: dict[str, Any]) -> None:
    for send in (chat, complete):
        response = send(**body)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "body",
    [
        {"tools": []},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
        {"tool_choice": {"type": "auto"}},
        {"tool_choice": {"type": "none"}},
        {"functions": [], "function_call": "auto"},
        {"functions": [], "tools": []},
        {"tools": [TOOL], "tool_choice": "any"},
        {"tools": [TOOL], "tool_choice": {"type": "required"}},
        {
            "tools": [
                {**TOOL, "function": {**TOOL["function"], "parameters": None, "description": None, "strict": None}}
            ]
        },
        {"top_logprobs": 0, "logprobs": False},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"max_completion_tokens": -1},
        {"modalities": ["text"], "audio": None, "prediction": None, "store": False},
        {"logprobs": None, "top_logprobs": None},
        {"documents": []},
    ],
    ids=str,
)
def test_what_asks_for_nothing_of_the_chat_is_taken(chat, body: dict[str, Any]) -> None:
    response = chat(**body)
    assert response.status_code == 200, response.text


def test_no_limit_is_what_the_context_holds(chat, complete, ask, engine: FakeEngine) -> None:
    for send in (chat, complete):
        assert send(max_tokens=-1).status_code == 200
    assert ask("POST", "/v1/responses", json={"input": "a", "max_output_tokens": -1}).status_code == 200
    assert [params.max_tokens for _, params in engine.asked] == [None] * 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": "0.7"}, "temperature"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"n": "1"}, "n"),
        ({"stream": "true"}, "stream"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"seed": 0.5}, "seed"),
        ({"stop": [None]}, "stop"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "look"}}}, "tool_choice"),
        ({"tool_choice": {"type": "sometimes"}}, "tool_choice"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ],
    ids=str,
)
def test_what_is_a_mistake_is_refused(chat, body: dict[str, Any], param: str) -> None:
    response = chat(**body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({"role": "user", "content": None}, ""),
        ({"role": "user", "content": []}, ""),
        ({"role": "user", "content": [""]}, ""),
        ({"role": "user", "content": [{"type": "text", "text": ""}]}, ""),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, ""),
        ({"role": "user", "content": "a", "name": "Ann B. é"}, "a"),
        ({"role": "user", "content": ["a"]}, "a"),
        ({"role": "user", "content": [{"text": "a"}]}, "a"),
        ({"role": "user", "content": [{"type": None, "text": "a"}]}, "a"),
        ({"role": "user", "content": [{"type": "input_text", "text": "a"}]}, "a"),
        ({"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]}, "a"),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "a"}]}, "a"),
        ({"role": "assistant", "content": None, "refusal": "a"}, "a"),
        ({"role": "assistant", "content": "a", "tool_calls": [], "function_call": None, "audio": None}, "a"),
        ({"role": "tool", "content": None, "tool_call_id": "1"}, ""),
        ({"role": "tool", "content": "a"}, "a"),
        ({"role": "tool", "content": [{"type": "text", "text": "a"}], "name": "look", "tool_call_id": "1"}, "a"),
        ({"role": "function", "content": "a", "name": "look"}, "a"),
        ({"role": "developer", "content": "a"}, "a"),
    ],
    ids=str,
)
def test_messages_of_every_client(chat, engine: FakeEngine, message: dict[str, Any], shown: str) -> None:
    # One that shows tools, and calls.
    engine.tokenizer.chat_template = (
        "{{ tools }}{% for m in messages %}{{ m.role }} {{ m.content }} {{ m.tool_calls }}{% endfor %}"
    )
    response = chat(messages=[message, *QUESTION])
    assert response.status_code == 200, response.text
    assert engine.tokenizer.last["messages"][0]["content"] == shown


def test_several_parts_go_to_the_template_as_they_are(chat, engine: FakeEngine) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c"]
    for role in ("system", "user", "assistant", "tool"):
        engine.tokenizer.chat_template = "{{ tools }}{{ messages }}"
        assert chat(messages=[{"role": role, "content": parts}]).status_code == 200
        sent = engine.tokenizer.last["messages"][0]["content"]
        assert sent == [{"type": "text", "text": text} for text in "abc"]


def test_parts_are_text_where_the_server_writes_itself(chat, engine: FakeEngine) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    called = {"tool_calls": [{"id": "1", "function": {"name": "look", "arguments": '{"x'}}]}
    turns = [
        {"role": "system", "content": parts},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": parts, **called},
        {"role": "tool", "content": parts, "tool_call_id": "1"},
    ]
    engine.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}"
    assert chat(messages=turns, tools=[TOOL]).status_code == 200
    sent = engine.tokenizer.last["messages"]
    assert sent[0]["content"].startswith("a\nb\n\nYou may call functions")
    assert sent[-2]["content"].startswith('a\nb\n[{"name": "look", "arguments": {"x')
    assert sent[-1]["content"] == "Result of the call of look: a\nb"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('{"a": "qu', '{"a": "qu'),
        ({"a": "ü"}, '{"a": "ü"}'),
        (["a"], '["a"]'),
        ("['a']", "['a']"),
        (5, "5"),
        (None, "{}"),
        ("", "{}"),
    ],
    ids=str,
)
def test_calls_of_earlier_turns_are_told_whatever_their_arguments_are(
    chat, ask, engine: FakeEngine, arguments: Any, shown: str
) -> None:
    engine.tokenizer.chat_template = "{{ tools }}{{ messages }}"

    def told() -> str:
        (call,) = (call for message in engine.tokenizer.last["messages"] for call in message.get("tool_calls", ()))
        return str(call["function"]["arguments"])

    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "1", "content": "b"}
    assert chat(messages=[*QUESTION, {"role": "assistant", "tool_calls": [call]}, result]).status_code == 200
    assert told() == shown
    old = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": arguments}}
    assert chat(messages=[*QUESTION, old, {"role": "function", "name": "look", "content": "b"}]).status_code == 200
    assert told() == shown
    items = [
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": arguments},
        {"type": "function_call_output", "call_id": "1", "output": "b"},
    ]
    response = ask("POST", "/v1/responses", json={"input": items})
    assert response.status_code == 200, response.text
    assert told() == shown
    blocks = [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "look", "input": arguments}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "b"}]},
    ]
    response = ask("POST", "/v1/messages", json={"max_tokens": 5, "messages": [*QUESTION, *blocks]})
    assert response.status_code == 200, response.text
    assert told() == shown
