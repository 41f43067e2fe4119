"""OpenAI's Responses API, read with the models of OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from fake_parsers import plan
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import TypeAdapter
from server_fakes import FIRST_TOKEN, WORDS, FakeEngine

from dovetail.engine.request.outputs import Delta

TEXT = "".join(WORDS)
CALL = '<call>{"name": "weather", "arguments": {"city": "Paris"}}</call>'
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "name": "weather", "description": "of a city", "parameters": WEATHER, "strict": False}]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def use(engine: FakeEngine) -> None:
    """Have the model think, speak and call."""
    engine.plan.tool_parsers, engine.plan.reasoning_parsers = (plan("Calls"),), (plan("Thoughts"),)
    engine.tokenizer.chat_template = "{{ tools }}{{ messages }}"
    engine.words = ("<think>\nHm", "m.\n</think>\n\n", "Let me see.\n", CALL[:20], CALL[20:45], CALL[45:])


def read(response: httpx2.Response) -> Response:
    assert response.status_code == 200, response.text
    return Response.model_validate(response.json(), strict=True)


def told(response: httpx2.Response, first: int = 0) -> list[Any]:
    """The events of a stream, in OpenAI's models, their numbers, from the first one's, and the names of their lines checked."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for number, lines in enumerate(response.text.split("\n\n")[:-1], first):
        name, data = lines.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        found.append(EVENT.validate_python(event, strict=True))
    return found


def shown(response: Response) -> dict[str, Any]:
    """What does not differ from one response to another of the same request."""

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(item) for item in value]
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if k not in ("id", "call_id", "created_at", "completed_at")}
        return value

    return without(response.to_dict())


def turns(engine: FakeEngine) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in engine.tokenizer.last["messages"]]


def refusal(response: httpx2.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_a_whole_response(responses, engine: FakeEngine) -> None:
    asked = {
        "instructions": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "max_output_tokens": 100,
        "metadata": {"a": "b"},
        "user": "u",
        "stop": "x",
        "model": "fake/model",
    }
    response = read(responses(**asked))
    assert response.id.startswith("resp_")
    (message,) = response.output
    assert message.type == "message"
    assert message.id.startswith("msg_")
    assert (message.role, message.status) == ("assistant", "completed")
    assert response.output_text == TEXT
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    for name in ("instructions", "temperature", "top_p", "max_output_tokens", "metadata", "user", "model"):
        assert getattr(response, name) == asked[name], name
    assert response.tools == []
    assert response.tool_choice == "auto"
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "text"
    prompt, params = engine.asked[0]
    assert response.usage is not None
    assert response.usage.input_tokens == len(prompt)
    assert response.usage.input_tokens_details.cached_tokens == 3
    assert response.usage.output_tokens == len(WORDS)
    assert response.usage.total_tokens == len(prompt) + len(WORDS)
    assert (params.stop, params.temperature, params.top_k, params.max_tokens) == (["x"], 0.5, 3, 100)
    assert turns(engine) == [("system", "Be brief."), ("user", "Capital of France?")]


def test_a_response_that_was_cut(responses, engine: FakeEngine) -> None:
    response = read(responses(max_output_tokens=2))
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"  # type: ignore[union-attr]
    assert response.output_text == "Paris is"
    assert told(responses(max_output_tokens=2, stream=True))[-1].type == "response.incomplete"


def test_thoughts_and_calls_are_items(responses, engine: FakeEngine) -> None:
    use(engine)
    response = read(responses(tools=TOOLS))
    thoughts, message, call = response.output
    assert thoughts.type == "reasoning"
    assert thoughts.content is not None
    assert thoughts.content[0].text == "Hmm."
    assert message.type == "message"
    assert response.output_text == "Let me see."
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("weather", '{"city": "Paris"}')
    assert [item.id.partition("_")[0] for item in (thoughts, message, call)] == ["rs", "msg", "fc"]  # type: ignore[union-attr]
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens == len("Hmm."), "a token of this tokenizer is a byte"
    assert [tool.to_dict() for tool in response.tools] == TOOLS


@pytest.mark.parametrize("case", ["text", "parsed", "nothing", "logprobs", "logprobs of parsed"])
def test_a_stream_is_the_whole_response(responses, engine: FakeEngine, case: str) -> None:
    body: dict[str, Any] = {}
    if "parsed" in case:
        use(engine)
        body["tools"] = TOOLS
    if case == "nothing":
        engine.words = ("",)
    if "logprobs" in case:
        body |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = read(responses(**body))
    events = told(responses(stream=True, **body))
    assert [e.type for e in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0].response.status == "in_progress"
    assert events[-1].type == "response.completed"
    assert shown(events[-1].response) == shown(whole)
    pieces: dict[int, str] = {}
    logprobs: dict[int, list[Any]] = {}
    for event in events:
        if event.type.endswith(".delta"):
            pieces[event.output_index] = pieces.get(event.output_index, "") + event.delta
            logprobs.setdefault(event.output_index, []).extend(getattr(event, "logprobs", ()))
    for index, item in enumerate(events[-1].response.output):
        text = item.arguments if item.type == "function_call" else item.content[0].text
        assert pieces[index] == text
        if item.type == "message":
            assert [p.token for p in logprobs[index]] == [p.token for p in item.content[0].logprobs]
            assert bool(item.content[0].logprobs) is ("logprobs" in case)


def test_the_events_in_order(responses, engine: FakeEngine) -> None:
    use(engine)
    events = told(responses(stream=True, tools=TOOLS))
    names = [e.type.removeprefix("response.") for e in events]
    assert list(dict.fromkeys(name for name in names if not name.endswith(".delta"))) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_text.done",
        "function_call_arguments.done",
        "completed",
    ]
    by_item = {
        index: [e.type.removeprefix("response.") for e in events if getattr(e, "output_index", None) == index]
        for index in range(3)
    }
    assert by_item[0] == [
        "output_item.added",
        "content_part.added",
        *["reasoning_text.delta"] * 2,
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert by_item[1][2:4] == ["output_text.delta", "output_text.done"]
    assert by_item[2][0] == "output_item.added"
    assert by_item[2][-2:] == ["function_call_arguments.done", "output_item.done"]
    assert len(by_item[2]) > 4, "arguments come in pieces"
    added = [e.item for e in events if e.type == "response.output_item.added"]
    done = [e.item for e in events if e.type == "response.output_item.done"]
    assert [item.status for item in added] == ["in_progress"] * 3
    assert [item.status for item in done] == ["completed"] * 3
    assert [item.to_dict() for item in done] == [item.to_dict() for item in events[-1].response.output]
    assert added[2].arguments == ""


def test_the_client_reads_a_stream(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    use(engine)
    with openai_client.responses.stream(model="fake/model", input="Weather?", tools=TOOLS) as stream:  # type: ignore[arg-type]
        final = stream.get_final_response()
    assert final.output_text == "Let me see."
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]


def test_logprobs(responses, engine: FakeEngine) -> None:
    response = read(responses(include=["message.output_text.logprobs"], top_logprobs=2))
    found = response.output[0].content[0].logprobs  # type: ignore[union-attr]
    assert [entry.token for entry in found] == [chr(FIRST_TOKEN + i) for i in range(len(WORDS))]
    assert all(len(entry.top_logprobs) == 2 for entry in found)
    assert refusal(responses(top_logprobs=2))["param"] == "top_logprobs"


def test_a_conversation_with_calls_and_thoughts(responses, engine: FakeEngine) -> None:
    use(engine)
    items = [
        {"role": "developer", "content": "In French."},
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hmm."}]},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
        },
        {
            "type": "function_call",
            "id": None,
            "call_id": "c1",
            "name": "weather",
            "arguments": "{}",
            "status": "completed",
        },
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"role": "user", "content": "And now?"},
    ]
    response = read(responses(input=items, instructions="Be brief.", tools=TOOLS))
    system, user, own, result, again = engine.tokenizer.last["messages"]
    assert system == {"role": "system", "content": "Be brief.\n\nIn French."}
    assert user == {"role": "user", "content": "Weather?"}
    assert own["content"] == "I look."
    assert own["reasoning_content"] == "Hmm."
    assert own["tool_calls"] == [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    assert result == {"role": "tool", "content": "sunny", "tool_call_id": "c1", "name": "weather"}
    assert again["content"] == "And now?"
    listed = ResponseItemList.model_validate(responses(f"/{response.id}/input_items", "GET", order="asc").json())
    assert [item.type for item in listed.data] == [
        "message",
        "message",
        "reasoning",
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]
    assert listed.data[3].id == "msg_1"
    assert all(item.id for item in listed.data)


def test_a_failure_in_the_midst_of_a_stream(responses, engine: FakeEngine) -> None:
    engine.fail_at, engine.failure = 2, Delta(0, "", [], "error", error="the cache is broken")
    failed = told(responses(stream=True))[-1]
    assert failed.type == "response.failed"
    assert failed.response.status == "failed"
    assert failed.response.error.message.startswith("the cache is broken; the request id is ")
    assert failed.response.output[0].content[0].text == "Paris is"
    assert failed.response.output[0].status == "incomplete"


def test_a_client_that_leaves_ends_it(live: str, engine: FakeEngine, until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    with httpx2.stream("POST", f"{live}/v1/responses", json={"input": "Hi", "stream": True}) as response:
        next(response.iter_lines())
    until(lambda: engine.aborted)


def test_forms_of_the_answer(responses, engine: FakeEngine) -> None:
    form = {"type": "json_schema", "name": "place", "schema": WEATHER, "strict": True}
    response = read(responses(text={"format": form}))
    asked = engine.asked[-1][1].structured_outputs
    assert asked is not None
    assert asked.json == {**WEATHER, "x-strict": True}
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.to_dict() == form
    read(responses(text={"format": {"type": "json_object"}, "verbosity": "medium"}))
    assert engine.asked[-1][1].structured_outputs.json_object  # type: ignore[union-attr]
    assert refusal(responses(text={"format": {"type": "json_schema", "schema": {}}}))["param"] == "text.format.name"


def test_tools_that_must_be_called(responses, engine: FakeEngine) -> None:
    use(engine)
    engine.words = (CALL,)
    two = [*TOOLS, {"type": "function", "name": "now"}]
    for choice, names in (
        ("required", ["weather", "now"]),
        ({"type": "function", "name": "now"}, ["now"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            ["weather"],
        ),
    ):
        response = read(responses(tools=two, tool_choice=choice))
        shown = response.tool_choice if isinstance(response.tool_choice, str) else response.tool_choice.to_dict()
        assert shown == choice
        form = engine.asked[-1][1].structured_outputs.structural_tag["format"]  # type: ignore[union-attr,index]
        calls = form["elements"][-1]
        assert [tag["begin"].split('"')[3] for tag in calls["tags"]] == names


def test_effort(responses, engine: FakeEngine) -> None:
    response = read(responses(reasoning={"effort": "none", "summary": "auto"}))
    assert engine.tokenizer.last["enable_thinking"] is False
    assert response.reasoning is not None
    assert response.reasoning.effort == "none"
    read(responses(reasoning={"effort": "max"}))
    assert engine.tokenizer.last["reasoning_effort"] == "xhigh"


def test_truncation_leaves_out_the_oldest_turns(responses, engine: FakeEngine) -> None:
    items = [{"role": "user" if i % 2 == 0 else "assistant", "content": f"{i}" * 50} for i in range(19)]
    refused = refusal(responses(input=items, instructions="Be brief.", max_output_tokens=20))
    assert refused["param"] == "input"
    assert refused["code"] == "context_length_exceeded"
    response = read(responses(input=items, instructions="Be brief.", max_output_tokens=20, truncation="auto"))
    assert response.truncation == "auto"
    kept = turns(engine)
    assert kept[0] == ("system", "Be brief.")
    assert kept[1][0] == "user"
    assert kept[-1] == ("user", "18" * 50)
    prompt = engine.asked[-1][0]
    pair = len("<user><assistant>") + 200
    assert len(prompt) <= engine.max_model_len - 20 < len(prompt) + pair, "no more is left out than has to be"
    long = [*items, {"role": "user", "content": "x" * 600}]
    assert refusal(responses(input=long, truncation="auto"))["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**TOOLS[0], "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"text": {"verbosity": "huge"}}, "text.verbosity"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"include": ["everything"]}, "include[0]"),
        ({"service_tier": "best"}, "service_tier"),
        ({"input": [{"type": "web_search_call", "id": "a"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}]}, "input"),
        ({"input": [7]}, "input[0]"),
        ({"input": 7}, "input"),
        ({"input": []}, "input"),
        ({"tools": [{**TOOLS[0], "parameters": {"type": "array"}}]}, "tools[0].parameters"),
        ({"max_output_tokens": 1000}, "max_output_tokens"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"background": True, "store": False}, "background"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"n": 2}, "n"),
    ],
)
def test_what_is_refused(responses, body: dict[str, Any], param: str) -> None:
    assert refusal(responses(**body))["param"] == param


def test_what_asks_for_nothing_is_taken(responses, engine: FakeEngine) -> None:
    response = responses(
        conversation=None,
        stream_options={"include_obfuscation": False},
        service_tier="auto",
        include=["reasoning.encrypted_content"],
        max_tool_calls=3,
        truncation="disabled",
        text={"format": {"type": "text"}, "verbosity": "medium"},
        context_management=[],
        tools=[{**TOOLS[0], "defer_loading": False, "output_schema": None}],
    )
    assert read(response).max_tool_calls == 3


def test_the_tokens_of_a_conversation_are_counted(openai_client: openai.OpenAI, responses) -> None:
    first = read(responses(instructions="Be brief."))
    counted = openai_client.responses.input_tokens.count(input="Capital of France?", instructions="Be brief.")
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == first.usage.input_tokens
    more = openai_client.responses.input_tokens.count(input="And Spain's?", previous_response_id=first.id)
    assert more.input_tokens == read(responses(input="And Spain's?", previous_response_id=first.id)).usage.input_tokens
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.input_tokens.count(input="a", previous_response_id="resp_none")


def test_functions_of_a_namespace(responses, engine: FakeEngine) -> None:
    use(engine)
    call = CALL.replace('"weather"', '"maps__weather"')
    engine.words = ("Let me see.\n", call[:20], call[20:45], call[45:])
    tools = [{"type": "namespace", "name": "maps", "description": "Of places.", "tools": [TOOLS[0]]}, TOOLS[0]]
    asked = {"tools": tools, "tool_choice": "auto"}
    response = read(responses(**asked))
    _, made = response.output
    assert made.type == "function_call"
    assert (made.namespace, made.name, made.arguments) == ("maps", "weather", '{"city": "Paris"}')
    assert shown(response)["tools"] == [{**tools[0], "tools": [TOOLS[0]]}, TOOLS[0]]
    functions = [tool["function"] for tool in engine.tokenizer.last["tools"]]
    assert [(f["name"], f["description"]) for f in functions] == [
        ("maps__weather", "Of places.\nof a city"),
        ("weather", "of a city"),
    ]
    events = told(responses(stream=True, **asked))
    assert shown(events[-1].response) == shown(response)
    added = next(e.item for e in events if e.type == "response.output_item.added" and e.item.type == "function_call")
    assert (added.namespace, added.name) == ("maps", "weather")

    engine.words = WORDS
    sent_back = [item.model_dump(exclude_none=True) for item in response.output]
    result = {"type": "function_call_output", "call_id": made.call_id, "output": "sunny"}
    read(responses(input=[{"role": "user", "content": "Weather?"}, *sent_back, result], **asked))
    _, own, answered = engine.tokenizer.last["messages"]
    assert own["tool_calls"][0]["function"]["name"] == "maps__weather"
    assert answered["content"] == "sunny"


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([{"type": "namespace", "name": "maps", "tools": [{"type": "custom", "name": "a"}]}], None, "tools[0].type"),
        ([{"type": "namespace", "name": "maps"}], None, "tools[0].tools"),
        ([{"type": "namespace", "name": "m", "tools": [TOOLS[0], TOOLS[0]]}], None, "tools[1].name"),
        (
            [{"type": "namespace", "name": "m", "tools": [TOOLS[0]]}],
            {"type": "function", "name": "weather"},
            "tool_choice",
        ),
    ],
)
def test_namespaces_that_are_refused(responses, tools: list[Any], choice: Any, param: str) -> None:
    assert refusal(responses(tools=tools, tool_choice=choice))["param"] == param


def test_a_function_of_a_namespace_can_be_chosen(responses, engine: FakeEngine) -> None:
    use(engine)
    engine.words = (CALL.replace('"weather"', '"maps__weather"'),)
    tools = [{"type": "namespace", "name": "maps", "description": "", "tools": [TOOLS[0]]}]
    choice = {"type": "function", "name": "weather", "namespace": "maps"}
    response = read(responses(tools=tools, tool_choice=choice))
    assert engine.asked[-1][1].structured_outputs is not None
    assert [(item.namespace, item.name) for item in response.output if item.type == "function_call"] == [
        ("maps", "weather")
    ]
