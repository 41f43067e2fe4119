"""The chat route, answered whole and as a stream."""

from __future__ import annotations

from typing import Any

import pytest
from chat_samples import events
from server_fakes import WORDS, FakeEngine

from dovetail.engine.request.params import SamplingParams

TEXT = "".join(WORDS)


def test_whole_answer(chat, engine: FakeEngine) -> None:
    response = chat(model="fake/model")
    assert response.status_code == 200
    body = response.json()
    assert list(body) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    prompt = len(engine.asked[0][0])
    assert body["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 8,
        "total_tokens": prompt + 8,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert not engine.running
    assert not engine.aborted


def test_stream(chat) -> None:
    *chunks, done = events(chat(stream=True))
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in deltas[1:-1]] == list(WORDS)
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 9 + ["stop"]


def test_stream_usage_at_the_end(chat) -> None:
    *chunks, last, done = events(chat(stream=True, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 8


def test_stream_usage_in_every_chunk(chat) -> None:
    *chunks, _ = events(chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, *range(1, 9), 8, 8]


def test_stream_with_several_choices(chat) -> None:
    *chunks, _ = events(chat(stream=True, n=3))
    texts = ["", "", ""]
    for chunk in chunks:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [TEXT] * 3


def test_several_choices(chat) -> None:
    body = chat(n=3).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] == 24


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 3}, {"max_tokens": 3}),
        ({"max_completion_tokens": 3.0}, {"max_tokens": 3}),
        ({"temperature": 0, "top_p": 0.5, "top_k": -1}, {"temperature": 0, "top_p": 0.5, "top_k": 0}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"stop": {"Single": "x"}}, {"stop": ["x"]}),
        ({"stop": {"Multi": ["x", "y"]}}, {"stop": ["x", "y"]}),
        ({"stop": None, "seed": None, "n": None}, {"stop": [], "seed": None, "n": 1}),
        (
            {"stop_token_ids": [5], "include_stop_str_in_output": True, "ignore_eos": True, "max_tokens": 9},
            {"stop_token_ids": [5], "include_stop_str_in_output": True, "ignore_eos": True},
        ),
        (
            {"min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5, "seed": 7},
            {"min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5, "seed": 7},
        ),
        ({"min_tokens": 2, "skip_special_tokens": False}, {"min_tokens": 2, "skip_special_tokens": False}),
        ({"user": "me", "logprobs": False, "tools": [], "response_format": {"type": "text"}}, {"max_tokens": None}),
        ({"best_of": 3, "n": 2}, {"n": 2, "best_of": 3}),
        ({"logit_bias": {"5": 1, "6": -2.5}}, {"logit_bias": {5: 1.0, 6: -2.5}}),
        ({"bad_words": ["no"], "allowed_token_ids": [1, 2.0]}, {"bad_words": ["no"], "allowed_token_ids": [1, 2]}),
        ({"spaces_between_special_tokens": False}, {"spaces_between_special_tokens": False}),
        ({"logprobs": True}, {"logprobs": 0, "prompt_logprobs": None}),
        ({"logprobs": True, "top_logprobs": 4, "prompt_logprobs": 2}, {"logprobs": 4, "prompt_logprobs": 2}),
        ({"logprobs": False, "top_logprobs": 0, "logit_bias": {}}, {"logprobs": None, "logit_bias": None}),
    ],
)
def test_parameters_reach_the_engine(chat, engine: FakeEngine, body: dict[str, Any], expected: dict[str, Any]) -> None:
    response = chat(**body)
    assert response.status_code == 200, response.text
    params = engine.asked[0][1]
    assert {name: getattr(params, name) for name in expected} == expected


def test_defaults_of_the_model_apply_where_the_request_is_silent(chat, engine: FakeEngine) -> None:
    engine.default_params = {"temperature": 0.6, "top_k": 20, "max_tokens": 5}
    assert chat(top_k=3, max_tokens=400).json()["usage"]["completion_tokens"] == 5
    chat(max_tokens=2)
    assert engine.asked[0][1] == SamplingParams(temperature=0.6, top_k=3, max_tokens=5)
    assert engine.asked[1][1].max_tokens == 2


def test_a_default_longer_than_the_context_refuses_nobody(chat, engine: FakeEngine) -> None:
    engine.default_params = {"max_tokens": engine.max_model_len}
    assert chat().status_code == 200
    assert chat(max_tokens=engine.max_model_len).status_code == 400


def test_messages_reach_the_template(chat, engine: FakeEngine) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "tool_calls": None, "refusal": None, "reasoning": "because"},
        {"role": "user", "content": "d", "name": "me"},
    ]
    response = chat(messages=messages, chat_template_kwargs={"enable_thinking": False}, documents=[{"text": "x"}])
    assert response.status_code == 200, response.text
    seen = engine.tokenizer.last
    assert seen["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "reasoning_content": "because"},
        {"role": "user", "content": "d", "name": "me"},
    ]
    assert seen["enable_thinking"] is False
    assert seen["documents"] == [{"text": "x"}]
    assert seen["add_generation_prompt"] is True


def test_developer_stays_where_the_template_knows_it(chat, engine: FakeEngine) -> None:
    engine.tokenizer.chat_template = "… developer …"
    chat(messages=[{"role": "developer", "content": "a"}])
    assert engine.tokenizer.last["messages"][0]["role"] == "developer"


def test_continue_final_message(chat, engine: FakeEngine) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "The"}]
    assert chat(messages=messages, continue_final_message=True).status_code == 200
    assert engine.tokenizer.last["add_generation_prompt"] is False
    assert engine.tokenizer.last["continue_final_message"] is True
    response = chat(messages=messages, continue_final_message=True, add_generation_prompt=True)
    assert response.status_code == 400


def test_special_tokens_only_if_asked_for(chat, engine: FakeEngine) -> None:
    chat()
    chat(add_special_tokens=True)
    assert 256 not in engine.asked[0][0]
    assert engine.asked[1][0][0] == 256


def test_templates_of_requests_are_not_trusted(ask, chat, engine: FakeEngine) -> None:
    from dovetail.server.settings import ServerSettings

    body = {"messages": [{"role": "user", "content": "a"}], "chat_template": "x"}
    assert chat(**body).json()["error"]["param"] == "chat_template"
    assert chat(**body | {"chat_template": None, "chat_template_kwargs": {"chat_template": "x"}}).status_code == 400
    trusting = ServerSettings(trust_request_chat_template=True)
    long = {**body, "chat_template": "x" * (2**20 + 1)}
    refused = ask("POST", "/v1/chat/completions", json=long, settings=trusting)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "chat_template")
    assert ask("POST", "/v1/chat/completions", json=body, settings=trusting).status_code == 200
    engine.tokenizer.chat_template = {"x": "…"}
    assert chat(**body).status_code == 200


def test_role_and_names_come_from_the_settings(ask) -> None:
    from dovetail.server.settings import ServerSettings

    settings = ServerSettings(response_role="helper", served_model_name=["one", "two"])
    body = {"model": "two", "messages": [{"role": "user", "content": "a"}]}
    answer = ask("POST", "/v1/chat/completions", json=body, settings=settings).json()
    assert answer["model"] == "two"
    assert answer["choices"][0]["message"]["role"] == "helper"


def test_request_id_becomes_part_of_the_answer(chat) -> None:
    assert chat(request_id="abc").json()["id"] == "chatcmpl-abc"
    assert chat(request_id="a b").status_code == 400
