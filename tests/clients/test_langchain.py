"""LangChain's ChatOpenAI and OpenAIEmbeddings."""

from __future__ import annotations

from functools import reduce
from operator import add

import pytest

pytest.importorskip("langchain_openai")

from langchain_core.messages import FunctionMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_function
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from ..serving import Server
from .shared import ANSWER, KEY, MODEL, QUESTION, Town, Weather


@tool(args_schema=Weather)
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@pytest.fixture(scope="module")
def model(server: Server) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=f"{server.url}/v1", api_key=KEY, temperature=0, max_tokens=8, max_retries=0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def talkative(model: ChatOpenAI) -> ChatOpenAI:
    return model.model_copy(update={"max_tokens": 40})


def test_a_stream_is_the_whole_answer(model: ChatOpenAI) -> None:
    whole = model.invoke(QUESTION)
    assert whole.content == ANSWER
    assert whole.response_metadata["finish_reason"] == "stop"
    chunks = list(model.stream(QUESTION, stream_usage=True))
    assert len(chunks) > 5
    streamed = reduce(add, chunks)
    assert streamed.content == ANSWER
    # But not how much of the prompt was computed before, which the first to ask sees differently.
    for counted in ("input_tokens", "output_tokens", "total_tokens"):
        assert streamed.usage_metadata[counted] == whole.usage_metadata[counted] > 0


def test_many_at_once(model: ChatOpenAI) -> None:
    asked = [[SystemMessage("Be brief."), HumanMessage(f"Say {number}.")] for number in range(4)]
    answers = [answer.content for answer in model.batch(asked)]
    assert answers == [model.invoke(messages).content for messages in asked]
    assert all(answers)


@pytest.mark.parametrize("choice", ["any", "weather"])
def test_a_call_and_its_result(model: ChatOpenAI, talkative: ChatOpenAI, choice: str) -> None:
    bound = talkative.bind_tools([weather], tool_choice=choice, parallel_tool_calls=False, strict=True)
    called = bound.invoke(QUESTION)
    (call,) = called.tool_calls
    assert not called.invalid_tool_calls
    assert called.response_metadata["finish_reason"] == "tool_calls"
    streamed = reduce(add, bound.stream(QUESTION))
    assert streamed.tool_calls[0]["args"] == call["args"]
    history = [HumanMessage(QUESTION), called, weather.invoke(call)]
    assert model.bind_tools([weather], tool_choice="none").invoke(history).content


def test_functions_as_older_programs_call_them(model: ChatOpenAI, talkative: ChatOpenAI) -> None:
    bound = talkative.bind(functions=[convert_to_openai_function(weather)], function_call={"name": "weather"})
    called = bound.invoke(QUESTION)
    call = called.additional_kwargs["function_call"]
    Weather.model_validate_json(call["arguments"])
    assert call["name"] == "weather"
    streamed = reduce(add, bound.stream(QUESTION))
    assert streamed.additional_kwargs["function_call"] == call
    history = [HumanMessage(QUESTION), called, FunctionMessage(name="weather", content="sunny")]
    assert model.invoke(history).content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_an_answer_becomes_an_object(talkative: ChatOpenAI, method: str) -> None:
    assert isinstance(talkative.with_structured_output(Town, method=method).invoke(QUESTION), Town)  # type: ignore[arg-type]


@pytest.mark.sweep
def test_the_same_by_the_responses_api(server: Server) -> None:
    model = ChatOpenAI(model=MODEL, base_url=f"{server.url}/v1", api_key=KEY, max_tokens=20, use_responses_api=True)  # type: ignore[arg-type,call-arg]
    assert model.bind(temperature=0).invoke(QUESTION).text == ANSWER
    assert isinstance(model.with_structured_output(Town).invoke(QUESTION), Town)


def test_embeddings(embedder: Server) -> None:
    # Otherwise it sends the tokens of one of OpenAI's models.
    vectors = OpenAIEmbeddings(
        model=MODEL, base_url=f"{embedder.url}/v1", api_key=KEY, check_embedding_ctx_length=False
    )  # type: ignore[arg-type,call-arg]
    assert [len(vector) for vector in vectors.embed_documents(["a", "b"])] == [576, 576]
