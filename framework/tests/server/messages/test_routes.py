"""Anthropic's route, read with the models of Anthropic's own client."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from anthropic.types import Message
from fake_parsers import plan
from server_fakes import WORDS, FakeEngine, serving

from dovetail.engine.request.outputs import Delta
from dovetail.server.settings import ServerSettings

TEXT = "".join(WORDS)
CALL = '<call>{"name": "weather", "arguments": {"city": "Paris"}}</call>'
TOOLS = [
    {
        "name": "weather",
        "description": "of a city",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]


@pytest.fixture
def ask_message(ask):
    def send(**body: Any):
        body = {"max_tokens": 100, "messages": [{"role": "user", "content": "Capital of France?"}], **body}
        return ask("POST", "/v1/messages", json=body)

    return send


@pytest.fixture
def client(engine: FakeEngine):
    with (
        serving(engine, ServerSettings()) as url,
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client,
    ):
        yield client


def use(engine: FakeEngine) -> None:
    engine.plan.tool_parsers, engine.plan.reasoning_parsers = (plan("Calls"),), (plan("Thoughts"),)
    engine.tokenizer.chat_template = "{{ tools }}{{ messages }}"
    engine.words = ("<think>\nHm", "m.\n</think>\n\n", "Let me see.\n", CALL[:20], CALL[20:45], CALL[45:])


def test_a_whole_answer(ask_message, engine: FakeEngine) -> None:
    response = ask_message(
        system="Be brief.", stop_sequences=["x"], temperature=0.5, top_k=3, metadata={"user_id": "u"}
    )
    assert response.status_code == 200, response.text
    message = Message.model_validate(response.json(), strict=True)
    (block,) = message.content
    assert block.type == "text"
    assert block.text == TEXT
    assert message.stop_reason == "end_turn"
    prompt, params = engine.asked[0]
    assert message.usage.input_tokens == len(prompt) - 3
    assert message.usage.cache_read_input_tokens == 3
    assert message.usage.output_tokens == len(WORDS)
    assert (params.stop, params.temperature, params.top_k, params.max_tokens) == (["x"], 0.5, 3, 100)
    assert [turn["role"] for turn in engine.tokenizer.last["messages"]] == ["system", "user"]


def test_a_stream_is_the_whole_answer(client: anthropic.Anthropic, engine: FakeEngine) -> None:
    use(engine)
    question: Any = [{"role": "user", "content": "Weather?"}]
    whole = client.messages.create(model="fake/model", max_tokens=100, messages=question, tools=TOOLS)  # type: ignore[arg-type]
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
    assert whole.content[0].thinking == "Hmm."  # type: ignore[union-attr]
    assert whole.content[1].text == "Let me see."  # type: ignore[union-attr]
    assert whole.content[2].input == {"city": "Paris"}  # type: ignore[union-attr]
    assert whole.stop_reason == "tool_use"
    with client.messages.stream(model="fake/model", max_tokens=100, messages=question, tools=TOOLS) as stream:  # type: ignore[arg-type]
        streamed = stream.get_final_message()

    def shown(message: Message) -> list[dict[str, Any]]:
        return [{k: v for k, v in block.to_dict().items() if k != "id"} for block in message.content]

    assert shown(streamed) == shown(whole)
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens


def test_the_events_in_order(ask_message, engine: FakeEngine) -> None:
    use(engine)
    lines = ask_message(stream=True, tools=TOOLS).text.split("\n\n")[:-1]
    events = []
    for line in lines:
        name, data = line.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    kinds = [event["type"] for event in events if event["type"] != "content_block_delta"]
    block = ["content_block_start", "content_block_stop"]
    assert kinds == ["message_start", *block * 3, "message_delta", "message_stop"]
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2]
    pieces = [e["delta"]["partial_json"] for e in events if e.get("delta", {}).get("type") == "input_json_delta"]
    assert len(pieces) > 1
    assert "".join(pieces) == '{"city": "Paris"}'


def test_an_answer_of_nothing_is_a_block_of_no_text(ask_message, engine: FakeEngine) -> None:
    engine.words = ("",)
    assert ask_message().json()["content"] == [{"type": "text", "text": ""}]
    stream = ask_message(stream=True).text
    assert stream.count("content_block_start") == 2  # the event's line and its type
    assert stream.endswith('data: {"type":"message_stop"}\n\n')


def test_a_conversation_with_calls_and_thoughts(ask_message, engine: FakeEngine) -> None:
    use(engine)
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hmm.", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]
    assert ask_message(messages=messages, tools=TOOLS, system=[{"type": "text", "text": "Hi"}]).status_code == 200
    system, _, call, result, last = engine.tokenizer.last["messages"]
    assert system == {"role": "system", "content": "Hi"}
    assert call["reasoning_content"] == "Hmm."
    assert call["content"] == "I look."
    assert call["tool_calls"] == [
        {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    ]
    assert result == {"role": "tool", "content": "rain", "tool_call_id": "t1", "name": "weather"}
    assert last == {"role": "user", "content": "And now?"}


def test_what_clients_send_without_asking_for_anything(ask_message, engine: FakeEngine) -> None:
    use(engine)
    call = {"type": "tool_use", "id": "t1", "name": "weather", "input": {}, "caller": None, "toolset_name": None}
    direct = {**call, "id": "t2", "caller": {"type": "direct"}}
    tool = {
        **TOOLS[0],
        "eager_input_streaming": True,
        "defer_loading": False,
        "allowed_callers": ["direct"],
        "input_examples": [{"city": "Rome"}],
    }
    response = ask_message(
        messages=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": [call, direct]},
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "toolset_name": None}]},
        ],
        tools=[tool],
        cache_control={"type": "ephemeral"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        mcp_servers=[],
        speed="standard",
        service_tier="auto",
        thread=None,
    )
    assert response.status_code == 200, response.text
    told = engine.tokenizer.last
    assert [turn["role"] for turn in told["messages"]] == ["user", "assistant", "system", "tool"]
    assert told["tools"][0]["function"]["parameters"] == {**TOOLS[0]["input_schema"], "examples": [{"city": "Rome"}]}  # type: ignore[dict-item]


def test_the_client_s_own_loop_goes_on_without_a_thread(client: anthropic.Anthropic, engine: FakeEngine) -> None:
    """Anthropic's client wants the server to keep the conversation, unless it is told that it does not."""
    use(engine)

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Of a city."""
        engine.words = WORDS
        return f"sunny in {city}"

    runner = client.beta.messages.tool_runner(
        model="fake/model", max_tokens=100, messages=[{"role": "user", "content": "Weather?"}], tools=[weather]
    )
    last = runner.until_done()
    assert last.stop_reason == "end_turn"
    assert [turn["role"] for turn in engine.tokenizer.last["messages"]] == ["user", "assistant", "tool"]
    assert engine.tokenizer.last["messages"][-1]["content"] == "sunny in Paris"


def test_the_beginning_of_an_answer_is_continued(ask_message, engine: FakeEngine) -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "The"}]
    assert ask_message(messages=messages).status_code == 200
    assert engine.tokenizer.last["continue_final_message"] is True
    assert engine.tokenizer.last["add_generation_prompt"] is False


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        ({"type": "any"}, "tags_with_separator"),
        ({"type": "tool", "name": "weather", "disable_parallel_tool_use": True}, "tags_with_separator"),
        ({"type": "auto"}, None),
        ({"type": "none"}, None),
    ],
)
def test_choices_of_tools(ask_message, engine: FakeEngine, choice: dict[str, Any], kind: str | None) -> None:
    engine.plan.tool_parsers = (plan("Calls"),)
    assert ask_message(tools=TOOLS, tool_choice=choice).status_code == 200
    asked = engine.asked[0][1].structured_outputs
    assert (asked.structural_tag["format"]["type"] if asked else None) == kind


def test_thinking_effort_and_form_reach_the_model(ask_message, engine: FakeEngine) -> None:
    schema = {"type": "object"}
    config = {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    ask_message(thinking={"type": "enabled", "budget_tokens": 1024}, output_config=config)
    assert engine.tokenizer.last["enable_thinking"] is True
    assert engine.tokenizer.last["reasoning_effort"] == "low"
    assert engine.asked[0][1].structured_outputs.json == schema
    ask_message(thinking={"type": "disabled"})
    assert engine.tokenizer.last["enable_thinking"] is False


@pytest.mark.parametrize(
    ("words", "body", "reason", "sequence"),
    [
        (WORDS, {"max_tokens": 3}, "max_tokens", None),
        (WORDS, {}, "end_turn", None),
    ],
)
def test_why_an_answer_ended(ask_message, engine: FakeEngine, words, body, reason: str, sequence: str | None) -> None:
    engine.words = words
    message = ask_message(**body).json()
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)
    assert f'"stop_reason":"{reason}"' in ask_message(**body, stream=True).text


def test_a_stop_sequence_is_named(ask_message, engine: FakeEngine) -> None:
    engine.fail_at = 2
    engine.failure = Delta(0, "x", [1], "stop", "END")
    message = ask_message(stop_sequences=["END"]).json()
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")


def test_tokens_are_counted(ask, engine: FakeEngine) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "system": "Be brief."}
    counted = ask("POST", "/v1/messages/count_tokens", json=body).json()
    ask("POST", "/v1/messages", json={**body, "max_tokens": 1})
    assert counted == {"input_tokens": len(engine.asked[0][0])}


@pytest.mark.parametrize(
    ("body", "status", "kind", "words"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"model": "other"}, 404, "not_found_error", "other"),
        ({"messages": []}, 400, "invalid_request_error", "empty"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 400, "invalid_request_error", "role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            400,
            "invalid_request_error",
            "image",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "1", "name": "a", "input": {}}]}]},
            400,
            "invalid_request_error",
            "no tool_use",
        ),
        ({"tool_choice": {"type": "tool"}, "tools": TOOLS}, 400, "invalid_request_error", "name is required"),
        ({"n": 2}, 400, "invalid_request_error", "n is not supported yet"),
    ],
)
def test_refusals_in_anthropic_s_form(ask_message, body: dict[str, Any], status: int, kind: str, words: str) -> None:
    response = ask_message(**body)
    assert response.status_code == status, response.text
    told = response.json()
    assert told["type"] == "error"
    assert told["error"]["type"] == kind
    assert words in told["error"]["message"]


@pytest.mark.parametrize("body", [{}, {"model": "other"}])
def test_the_request_s_id_is_where_anthropic_s_clients_look_for_it(ask_message, ask, body: dict[str, Any]) -> None:
    headers = ask_message(**body).headers
    assert headers["request-id"] == headers["x-request-id"]
    assert "request-id" not in ask("GET", "/v1/models").headers


def test_a_failure_in_mid_stream_is_an_event(ask_message, engine: FakeEngine) -> None:
    engine.fail_at = 2
    last = ask_message(stream=True).text.rstrip().split("\n\n")[-1]
    name, data = last.split("\n")
    assert name == "event: error"
    assert json.loads(data[6:])["error"]["type"] == "api_error"
    assert "secret" not in data
