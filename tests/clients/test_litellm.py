"""litellm, as a client of OpenAI's routes and of Anthropic's."""

from __future__ import annotations

from typing import Any

import pytest

from ..serving import Server
from .shared import ANSWER, CONVERSATION, KEY, MODEL, Weather

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "of a city",
            "parameters": {"$schema": "http://json-schema.org/draft-07/schema#", **Weather.model_json_schema()},
        },
    }
]


@pytest.fixture(scope="module")
def litellm() -> Any:
    """The module. It takes 7 seconds to import, which not every process has to spend that collects tests."""
    return pytest.importorskip("litellm")


@pytest.fixture(params=["openai", "anthropic"])
def way(litellm: Any, server: Server, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The arguments that lead to the server by either API."""
    litellm.suppress_debug_info = True
    base = server.url + ("/v1" if request.param == "openai" else "")
    return {
        "model": f"{request.param}/{MODEL}",
        "api_base": base,
        "api_key": KEY,
        "messages": CONVERSATION,
        "temperature": 0,
        "max_tokens": 8,
    }


def test_a_stream_is_the_whole_answer(litellm: Any, way: dict[str, Any]) -> None:
    whole = litellm.completion(**way)
    assert whole.choices[0].message.content == ANSWER
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(litellm.completion(**way, stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len(list(filter(None, texts))) > 3
    assert "".join(texts) == ANSWER
    assert litellm.stream_chunk_builder(chunks).usage.completion_tokens == whole.usage.completion_tokens


def test_a_call_and_its_result(litellm: Any, way: dict[str, Any]) -> None:
    asked = {**way, "max_tokens": 40, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    message = litellm.completion(**asked).choices[0].message
    (call,) = message.tool_calls
    Weather.model_validate_json(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = litellm.completion(**{**way, "messages": [*CONVERSATION, message, result]}, tools=TOOLS)
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_errors_are_those_of_the_library(litellm: Any, way: dict[str, Any]) -> None:
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**{**way, "api_key": "wrong"})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**way, "model": way["model"].replace(MODEL, "other")})
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**{**way, "max_tokens": 10**4})


@pytest.mark.sweep
@pytest.mark.parametrize("provider", ["hosted_vllm", "text-completion-openai", "custom_openai"])
def test_other_ways_to_name_the_server(litellm: Any, server: Server, provider: str) -> None:
    where = {"model": f"{provider}/{MODEL}", "api_base": f"{server.url}/v1", "api_key": KEY, "max_tokens": 2}
    if provider == "text-completion-openai":
        assert litellm.text_completion(prompt="1, 2, 3,", **where).choices[0].text
    else:
        assert litellm.completion(messages=CONVERSATION, **where).choices[0].message.content


def test_embeddings(litellm: Any, embedder: Server) -> None:
    made = litellm.embedding(
        model=f"openai/{MODEL}", api_base=f"{embedder.url}/v1", api_key=KEY, input=["a", "b"], encoding_format="float"
    )
    assert [len(entry["embedding"]) for entry in made.data] == [576, 576]
    assert made.usage.prompt_tokens > 0
