"""Chat completions that are kept, with ``store``, read with OpenAI's own client."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import openai
import pytest
from chat_samples import CALL, KNOWS, TOOLS, events
from fake_parsers import plan
from openai.types.chat import ChatCompletion
from server_fakes import WORDS, FakeEngine, serving

from dovetail.engine.request.outputs import Delta
from dovetail.server.settings import ServerSettings
from dovetail.server.stored.chats import ChatStore
from dovetail.server.stored.pagination import Paging
from dovetail.server.stored.store import Store

PATH = "/v1/chat/completions"
TEXT = "".join(WORDS)
QUESTION = {"role": "user", "content": "Capital of France?"}
Stored = Any
"""What OpenAI's client has no fields for is among its attributes all the same."""


def use_tools(engine: FakeEngine) -> None:
    """Have the model think, speak and call."""
    engine.plan.tool_parsers, engine.plan.reasoning_parsers = (plan("Calls"),), (plan("Thoughts"),)
    engine.tokenizer.chat_template = KNOWS
    engine.words = ("<think>\nHm", "m.\n</think>\n\n", "Let me see.\n", CALL[:20], CALL[20:45], CALL[45:])


def make(client: openai.OpenAI, **body: Any) -> ChatCompletion:
    asked: dict[str, Any] = {"model": "fake/model", "messages": [QUESTION], "store": True, **body}
    return client.chat.completions.create(**asked)


def post(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    answer = client.post(PATH, json={"messages": [QUESTION], "store": True, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def put_together(response: httpx2.Response, count: int = 1) -> tuple[str, list[dict[str, Any]]]:
    """The id of a stream, and its choices as clients put them together."""
    choices: list[dict[str, Any]] = [{"content": "", "reasoning": "", "calls": []} for _ in range(count)]
    ids = set()
    for chunk in events(response)[:-1]:
        ids.add(chunk["id"])
        for piece in chunk["choices"]:
            made, delta = choices[piece["index"]], piece["delta"]
            made["content"] += delta.get("content") or ""
            made["reasoning"] += delta.get("reasoning") or ""
            made["finish_reason"] = piece["finish_reason"]
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    made["calls"].append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
                made["calls"][call["index"]]["arguments"] += call["function"]["arguments"]
    (id,) = ids
    return id, choices


def as_put_together(choice: dict[str, Any]) -> dict[str, Any]:
    """The same of a choice that is sent at once."""
    message = choice["message"]
    return {
        "content": message["content"],
        "reasoning": message.get("reasoning", ""),
        "calls": [{"id": call["id"], **call["function"]} for call in message.get("tool_calls", ())],
        "finish_reason": choice["finish_reason"],
    }


def test_what_is_kept_can_be_read_labelled_and_deleted(openai_client: openai.OpenAI) -> None:
    chats = openai_client.chat.completions
    made = make(openai_client, metadata={"trace": "7"}, temperature=0.5, seed=3, user="me")
    stored: Stored = chats.retrieve(made.id)
    assert stored.model_dump() | made.model_dump(exclude={"service_tier", "metadata"}) == stored.model_dump()
    assert (stored.metadata, stored.temperature, stored.seed, stored.input_user) == ({"trace": "7"}, 0.5, 3, "me")
    assert stored.request_id == made._request_id
    labelled: Stored = chats.update(made.id, metadata={"é": "ü"})
    assert labelled.metadata == {"é": "ü"}
    assert chats.retrieve(made.id) == labelled
    cleared: Stored = chats.update(made.id, metadata=None)
    assert cleared.metadata == {}
    deleted = chats.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "chat.completion.deleted", True)
    for use_it in (
        lambda: chats.retrieve(made.id),
        lambda: chats.update(made.id, metadata={}),
        lambda: chats.delete(made.id),
        lambda: chats.messages.list(made.id),
    ):
        with pytest.raises(openai.NotFoundError, match=made.id):
            use_it()


@pytest.mark.parametrize("body", [{}, {"store": False}, {"store": None}])
def test_what_is_not_to_be_kept_is_not(live: str, body: dict[str, Any]) -> None:
    with httpx2.Client(base_url=live) as client:
        made = client.post(PATH, json={"messages": [QUESTION], **body}).json()
        assert client.get(f"{PATH}/{made['id']}").status_code == 404
        listed = client.get(PATH).json()
    assert listed == {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}


@pytest.mark.parametrize("tools", [False, True])
def test_a_stream_is_kept_as_it_was_told(live: str, engine: FakeEngine, tools: bool) -> None:
    if tools:
        use_tools(engine)
    body = {"n": 2, "logprobs": True, **({"tools": TOOLS} if tools else {})}
    with httpx2.Client(base_url=live) as client:
        whole = post(client, **body)
        sent = {"messages": [QUESTION], "store": True, "stream": True, **body}
        id, choices = put_together(client.post(PATH, json=sent), 2)
        stored = client.get(f"{PATH}/{id}").json()
    assert stored["object"] == "chat.completion"
    assert list(map(as_put_together, stored["choices"])) == choices
    assert stored["usage"] == whole["usage"]
    assert [choice["logprobs"] for choice in stored["choices"]] == [choice["logprobs"] for choice in whole["choices"]]
    assert bool(choices[0]["calls"]) is tools


def test_the_older_form_of_a_call_is_kept_as_it_was_told(live: str, engine: FakeEngine) -> None:
    use_tools(engine)
    body = {"functions": [tool["function"] for tool in TOOLS], "messages": [QUESTION], "store": True, "stream": True}
    with httpx2.Client(base_url=live) as client:
        client.post(PATH, json=body)
        (stored,) = client.get(PATH).json()["data"]
    (choice,) = stored["choices"]
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert choice["finish_reason"] == "function_call"


def test_a_stream_is_kept_before_its_end_is_told(live: str) -> None:
    with httpx2.Client(base_url=live) as client, httpx2.Client(base_url=live) as other:
        body = {"messages": [QUESTION], "store": True, "stream": True}
        with client.stream("POST", PATH, json=body) as stream:
            for line in stream.iter_lines():
                if line == "data: [DONE]":
                    (stored,) = other.get(PATH).json()["data"]
    assert stored["choices"][0]["message"]["content"] == TEXT


def test_a_client_that_leaves_keeps_nothing(live: str, engine: FakeEngine, until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    with httpx2.Client(base_url=live) as client:
        body = {"messages": [QUESTION], "store": True, "stream": True}
        with client.stream("POST", PATH, json=body) as stream:
            next(stream.iter_lines())
        until(lambda: engine.aborted)
        assert client.get(PATH).json()["data"] == []


def test_a_stream_that_fails_keeps_nothing(live: str, engine: FakeEngine) -> None:
    engine.fail_at, engine.failure = 2, Delta(0, "", [], "error", error="the cache is broken")
    with httpx2.Client(base_url=live) as client:
        body = {"messages": [QUESTION], "store": True, "stream": True}
        assert "the cache is broken" in client.post(PATH, json=body).text
        assert client.get(PATH).json()["data"] == []


def test_pages_of_completions(openai_client: openai.OpenAI) -> None:
    chats = openai_client.chat.completions
    ids = [make(openai_client, metadata={"half": str(number % 2), "all": "x"}).id for number in range(5)]
    first = chats.list(limit=2)
    assert [chat.id for chat in first.data] == ids[:2]
    assert first.has_more
    assert [chat.id for chat in chats.list(limit=2)] == ids
    assert [chat.id for chat in chats.list(limit=3, order="desc")] == ids[::-1]
    assert [chat.id for chat in chats.list(after=ids[3])] == ids[4:]
    assert [chat.id for chat in chats.list(after=ids[1], order="desc")] == ids[:1]
    assert [chat.id for chat in chats.list(metadata={"half": "1", "all": "x"}, limit=1)] == ids[1::2]
    assert not chats.list(metadata={"half": "1", "all": "y"}).data
    assert [chat.id for chat in chats.list(model="fake/model")] == ids
    assert not chats.list(model="another").data
    with pytest.raises(openai.NotFoundError, match="chatcmpl-none"):
        chats.list(after="chatcmpl-none")


def test_a_list_goes_by_time() -> None:
    async def run() -> list[list[str]]:
        store = ChatStore(Store(9, 10**6))
        for id, created in (("a", 5), ("b", 3), ("c", 5)):
            await store.put({"id": id, "created": created, "model": "m"}, [], {})
        pages = (Paging("", 9, False), Paging("", 9, True), Paging("a", 9, False), Paging("c", 1, True))
        return [list((await store.list_page(paging, None, ()))[0]) for paging in pages]

    assert asyncio.run(run()) == [["b", "a", "c"], ["c", "a", "b"], ["c"], ["a"]]


def test_ends_of_a_page(live: str) -> None:
    with httpx2.Client(base_url=live) as client:
        ids = [post(client)["id"] for _ in range(3)]
        page = client.get(PATH, params={"limit": 2}).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[0], ids[1], True)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("metadata=a", "metadata"),
        ("metadata[a=b", "metadata"),
    ],
)
@pytest.mark.parametrize("path", [PATH, f"{PATH}/chatcmpl-none/messages"])
def test_pages_that_are_none(ask, path: str, query: str, param: str) -> None:
    if param == "metadata":
        path = PATH
    answer = ask("GET", f"{path}?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("id", ["none", "resp_none", "%00", "%ff", "a%2Fb", "ü", "%F0%9F%A5%96", "'--", "x" * 5000])
@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("DELETE", ""), ("POST", ""), ("GET", "/messages")])
def test_ids_that_are_none(ask, id: str, method: str, rest: str) -> None:
    body = {"json": {"metadata": {}}} if method == "POST" else {}
    assert ask(method, f"{PATH}/{id}{rest}", **body).status_code == 404


def test_messages(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    use_tools(engine)
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    parts = [{"type": "text", "text": "How is"}, {"type": "text", "text": "it?"}]
    given: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [*parts, "Well?"], "name": "somebody"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    made = make(openai_client, messages=given, tools=TOOLS)
    stored: Stored = openai_client.chat.completions.retrieve(made.id)
    assert stored.tools[0]["function"]["name"] == "weather"
    messages = openai_client.chat.completions.messages
    listed: list[Stored] = list(messages.list(made.id, limit=1))
    assert [message.id for message in listed] == [f"{made.id}-{number}" for number in range(4)]
    assert [message.role for message in listed] == ["system", "user", "assistant", "tool"]
    assert [message.content for message in listed] == ["Be brief.", "How is\nit?\nWell?", None, "sunny"]
    assert listed[0].content_parts is None
    assert [part.text for part in listed[1].content_parts] == ["How is", "it?", "Well?"]
    assert listed[1].name == "somebody"
    assert listed[2].tool_calls[0].function.name == "weather"
    assert listed[3].tool_call_id == "call_1"
    assert [message.id for message in messages.list(made.id, order="desc")] == [message.id for message in listed[::-1]]
    with pytest.raises(openai.NotFoundError, match="in this list"):
        messages.list(made.id, after="none")


@pytest.mark.parametrize(
    ("metadata", "param"),
    [
        ({"a": 1}, "metadata.a"),
        ({"a" * 65: "b"}, "metadata"),
        ({"a": "b" * 513}, "metadata.a"),
        ({str(number): "" for number in range(17)}, "metadata"),
    ],
)
def test_labels_that_are_too_much(openai_client: openai.OpenAI, metadata: Any, param: str) -> None:
    made = make(openai_client, metadata={"a" * 64: "b" * 512})
    for use_it in (
        lambda: make(openai_client, metadata=metadata),
        lambda: make(openai_client, metadata=metadata, stream=True),
        lambda: openai_client.chat.completions.update(made.id, metadata=metadata),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            use_it()
        assert str(error.value.param).startswith(param)
    assert make(openai_client, metadata=metadata, store=False).choices, "where nothing is kept, labels have no effect"


@pytest.mark.parametrize("body", [{}, {"metadata": {}, "store": True}, {"metadata": "a"}])
def test_labels_alone_can_be_changed(openai_client: openai.OpenAI, body: dict[str, Any]) -> None:
    made = make(openai_client)
    with pytest.raises(openai.BadRequestError):
        openai_client.post(f"/chat/completions/{made.id}", body=body, cast_to=ChatCompletion)


def test_they_share_their_room_with_responses(engine: FakeEngine) -> None:
    with serving(engine, ServerSettings(max_stored_responses=2)) as url, httpx2.Client(base_url=url) as client:

        def respond() -> str:
            return f"/v1/responses/{client.post('/v1/responses', json={'input': 'Hi'}).json()['id']}"

        def chat() -> str:
            return f"{PATH}/{post(client)['id']}"

        def found(*paths: str) -> list[bool]:
            return [client.get(path).status_code == 200 for path in paths]

        made = [chat(), respond()]
        made += [chat()]
        assert found(*made) == [False, True, True]
        made += [respond()]
        assert found(*made[1:]) == [False, True, True]
        client.post(made[2], json={"metadata": {"a": "b"}})  # which uses it
        made += [chat()]
        assert found(*made[2:]) == [True, False, True]


def test_more_bytes_than_may_be_kept(engine: FakeEngine) -> None:
    settings = ServerSettings(max_stored_response_bytes=6000)
    with serving(engine, settings) as url, httpx2.Client(base_url=url) as client:
        ids = [post(client)["id"] for _ in range(3)]
        assert [chat["id"] for chat in client.get(PATH).json()["data"]] == ids
        labels = {str(number): "x" * 512 for number in range(10)}
        assert client.post(f"{PATH}/{ids[0]}", json={"metadata": labels}).json()["metadata"] == labels
        assert [chat["id"] for chat in client.get(PATH).json()["data"]] == ids[:1], "what is labelled is used"
        last = post(client, messages=[{"role": "user", "content": "x" * 200}] * 2)["id"]
        assert [chat["id"] for chat in client.get(PATH).json()["data"]] == [last]


def test_a_server_that_keeps_nothing(ask) -> None:
    settings = ServerSettings(max_stored_responses=0)
    answer = ask("POST", PATH, settings=settings, json={"messages": [QUESTION], "store": True})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "store"
    assert ask("POST", PATH, settings=settings, json={"messages": [QUESTION]}).status_code == 200
    assert ask("GET", PATH, settings=settings).json()["data"] == []


def test_processes_share_what_is_kept(two: list[httpx2.Client]) -> None:
    made = [post(two[number])["id"] for number in (0, 1)]
    for client in two:
        assert [chat["id"] for chat in client.get(PATH).json()["data"]] == made
    assert two[0].delete(f"{PATH}/{made[1]}").status_code == 200
    assert two[1].get(f"{PATH}/{made[1]}").status_code == 404


def test_an_id_that_is_taken(openai_client: openai.OpenAI) -> None:
    mine: Any = {"extra_body": {"request_id": "mine"}}
    assert make(openai_client, **mine).id == "chatcmpl-mine"
    with pytest.raises(openai.BadRequestError, match="mine"):
        make(openai_client, **mine)
    assert make(openai_client, store=False, **mine).id == "chatcmpl-mine"


def test_the_other_routes_keep_nothing(complete, ask) -> None:
    assert complete(store=True).json()["error"]["param"] == "store"
    assert complete(store=False).status_code == 200
    body = {"model": "fake/model", "max_tokens": 4, "messages": [QUESTION], "store": True}
    assert ask("POST", "/v1/messages", json=body).status_code == 400
