"""OpenAI's Responses API, read with the models of OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from fake_parsers import plan
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import TypeAdapter
from server_fakes import FIRST_TOKEN, WORDS, FakeEngine, serving

from dovetail.engine.outputs import Delta
from dovetail.server.settings import ServerSettings

TEXT = "".join(WORDS)
CALL = '<call>{"name": "weather", "arguments": {"city": "Paris"}}</call>'
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "name": "weather", "description": "of a city", "parameters": WEATHER, "strict": False}]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture
def post(live: str):
    """Send a request to a server that lives as long as the test."""
    with httpx.Client(base_url=live) as client:

        def send(path: str = "", method: str = "POST", **body: Any) -> httpx.Response:
            if method == "GET":
                return client.get(f"/v1/responses{path}", params=body)
            if path or method != "POST":
                return client.request(method, f"/v1/responses{path}")
            return client.post("/v1/responses", json={"input": "Capital of France?", **body})

        yield send


@pytest.fixture
def client(live: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live}/v1", api_key="none", max_retries=0) as client:
        yield client


def use(engine: FakeEngine) -> None:
    """Have the model think, speak and call."""
    engine.plan.tool_parsers, engine.plan.reasoning_parsers = (plan("Calls"),), (plan("Thoughts"),)
    engine.tokenizer.chat_template = "{{ tools }}{{ messages }}"
    engine.words = ("<think>\nHm", "m.\n</think>\n\n", "Let me see.\n", CALL[:20], CALL[20:45], CALL[45:])


def read(response: httpx.Response) -> Response:
    assert response.status_code == 200, response.text
    return Response.model_validate(response.json(), strict=True)


def told(response: httpx.Response) -> list[Any]:
    """The events of a stream, in OpenAI's models, their numbers and the names of their lines checked."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for number, lines in enumerate(response.text.split("\n\n")[:-1]):
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


def refusal(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_a_whole_response(post, engine: FakeEngine) -> None:
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
    response = read(post(**asked))
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


def test_a_response_that_was_cut(post, engine: FakeEngine) -> None:
    response = read(post(max_output_tokens=2))
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"  # type: ignore[union-attr]
    assert response.output_text == "Paris is"
    assert told(post(max_output_tokens=2, stream=True))[-1].type == "response.incomplete"


def test_thoughts_and_calls_are_items(post, engine: FakeEngine) -> None:
    use(engine)
    response = read(post(tools=TOOLS))
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
def test_a_stream_is_the_whole_response(post, engine: FakeEngine, case: str) -> None:
    body: dict[str, Any] = {}
    if "parsed" in case:
        use(engine)
        body["tools"] = TOOLS
    if case == "nothing":
        engine.words = ("",)
    if "logprobs" in case:
        body |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = read(post(**body))
    events = told(post(stream=True, **body))
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


def test_the_events_in_order(post, engine: FakeEngine) -> None:
    use(engine)
    events = told(post(stream=True, tools=TOOLS))
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


def test_the_client_reads_a_stream(client: openai.OpenAI, engine: FakeEngine) -> None:
    use(engine)
    with client.responses.stream(model="fake/model", input="Weather?", tools=TOOLS) as stream:  # type: ignore[arg-type]
        final = stream.get_final_response()
    assert final.output_text == "Let me see."
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]


def test_logprobs(post, engine: FakeEngine) -> None:
    response = read(post(include=["message.output_text.logprobs"], top_logprobs=2))
    found = response.output[0].content[0].logprobs  # type: ignore[union-attr]
    assert [entry.token for entry in found] == [chr(FIRST_TOKEN + i) for i in range(len(WORDS))]
    assert all(len(entry.top_logprobs) == 2 for entry in found)
    assert refusal(post(top_logprobs=2))["param"] == "top_logprobs"


def test_a_conversation_with_calls_and_thoughts(post, engine: FakeEngine) -> None:
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
    response = read(post(input=items, instructions="Be brief.", tools=TOOLS))
    system, user, own, result, again = engine.tokenizer.last["messages"]
    assert system == {"role": "system", "content": "Be brief.\n\nIn French."}
    assert user == {"role": "user", "content": "Weather?"}
    assert own["content"] == "I look."
    assert own["reasoning_content"] == "Hmm."
    assert own["tool_calls"] == [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    assert result == {"role": "tool", "content": "sunny", "tool_call_id": "c1", "name": "weather"}
    assert again["content"] == "And now?"
    listed = ResponseItemList.model_validate(post(f"/{response.id}/input_items", "GET", order="asc").json())
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


def test_it_goes_on_from_what_was_kept(post, engine: FakeEngine) -> None:
    first = read(post(instructions="Be brief."))
    second = read(post(input="And of Spain?", previous_response_id=first.id))
    assert second.previous_response_id == first.id
    read(post(input="Thanks", previous_response_id=second.id, instructions="Be kind."))
    assert turns(engine) == [
        ("system", "Be kind."),
        ("user", "Capital of France?"),
        ("assistant", TEXT),
        ("user", "And of Spain?"),
        ("assistant", TEXT),
        ("user", "Thanks"),
    ]
    listed = post(f"/{second.id}/input_items", "GET").json()["data"]
    assert [item["content"][0]["text"] for item in listed] == ["And of Spain?", TEXT, "Capital of France?"]


def test_calls_go_on_from_what_was_kept(post, engine: FakeEngine) -> None:
    use(engine)
    first = read(post(tools=TOOLS))
    result = [{"type": "function_call_output", "call_id": first.output[2].call_id, "output": "sunny"}]  # type: ignore[union-attr]
    read(post(input=result, previous_response_id=first.id, tools=TOOLS))
    _, own, result = engine.tokenizer.last["messages"]
    assert own["reasoning_content"] == "Hmm."
    assert own["tool_calls"][0]["function"]["name"] == "weather"
    assert result["name"] == "weather"


def test_a_stream_is_kept_before_its_end_is_told(post, engine: FakeEngine) -> None:
    last = told(post(stream=True))[-1].response
    assert read(post(f"/{last.id}", "GET")) == last


def test_references_to_kept_items(post, engine: FakeEngine) -> None:
    first = read(post())
    reference = {"type": "item_reference", "id": first.output[0].id}
    read(post(input=[{"role": "user", "content": "a"}, reference, {"role": "user", "content": "b"}], store=False))
    assert turns(engine) == [("user", "a"), ("assistant", TEXT), ("user", "b")]
    assert refusal(post(input=[{"type": "item_reference", "id": "msg_none"}]), 404)["param"] == "input"


def test_what_is_kept_can_be_read_and_deleted(client: openai.OpenAI, engine: FakeEngine) -> None:
    made = client.responses.create(model="fake/model", input="Hi")
    assert client.responses.retrieve(made.id) == made
    client.responses.delete(made.id)
    for use_it in (
        lambda: client.responses.retrieve(made.id),
        lambda: client.responses.delete(made.id),
        lambda: client.responses.cancel(made.id),
        lambda: client.responses.input_items.list(made.id),
        lambda: client.responses.create(model="fake/model", input="Hi", previous_response_id=made.id),
    ):
        with pytest.raises(openai.NotFoundError, match=made.id):
            use_it()


def test_what_is_not_to_be_kept_is_not(post, engine: FakeEngine) -> None:
    response = read(post(store=False))
    assert post(f"/{response.id}", "GET").status_code == 404


def test_pages_of_input_items(client: openai.OpenAI, engine: FakeEngine) -> None:
    items: Any = [{"role": "user", "content": str(number)} for number in range(5)]
    made = client.responses.create(model="fake/model", input=items)
    page = client.responses.input_items.list(made.id, limit=2, order="asc")
    assert len(page.data) == 2
    assert page.has_more
    assert [item.content[0].text for item in page] == list("01234")  # type: ignore[union-attr]
    for query in ({"limit": 0}, {"limit": "x"}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError):
            client.responses.input_items.list(made.id, **query)  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(made.id, after="msg_none")


def test_the_least_used_go_first(engine: FakeEngine) -> None:
    with serving(engine, ServerSettings(max_stored_responses=2)) as url, httpx.Client(base_url=url) as client:

        def ask(**body: Any) -> str:
            return client.post("/v1/responses", json={"input": "Hi", **body}).json()["id"]

        first, second = ask(), ask()
        ask(previous_response_id=first, store=False)
        third = ask()
        found = {id: client.get(f"/v1/responses/{id}").status_code for id in (first, second, third)}
    assert found == {first: 200, second: 404, third: 200}


def test_a_server_that_keeps_nothing(ask, engine: FakeEngine) -> None:
    def send(**body: Any) -> httpx.Response:
        settings = ServerSettings(max_stored_responses=0)
        return ask("POST", "/v1/responses", settings=settings, json={"input": "Hi", **body})

    assert read(send()).status == "completed"
    assert send().json()["store"] is False
    assert refusal(send(store=True))["param"] == "store"
    assert refusal(send(background=True))["param"] == "store"


def test_more_bytes_than_may_be_kept(engine: FakeEngine) -> None:
    with serving(engine, ServerSettings(max_stored_response_bytes=4000)) as url, httpx.Client(base_url=url) as client:
        ids = [client.post("/v1/responses", json={"input": "Hi"}).json()["id"] for _ in range(5)]
        found = [client.get(f"/v1/responses/{id}").status_code for id in ids]
    assert found[0] == 404
    assert found[-1] == 200


def test_in_the_background(post, engine: FakeEngine, until) -> None:
    engine.delay = 0.02
    queued = read(post(background=True))
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])

    def now() -> Response:
        return read(post(f"/{queued.id}", "GET"))

    refused = refusal(post(previous_response_id=queued.id))
    assert refused["param"] == "previous_response_id"
    until(lambda: now().status == "in_progress")
    until(lambda: now().status == "completed")
    assert now().output_text == TEXT
    assert read(post(f"/{queued.id}/cancel")).status == "completed", "what has ended stays as it is"


def test_cancelling(post, engine: FakeEngine, until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    queued = read(post(background=True))
    until(lambda: engine.running)
    assert read(post(f"/{queued.id}/cancel")).status == "cancelled"
    until(lambda: engine.aborted)
    assert read(post(f"/{queued.id}", "GET")).status == "cancelled"


def test_deleting_ends_it(post, engine: FakeEngine, until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    queued = read(post(background=True))
    until(lambda: engine.running)
    assert post(f"/{queued.id}", "DELETE").json() == {"id": queued.id, "object": "response", "deleted": True}
    until(lambda: engine.aborted)
    assert post(f"/{queued.id}", "GET").status_code == 404


def test_what_has_no_background_cannot_be_cancelled(post, engine: FakeEngine) -> None:
    response = read(post())
    assert "background" in refusal(post(f"/{response.id}/cancel"))["message"]


def test_a_failure_in_the_background(post, engine: FakeEngine, until) -> None:
    engine.fail_at, engine.failure = 2, Delta(0, "", [], "error", error="the cache is broken")
    queued = read(post(background=True))
    until(lambda: read(post(f"/{queued.id}", "GET")).status == "failed")
    error = read(post(f"/{queued.id}", "GET")).error
    assert error is not None
    assert (error.code, error.message) == ("server_error", "the cache is broken")


def test_only_so_many_in_the_background(engine: FakeEngine) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    with serving(engine, ServerSettings(max_stored_responses=2)) as url, httpx.Client(base_url=url) as client:
        found = [client.post("/v1/responses", json={"input": "Hi", "background": True}) for _ in range(3)]
        assert [response.status_code for response in found] == [200, 200, 429]
        for response in found[:2]:
            client.post(f"/v1/responses/{response.json()['id']}/cancel")


def test_a_failure_in_the_midst_of_a_stream(post, engine: FakeEngine) -> None:
    engine.fail_at, engine.failure = 2, Delta(0, "", [], "error", error="the cache is broken")
    failed = told(post(stream=True))[-1]
    assert failed.type == "response.failed"
    assert failed.response.status == "failed"
    assert failed.response.error.message == "the cache is broken"
    assert failed.response.output[0].content[0].text == "Paris is"
    assert failed.response.output[0].status == "incomplete"


def test_a_client_that_leaves_ends_it(live: str, engine: FakeEngine, until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    with httpx.stream("POST", f"{live}/v1/responses", json={"input": "Hi", "stream": True}) as response:
        next(response.iter_lines())
    until(lambda: engine.aborted)


def test_forms_of_the_answer(post, engine: FakeEngine) -> None:
    form = {"type": "json_schema", "name": "place", "schema": WEATHER, "strict": True}
    response = read(post(text={"format": form}))
    asked = engine.asked[-1][1].structured_outputs
    assert asked is not None
    assert asked.json == WEATHER
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.to_dict() == form
    read(post(text={"format": {"type": "json_object"}, "verbosity": "medium"}))
    assert engine.asked[-1][1].structured_outputs.json_object  # type: ignore[union-attr]
    assert refusal(post(text={"format": {"type": "json_schema", "schema": {}}}))["param"] == "text.format.name"


def test_tools_that_must_be_called(post, engine: FakeEngine) -> None:
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
        response = read(post(tools=two, tool_choice=choice))
        shown = response.tool_choice if isinstance(response.tool_choice, str) else response.tool_choice.to_dict()
        assert shown == choice
        form = engine.asked[-1][1].structured_outputs.structural_tag["format"]  # type: ignore[union-attr,index]
        calls = form["elements"][-1]
        assert [tag["begin"].split('"')[3] for tag in calls["tags"]] == names


def test_effort(post, engine: FakeEngine) -> None:
    response = read(post(reasoning={"effort": "none", "summary": "auto"}))
    assert engine.tokenizer.last["enable_thinking"] is False
    assert response.reasoning is not None
    assert response.reasoning.effort == "none"
    read(post(reasoning={"effort": "max"}))
    assert engine.tokenizer.last["reasoning_effort"] == "xhigh"


def test_truncation_leaves_out_the_oldest_turns(post, engine: FakeEngine) -> None:
    items = [{"role": "user" if i % 2 == 0 else "assistant", "content": f"{i}" * 50} for i in range(19)]
    refused = refusal(post(input=items, instructions="Be brief.", max_output_tokens=20))
    assert refused["param"] == "input"
    assert refused["code"] == "context_length_exceeded"
    response = read(post(input=items, instructions="Be brief.", max_output_tokens=20, truncation="auto"))
    assert response.truncation == "auto"
    kept = turns(engine)
    assert kept[0] == ("system", "Be brief.")
    assert kept[1][0] == "user"
    assert kept[-1] == ("user", "18" * 50)
    prompt = engine.asked[-1][0]
    pair = len("<user><assistant>") + 200
    assert len(prompt) <= engine.max_model_len - 20 < len(prompt) + pair, "no more is left out than has to be"
    long = [*items, {"role": "user", "content": "x" * 600}]
    assert refusal(post(input=long, truncation="auto"))["code"] == "context_length_exceeded"


def test_a_part_of_the_id_may_be_given(post, engine: FakeEngine) -> None:
    assert read(post(request_id="mine")).id == "resp_mine"
    assert refusal(post(request_id="mine"))["param"] == "request_id"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"service_tier": "flex"}, "service_tier"),
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
        ({"background": True, "stream": True}, "stream"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_is_refused(post, body: dict[str, Any], param: str) -> None:
    assert refusal(post(**body))["param"] == param


def test_what_asks_for_nothing_is_taken(post, engine: FakeEngine) -> None:
    response = post(
        conversation=None,
        stream_options={"include_obfuscation": False},
        service_tier="auto",
        include=["reasoning.encrypted_content"],
        max_tool_calls=3,
        truncation="disabled",
        text={"format": {"type": "text"}, "verbosity": "medium"},
        context_management=[],
    )
    assert read(response).max_tool_calls == 3


def test_a_stream_of_what_was_kept_is_refused(post) -> None:
    response = read(post())
    assert refusal(post(f"/{response.id}", "GET", stream="true"))["param"] == "stream"
