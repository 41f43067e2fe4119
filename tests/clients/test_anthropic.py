"""Anthropic's client: its route, tools, forms, the count of tokens, errors."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic import Anthropic

from ..serving import Server
from .shared import ANSWER, CONVERSATION, KEY, MODEL, Town, Weather

# The client has no argument for the temperature.
SHORT: Any = {"model": MODEL, "messages": CONVERSATION, "max_tokens": 8, "extra_body": {"temperature": 0}}
TOOLS: Any = [{"name": "weather", "description": "of a city", "input_schema": Weather.model_json_schema()}]
CALL: Any = {
    **SHORT,
    "max_tokens": 40,
    "tools": TOOLS,
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
}


@pytest.fixture(scope="module")
def client(server: Server) -> Anthropic:
    return Anthropic(base_url=server.url, api_key=KEY, max_retries=0)


def test_a_stream_is_the_whole_answer(client: Anthropic) -> None:
    whole = client.messages.create(**SHORT)
    assert [block.text for block in whole.content if block.type == "text"] == [ANSWER]
    assert whole.stop_reason == "end_turn"
    with client.messages.stream(**SHORT) as stream:
        pieces = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == ANSWER
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert streamed.stop_reason == whole.stop_reason


@pytest.mark.parametrize("dumped", [False, True])
def test_a_call_and_its_result(client: Anthropic, dumped: bool) -> None:
    called = client.messages.create(**CALL)
    assert called.stop_reason == "tool_use"
    (call,) = called.content
    assert call.type == "tool_use"
    Weather.model_validate(call.input)
    # The objects of the answer, or all of their fields, null or not.
    content: Any = [block.model_dump() for block in called.content] if dumped else called.content
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    history = [*CONVERSATION, {"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    answer = client.messages.create(
        **{**SHORT, "messages": history}, tools=TOOLS, tool_choice={"type": "none"}, system="Be brief."
    )
    assert [block.type for block in answer.content] == ["text"]


def test_the_client_runs_tools(client: Anthropic) -> None:
    asked = []

    @anthropic.beta_tool(input_schema=Weather.model_json_schema())
    def weather(**given: Any) -> str:
        """Of a city."""
        asked.append(given)
        return "sunny"

    runner = client.beta.messages.tool_runner(**{**CALL, "tools": [weather]}, max_iterations=2)
    answers = list(runner)
    assert len(answers) == len(asked) == 2
    assert all(Weather.model_validate(given) for given in asked)


def test_a_form_that_the_client_parses(client: Anthropic) -> None:
    answer = client.messages.parse(**{**SHORT, "max_tokens": 30}, output_format=Town)
    assert isinstance(answer.parsed_output, Town)


def test_tokens_are_counted_as_they_are_used(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=CONVERSATION, system="Be brief.")
    used = client.messages.create(**{**SHORT, "max_tokens": 1}, system="Be brief.").usage
    assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)


def test_errors_are_those_of_the_client(client: Anthropic) -> None:
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").messages.create(**SHORT)
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        client.messages.create(**{**SHORT, "model": "other"})
    with pytest.raises(anthropic.BadRequestError, match="invalid_request_error") as refused:
        client.messages.create(**{**SHORT, "max_tokens": 10**4})
    assert refused.value.request_id


def test_a_token_is_as_good_as_a_key(server: Server) -> None:
    with Anthropic(base_url=server.url, auth_token=KEY, api_key=None, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
