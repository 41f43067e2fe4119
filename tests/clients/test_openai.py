"""OpenAI's client for Python: helpers for tools and forms, asynchronous requests, headers, errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import OpenAI

from ..serving import Server
from .shared import ANSWER, CONVERSATION, KEY, MODEL, QUESTION, Town, Weather

TOOLS: Any = [openai.pydantic_function_tool(Weather, name="weather")]
CALL: Any = {
    "model": MODEL,
    "messages": CONVERSATION,
    "tools": TOOLS,
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "temperature": 0,
    "max_tokens": 40,
}
SHORT: Any = {"model": MODEL, "messages": CONVERSATION, "temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return server.client(api_key=KEY)


def test_a_call_is_parsed_whole_and_streamed_and_its_result_is_sent_back(client: OpenAI) -> None:
    whole = client.chat.completions.parse(**CALL).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, Weather)
    with client.chat.completions.stream(**CALL) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_completion().choices[0]
    assert kinds.count("tool_calls.function.arguments.delta") > 3
    assert kinds.count("tool_calls.function.arguments.done") == 1
    assert (streamed.message.tool_calls or ())[0].function == call.function
    assert streamed.finish_reason == "tool_calls"
    # The client sends the message with what it has parsed itself.
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "sunny"}]}
    history: Any = [*CONVERSATION, whole.message, result]
    answer = client.chat.completions.create(**{**SHORT, "messages": history, "tools": TOOLS, "tool_choice": "none"})
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_functions_as_older_programs_call_them(client: OpenAI) -> None:
    asked: Any = {**SHORT, "max_tokens": 40, "functions": [TOOLS[0]["function"]], "function_call": {"name": "weather"}}
    whole = client.chat.completions.create(**asked).choices[0]
    call = whole.message.function_call
    assert call is not None
    Weather.model_validate_json(call.arguments)
    assert (call.name, whole.message.tool_calls, whole.finish_reason) == ("weather", None, "stop")
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    pieces = [chunk.delta.function_call for chunk in chunks if chunk.delta.function_call is not None]
    assert [piece.name for piece in pieces if piece.name is not None] == ["weather"]
    assert "".join(piece.arguments or "" for piece in pieces) == call.arguments
    assert chunks[-1].finish_reason == "stop"
    history: Any = [*CONVERSATION, whole.message, {"role": "function", "name": "weather", "content": "sunny"}]
    answer = client.chat.completions.create(**{**asked, "messages": history, "function_call": "none"}).choices[0]
    assert answer.message.content
    assert answer.message.function_call is None


def test_a_form_is_parsed_whole_and_streamed(client: OpenAI) -> None:
    asked: Any = {**SHORT, "max_tokens": 30, "response_format": Town}
    whole = client.chat.completions.parse(**asked).choices[0].message
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        kinds = {event.type for event in stream}
        streamed = stream.get_final_completion()
    assert kinds == {"chunk", "content.delta", "content.done"}
    assert streamed.choices[0].message.parsed == whole.parsed
    assert isinstance(whole.parsed, Town)
    assert streamed.usage is not None


def test_sixteen_at_once_each_get_the_form_that_they_asked_for(server: Server) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        schema = {"type": "object", "properties": {"name": {"const": f"Town {number}"}}, "required": ["name"]}
        form: Any = {
            "type": "json_schema",
            "json_schema": {"name": "town", "schema": {**schema, "additionalProperties": False}},
        }
        stream = await client.chat.completions.create(**{**SHORT, "max_tokens": 24}, stream=True, response_format=form)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(16)))

    texts = asyncio.run(all_of_them())
    assert list(map(json.loads, texts)) == [{"name": f"Town {number}"} for number in range(16)]


def test_completions_are_kept_and_read_again(client: OpenAI) -> None:
    chats = client.chat.completions
    whole = chats.create(**SHORT, store=True, metadata={"of": "these tests"})
    with chats.stream(**{**CALL, "store": True, "metadata": {"of": "these tests"}}) as stream:
        streamed = stream.get_final_completion()
    assert [chat.id for chat in chats.list(metadata={"of": "these tests"}, limit=1)] == [whole.id, streamed.id]
    assert chats.retrieve(whole.id).choices[0].message.content == ANSWER
    (call,) = chats.retrieve(streamed.id).choices[0].message.tool_calls or ()
    (told,) = streamed.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert (call.id, call.function.arguments) == (told.id, told.function.arguments)
    (message,) = chats.messages.list(whole.id)
    assert message.content == QUESTION
    chats.update(whole.id, metadata={})
    assert [chat.id for chat in chats.list(metadata={"of": "these tests"})] == [streamed.id]
    assert chats.delete(streamed.id).deleted
    with pytest.raises(openai.NotFoundError):
        chats.retrieve(streamed.id)


def test_headers_are_there_raw(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**SHORT, extra_headers={"X-Request-Id": "mine"})
    assert raw.headers["x-request-id"] == "mine"
    assert raw.headers["content-type"] == "application/json"
    parsed = raw.parse()
    assert parsed._request_id == "mine"
    assert parsed.choices[0].message.content == ANSWER
    with client.chat.completions.with_streaming_response.create(**SHORT, stream=True) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert list(stream.iter_lines())[-2:] == ["data: [DONE]", ""]


def test_what_asks_for_nothing_is_accepted(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        **SHORT,
        tools=[],
        stop=[],
        logit_bias={},
        n=1,
        seed=1,
        store=False,
        metadata={"trace": "7"},
        user="somebody",
        safety_identifier="somebody",
        prompt_cache_key="somebody",
        service_tier="flex",
        modalities=["text"],
        reasoning_effort="low",
        extra_body={"audio": None, "prediction": None, "web_search_options": None},
    )
    assert answer.choices[0].message.content == ANSWER


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": None, "tool_calls": None, "refusal": None, "audio": None},
        {"role": "assistant", "content": [{"type": "text", "text": "Ask."}], "tool_calls": [], "annotations": []},
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "system", "content": ""},
    ],
)
def test_forms_of_messages(client: OpenAI, message: dict[str, Any]) -> None:
    asked = {**SHORT, "messages": [message, *CONVERSATION], "max_tokens": 1}
    assert client.chat.completions.create(**asked).choices[0].finish_reason == "length"


def test_errors_are_those_of_the_client(client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="wrong").models.list()
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**{**SHORT, "model": "other"})
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(**{**SHORT, "max_tokens": 10**6})
    assert (wrong.value.param, wrong.value.code) == ("max_tokens", "context_length_exceeded")
    assert wrong.value.type == "invalid_request_error"
    assert wrong.value.request_id
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**{**SHORT, "max_tokens": 1}, response_format=Town)
