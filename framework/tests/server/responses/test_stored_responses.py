"""Responses of OpenAI's Responses API that are kept, and those that are made in the background."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import Response
from server_fakes import FakeEngine, build_app, serving

from dovetail.engine.request.outputs import Delta
from dovetail.server.observe.counters import Counters
from dovetail.server.responses.background import fail_orphaned_responses
from dovetail.server.settings import ServerSettings
from dovetail.server.stored.database import create_store_file
from dovetail.server.stored.responses import EventBatch, ResponseStore
from dovetail.server.stored.store import Store

from .test_routes import TEXT, TOOLS, read, refusal, told, turns, use


def test_it_goes_on_from_what_was_kept(responses, engine: FakeEngine) -> None:
    first = read(responses(instructions="Be brief."))
    second = read(responses(input="And of Spain?", previous_response_id=first.id))
    assert second.previous_response_id == first.id
    read(responses(input="Thanks", previous_response_id=second.id, instructions="Be kind."))
    assert turns(engine) == [
        ("system", "Be kind."),
        ("user", "Capital of France?"),
        ("assistant", TEXT),
        ("user", "And of Spain?"),
        ("assistant", TEXT),
        ("user", "Thanks"),
    ]
    listed = responses(f"/{second.id}/input_items", "GET").json()["data"]
    assert [item["content"][0]["text"] for item in listed] == ["And of Spain?", TEXT, "Capital of France?"]


def test_calls_go_on_from_what_was_kept(responses, engine: FakeEngine) -> None:
    use(engine)
    first = read(responses(tools=TOOLS))
    result = [{"type": "function_call_output", "call_id": first.output[2].call_id, "output": "sunny"}]  # type: ignore[union-attr]
    read(responses(input=result, previous_response_id=first.id, tools=TOOLS))
    _, own, result = engine.tokenizer.last["messages"]
    assert own["reasoning_content"] == "Hmm."
    assert own["tool_calls"][0]["function"]["name"] == "weather"
    assert result["name"] == "weather"


def test_a_stream_is_kept_before_its_end_is_told(responses, engine: FakeEngine) -> None:
    last = told(responses(stream=True))[-1].response
    assert read(responses(f"/{last.id}", "GET")) == last


def test_references_to_kept_items(responses, engine: FakeEngine) -> None:
    first = read(responses())
    reference = {"type": "item_reference", "id": first.output[0].id}
    read(responses(input=[{"role": "user", "content": "a"}, reference, {"role": "user", "content": "b"}], store=False))
    assert turns(engine) == [("user", "a"), ("assistant", TEXT), ("user", "b")]
    assert refusal(responses(input=[{"type": "item_reference", "id": "msg_none"}]), 404)["param"] == "input"


def test_what_is_kept_can_be_read_and_deleted(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    made = openai_client.responses.create(model="fake/model", input="Hi")
    assert openai_client.responses.retrieve(made.id) == made
    openai_client.responses.delete(made.id)
    for use_it in (
        lambda: openai_client.responses.retrieve(made.id),
        lambda: openai_client.responses.delete(made.id),
        lambda: openai_client.responses.cancel(made.id),
        lambda: openai_client.responses.input_items.list(made.id),
        lambda: openai_client.responses.create(model="fake/model", input="Hi", previous_response_id=made.id),
    ):
        with pytest.raises(openai.NotFoundError, match=made.id):
            use_it()


def test_what_is_not_to_be_kept_is_not(responses, engine: FakeEngine) -> None:
    response = read(responses(store=False))
    assert responses(f"/{response.id}", "GET").status_code == 404


def test_pages_of_input_items(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    items: Any = [{"role": "user", "content": str(number)} for number in range(5)]
    made = openai_client.responses.create(model="fake/model", input=items)
    page = openai_client.responses.input_items.list(made.id, limit=2, order="asc")
    assert len(page.data) == 2
    assert page.has_more
    assert [item.content[0].text for item in page] == list("01234")  # type: ignore[union-attr]
    for query in ({"limit": 0}, {"limit": "x"}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError):
            openai_client.responses.input_items.list(made.id, **query)  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.input_items.list(made.id, after="msg_none")


def test_the_least_used_go_first(engine: FakeEngine) -> None:
    with serving(engine, ServerSettings(max_stored_responses=2)) as url, httpx2.Client(base_url=url) as client:

        def ask(**body: Any) -> str:
            return client.post("/v1/responses", json={"input": "Hi", **body}).json()["id"]

        first, second = ask(), ask()
        ask(previous_response_id=first, store=False)
        third = ask()
        found = {id: client.get(f"/v1/responses/{id}").status_code for id in (first, second, third)}
    assert found == {first: 200, second: 404, third: 200}


def test_a_server_that_keeps_nothing(ask, engine: FakeEngine) -> None:
    def send(**body: Any) -> httpx2.Response:
        settings = ServerSettings(max_stored_responses=0)
        return ask("POST", "/v1/responses", settings=settings, json={"input": "Hi", **body})

    assert read(send()).status == "completed"
    assert send().json()["store"] is False
    assert refusal(send(store=True))["param"] == "store"
    assert refusal(send(background=True))["param"] == "store"


def test_more_bytes_than_may_be_kept(engine: FakeEngine) -> None:
    with serving(engine, ServerSettings(max_stored_response_bytes=4000)) as url, httpx2.Client(base_url=url) as client:
        ids = [client.post("/v1/responses", json={"input": "Hi"}).json()["id"] for _ in range(5)]
        found = [client.get(f"/v1/responses/{id}").status_code for id in ids]
    assert found[0] == 404
    assert found[-1] == 200


def test_in_the_background(responses, engine: FakeEngine, until) -> None:
    engine.delay = 0.02
    queued = read(responses(background=True))
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])

    def now() -> Response:
        return read(responses(f"/{queued.id}", "GET"))

    refused = refusal(responses(previous_response_id=queued.id))
    assert refused["param"] == "previous_response_id"
    until(lambda: now().status == "in_progress")
    until(lambda: now().status == "completed")
    assert now().output_text == TEXT
    assert read(responses(f"/{queued.id}/cancel")).status == "completed", "what has ended stays as it is"


def test_cancelling(responses, engine: FakeEngine, until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    queued = read(responses(background=True))
    until(lambda: engine.running)
    assert read(responses(f"/{queued.id}/cancel")).status == "cancelled"
    until(lambda: engine.aborted)
    assert read(responses(f"/{queued.id}", "GET")).status == "cancelled"


def test_deleting_ends_it(responses, engine: FakeEngine, until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    queued = read(responses(background=True))
    until(lambda: engine.running)
    assert responses(f"/{queued.id}", "DELETE").json() == {"id": queued.id, "object": "response", "deleted": True}
    until(lambda: engine.aborted)
    assert responses(f"/{queued.id}", "GET").status_code == 404


def test_what_has_no_background_cannot_be_cancelled(responses, engine: FakeEngine) -> None:
    response = read(responses())
    assert "background" in refusal(responses(f"/{response.id}/cancel"))["message"]


def test_a_failure_in_the_background(responses, engine: FakeEngine, until) -> None:
    engine.fail_at, engine.failure = 2, Delta(0, "", [], "error", error="the cache is broken")
    queued = read(responses(background=True))
    until(lambda: read(responses(f"/{queued.id}", "GET")).status == "failed")
    error = read(responses(f"/{queued.id}", "GET")).error
    assert error is not None
    assert error.code == "server_error"
    assert error.message.startswith("the cache is broken; the request id is ")


def test_only_so_many_in_the_background(engine: FakeEngine) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    with serving(engine, ServerSettings(max_stored_responses=2)) as url, httpx2.Client(base_url=url) as client:
        found = [client.post("/v1/responses", json={"input": "Hi", "background": True}) for _ in range(3)]
        assert [response.status_code for response in found] == [200, 200, 429]
        for response in found[:2]:
            client.post(f"/v1/responses/{response.json()['id']}/cancel")


def test_in_the_background_it_counts_as_a_request(engine: FakeEngine, until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    body = {"input": "Hi", "background": True}
    with serving(engine, ServerSettings(max_concurrent_requests=1)) as url, httpx2.Client(base_url=url) as client:
        made = read(client.post("/v1/responses", json=body))
        refused = client.post("/v1/responses", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
        assert read(client.get(f"/v1/responses/{made.id}")).status in ("queued", "in_progress")
        assert read(client.post(f"/v1/responses/{made.id}/cancel")).status == "cancelled"
        until(lambda: client.post("/v1/responses", json=body).status_code == 200)


@pytest.mark.parametrize("stream", [False, True])
def test_one_of_two_at_once_gets_the_id_in_the_background(live: str, engine: FakeEngine, stream: bool) -> None:
    engine.delay = 0.01
    body = {"input": "Hi", "request_id": "mine", "background": True, "stream": stream}
    with ThreadPoolExecutor() as pool, httpx2.Client(base_url=live) as client:
        found = list(pool.map(lambda _: client.post("/v1/responses", json=body), range(6)))
    assert sorted(answer.status_code for answer in found) == [200] + [400] * 5
    assert {refusal(answer)["param"] for answer in found if answer.status_code == 400} == {"request_id"}


def test_a_part_of_the_id_may_be_given(responses, engine: FakeEngine) -> None:
    assert read(responses(request_id="mine")).id == "resp_mine"
    assert refusal(responses(request_id="mine"))["param"] == "request_id"


def test_what_was_not_streamed_in_the_background_cannot_be_followed(responses, engine: FakeEngine, until) -> None:
    whole, streamed = read(responses()), told(responses(stream=True))[-1].response
    silent = read(responses(background=True))
    for response in (whole, streamed, silent):
        assert refusal(responses(f"/{response.id}", "GET", stream="true"))["param"] == "stream"
    assert refusal(responses("/resp_none", "GET", stream="true"), 404)["param"] == "response_id"


@pytest.mark.parametrize(
    "wrong", [{"stream": "yes"}, {"stream": "true", "starting_after": "-1"}, {"starting_after": "1"}], ids=str
)
def test_wrong_questions_about_a_stream(responses, wrong: dict[str, str]) -> None:
    made = told(responses(stream=True, background=True))[-1].response
    assert refusal(responses(f"/{made.id}", "GET", **wrong))["param"] == list(wrong)[-1]


def test_a_stream_in_the_background(responses, engine: FakeEngine) -> None:
    use(engine)
    at_once = [event.type for event in told(responses(stream=True, tools=TOOLS))]
    events = told(responses(stream=True, background=True, tools=TOOLS))
    types = [event.type for event in events]
    assert types[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert types[3:] == at_once[2:]
    assert [event.response.status for event in (*events[:3], events[-1])] == [
        "queued",
        "queued",
        "in_progress",
        "completed",
    ]
    last = events[-1].response
    assert read(responses(f"/{last.id}", "GET")) == last
    for after in (None, *range(len(events))):
        asked = {} if after is None else {"starting_after": after}
        first = 0 if after is None else after + 1
        assert told(responses(f"/{last.id}", "GET", stream="true", **asked), first) == events[first:]


def test_a_stream_in_the_background_goes_on_without_its_client(live: str, engine: FakeEngine, until) -> None:
    engine.delay = 0.02
    with httpx2.Client(base_url=live) as client:
        body = {"input": "Hi", "background": True, "stream": True}
        with client.stream("POST", "/v1/responses", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            id = json.loads(next(lines).removeprefix("data: "))["response"]["id"]
        rest = told(client.get(f"/v1/responses/{id}", params={"stream": "true", "starting_after": 1}), 2)
    assert rest[0].type == "response.in_progress"
    assert rest[-1].response.output_text == TEXT
    assert not engine.aborted


def test_a_stream_in_the_background_that_fails(responses, engine: FakeEngine) -> None:
    engine.fail_at, engine.failure = 2, Delta(0, "", [], "error", error="the cache is broken")
    last = told(responses(stream=True, background=True))[-1]
    assert last.type == "response.failed"
    assert last.response.error.message.startswith("the cache is broken; the request id is ")
    assert read(responses(f"/{last.response.id}", "GET")) == last.response


def test_a_stream_in_the_background_ends_when_it_is_cancelled(live: str, engine: FakeEngine, until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    with httpx2.Client(base_url=live) as client:
        body = {"input": "Hi", "background": True, "stream": True}
        for end in ("cancel", "delete"):
            with client.stream("POST", "/v1/responses", json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
                path = f"/v1/responses/{json.loads(next(lines).removeprefix('data: '))['response']['id']}"
                until(lambda: engine.running)
                ended = client.post(f"{path}/cancel") if end == "cancel" else client.delete(path)
                assert ended.status_code == 200
                assert "response.completed" not in "".join(lines)
            until(lambda: not engine.running)


def test_what_is_told_in_the_background_counts_as_kept(engine: FakeEngine) -> None:
    with serving(engine, ServerSettings(max_stored_response_bytes=6000)) as url, httpx2.Client(base_url=url) as client:
        whole = [client.post("/v1/responses", json={"input": "Hi"}).json()["id"] for _ in range(3)]
        assert [client.get(f"/v1/responses/{id}").status_code for id in whole] == [200, 200, 200]
        told(client.post("/v1/responses", json={"input": "Hi", "background": True, "stream": True}))
        assert client.get(f"/v1/responses/{whole[-1]}").status_code == 404


def test_processes_share_what_is_kept(two: list[httpx2.Client], engine: FakeEngine) -> None:
    first = read(two[0].post("/v1/responses", json={"input": "Hi"}))
    assert read(two[1].get(f"/v1/responses/{first.id}")) == first
    read(two[1].post("/v1/responses", json={"input": "Go on", "previous_response_id": first.id}))
    assert turns(engine) == [("user", "Hi"), ("assistant", TEXT), ("user", "Go on")]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_any_process_ends_what_another_makes(two: list[httpx2.Client], engine: FakeEngine, until, method: str) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400
    made = read(two[0].post("/v1/responses", json={"input": "Hi", "background": True}))
    until(lambda: engine.running)
    path = f"/v1/responses/{made.id}"
    assert two[1].request(method, path if method == "DELETE" else f"{path}/cancel").status_code == 200
    until(lambda: engine.aborted)
    found = two[0].get(path)
    assert found.status_code == 404 if method == "DELETE" else read(found).status == "cancelled"


def test_any_process_tells_of_what_another_makes(two: list[httpx2.Client], engine: FakeEngine) -> None:
    engine.delay = 0.02
    with two[0].stream("POST", "/v1/responses", json={"input": "Hi", "background": True, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        id = json.loads(next(lines).removeprefix("data: "))["response"]["id"]
        there = told(two[1].get(f"/v1/responses/{id}", params={"stream": "true"}))
        assert there[-1].response.output_text == TEXT
        here = told(two[0].get(f"/v1/responses/{id}", params={"stream": "true"}))
    assert here == there


def test_what_a_lost_process_was_making_has_failed(tmp_path: Path, engine: FakeEngine) -> None:
    response = {"id": "resp_1", "previous_response_id": None, "status": "queued", "output": []}

    async def run() -> tuple[list[Any], list[EventBatch]]:
        lost, other = (ResponseStore(Store(9, 10**6, file), owner) for owner in (1, 2))
        await lost.begin(response, [])
        await lost.begin({**response, "id": "resp_2"}, [], EventBatch(4, b"what was told\n\n"))
        await other.begin({**response, "id": "resp_3"}, [])
        app = build_app(engine, ServerSettings(), Counters.open(counters.fd, 1), store=file)
        await fail_orphaned_responses(app.state.context)
        _, told = await other.events_after("resp_2", 4)
        return [json.loads(await other.get(f"resp_{number}") or b"") for number in (1, 2, 3)], told

    file, counters = create_store_file(tmp_path), Counters.create(3)
    assert counters.fd is not None
    found, (end,) = asyncio.run(run())
    assert [each["status"] for each in found] == ["failed", "failed", "queued"]
    assert "ended" in found[0]["error"]["message"]
    assert (end.last, json.loads(end.events.split(b"data: ")[1])["response"]) == (5, found[1])


def test_an_id_that_is_given_anew_makes_no_circle() -> None:
    async def run() -> list[str]:
        store = ResponseStore(Store(9, 10**6))
        for id, previous in (("a", None), ("b", "a"), ("a", "b")):
            await store.delete(id)
            await store.put({"id": id, "previous_response_id": previous, "status": "completed", "output": []}, [])
        return [kept.response["id"] for kept in await store.chain("a")]

    assert asyncio.run(run()) == ["b", "a"]


def test_an_id_of_one_client_replaces_no_item_of_another(responses) -> None:
    mine = read(responses())
    id = mine.output[0].id
    forged = {"type": "message", "role": "assistant", "id": id, "content": "forged"}
    theirs = read(responses(input=[forged, {"role": "user", "content": "Go on"}]))
    reference = [{"type": "item_reference", "id": id}]
    listed = read(responses(input=reference))
    (item,) = responses(f"/{listed.id}/input_items", "GET").json()["data"]
    assert item["content"][0]["text"] == TEXT
    # What was deleted is gone, whoever sent a copy.
    responses(f"/{mine.id}", "DELETE")
    assert refusal(responses(input=reference), 404)["param"] == "input"
    assert theirs.status == "completed"


def test_nobody_can_refer_to_an_id_that_a_client_gave(responses) -> None:
    secret = {"type": "message", "role": "user", "id": "msg_1", "content": "secret"}
    read(responses(input=[secret]))
    assert refusal(responses(input=[{"type": "item_reference", "id": "msg_1"}]), 404)["param"] == "input"


def test_of_two_with_one_request_id_the_second_is_not_kept(live: str, engine: FakeEngine, until) -> None:
    engine.delay = 0.05
    with httpx2.Client(base_url=live) as client, ThreadPoolExecutor(2) as pool:
        body = {"input": "Hi", "request_id": "mine"}
        told = list(pool.map(lambda _: client.post("/v1/responses", json=body).json(), range(2)))
        assert sorted(each["store"] for each in told) == [False, True]
        (kept,) = (each for each in told if each["store"])
        assert client.get("/v1/responses/resp_mine").json() == kept


def test_of_two_completions_with_one_request_id_the_second_is_not_kept(live: str, engine: FakeEngine) -> None:
    engine.delay = 0.05
    with httpx2.Client(base_url=live) as client, ThreadPoolExecutor(2) as pool:
        body = {"messages": [{"role": "user", "content": "Hi"}], "store": True, "request_id": "mine"}
        told = list(pool.map(lambda _: client.post("/v1/chat/completions", json=body), range(2)))
    assert [each.status_code for each in told] == [200, 200]
    notices = sorted(each.headers.get("x-dovetail-notice", "") for each in told)
    assert notices == ["", "the completion is not stored: its request_id was given to another meanwhile"]
