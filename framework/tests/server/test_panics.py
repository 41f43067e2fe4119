"""A library in Rust panics with an exception that derives from ``BaseException`` alone: wherever it does, the request
ends with the error object of its API and a request id, and the server goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, NoReturn

import httpx2
import pytest
from server_fakes import FakeEngine, serving

from dovetail.kernel.plan_parts import PoolingPlan
from dovetail.server.app import build_app
from dovetail.server.generate.sse import GenerationStreamResponse
from dovetail.server.http.errors import server_stopping_error
from dovetail.server.settings import ServerSettings

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
MESSAGE = {**CHAT, "max_tokens": 9}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": MESSAGE,
}


class PanicException(BaseException):
    """As pyo3's: no ``Exception``."""


FAILURES = [PanicException("secret detail"), MemoryError("secret detail"), RecursionError("secret detail")]
each_failure = pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
each_route = pytest.mark.parametrize("path", BODIES)


def panic(*_: Any, **__: Any) -> NoReturn:
    raise PanicException("secret detail")


def error_message(response: httpx2.Response) -> str:
    """The message of the error object, which has the request's id."""
    assert response.status_code == 500, response.text
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    message: str = response.json()["error"]["message"]
    assert response.headers["x-request-id"] in message
    return message


@each_failure
@each_route
def test_in_the_engine(
    ask, engine: FakeEngine, caplog: pytest.LogCaptureFixture, path: str, failure: BaseException
) -> None:
    engine.fail_at, engine.failure = 2, failure
    response = ask("POST", path, json=BODIES[path])
    error_message(response)
    assert f"request {response.headers['x-request-id']} failed" in caplog.text
    assert engine.aborted
    engine.fail_at = -1
    assert ask("POST", path, json=BODIES[path]).status_code == 200


@each_failure
@each_route
def test_before_a_stream_has_begun(ask, engine: FakeEngine, path: str, failure: BaseException) -> None:
    engine.fail_at, engine.failure = 0, failure
    error_message(ask("POST", path, json={**BODIES[path], "stream": True}))


@each_failure
@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/chat/completions", 'data: {"error":{"message":"internal error'),
        ("/v1/completions", 'data: {"error":{"message":"internal error'),
        ("/v1/responses", 'event: response.failed\ndata: {"type":"response.failed"'),
        ("/v1/messages", 'event: error\ndata: {"type":"error","error":{"type":"api_error"'),
    ],
)
def test_within_a_stream(ask, engine: FakeEngine, path: str, last: str, failure: BaseException) -> None:
    engine.fail_at, engine.failure = 2, failure
    response = ask("POST", path, json={**BODIES[path], "stream": True})
    assert response.status_code == 200
    event = response.text.strip().split("\n\n")[-1]
    assert event.startswith(last), event
    assert response.headers["x-request-id"] in event
    assert "secret" not in response.text


def test_of_one_of_several_prompts(ask, engine: FakeEngine) -> None:
    engine.fail_at, engine.failure = 2, PanicException("secret detail")
    error_message(ask("POST", "/v1/completions", json={"prompt": ["a", "b", "c"]}))
    assert not engine.running


@each_route
def test_where_an_event_is_encoded(ask, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    calls = iter(range(9))

    async def fail_later(self: GenerationStreamResponse, send: Any) -> None:
        if next(calls) == 0:
            await send({"type": "http.response.body", "body": b": begun\n\n", "more_body": True})
        panic()

    monkeypatch.setattr(GenerationStreamResponse, "send_all", fail_later)
    monkeypatch.setattr(GenerationStreamResponse, "encode_error", panic)  # what failed is needed for the error, too
    response = ask("POST", path, json={**BODIES[path], "stream": True})
    assert response.text.startswith(": begun\n\n")
    assert response.headers["x-request-id"] in response.text.split("\n\n")[1]


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("/v1/completions", {"prompt": "Hi"}, "encode"),
        ("/v1/chat/completions", CHAT, "apply_chat_template"),
        ("/v1/messages", MESSAGE, "apply_chat_template"),
        ("/v1/responses", {"input": "Hi"}, "apply_chat_template"),
        ("/v1/responses/input_tokens", {"input": "Hi"}, "apply_chat_template"),
        ("/tokenize", {"prompt": "Hi"}, "encode"),
        ("/detokenize", {"tokens": [1]}, "decode"),
    ],
)
def test_in_the_thread_that_tokenizes(
    ask, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], part: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine.tokenizer, part, panic)
        patch.setattr(engine.tokenizer, "encode_within", panic)
        error_message(ask("POST", path, json=body))
    assert ask("POST", path, json=body).status_code == 200


def test_of_one_of_several_vectors(ask, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.plan.tasks = ("embed",)
    engine.plan.pooling = PoolingPlan(type="last", normalize=True, reason="the default")
    monkeypatch.setattr(FakeEngine, "pool", panic)
    error_message(ask("POST", "/v1/embeddings", json={"input": ["a", "b"]}))


def test_over_a_socket(engine: FakeEngine) -> None:
    engine.fail_at, engine.failure = 2, PanicException("secret detail")
    with serving(engine, ServerSettings()) as url, httpx2.Client(base_url=url) as client:
        for _ in range(2):
            error_message(client.post("/v1/chat/completions", json=CHAT))
        assert client.get("/health").status_code == 200


# In the background nobody waits for the exception, so the response itself must tell of it.


@each_failure
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("step", [0, 2])
def test_in_the_background(
    live: str, engine: FakeEngine, until: Callable[..., None], failure: BaseException, stream: bool, step: int
) -> None:
    engine.fail_at, engine.failure = step, failure
    with httpx2.Client(base_url=live) as client:
        made = client.post("/v1/responses", json={"input": "Hi", "background": True, "stream": stream})
        assert made.status_code == 200
        first = json.loads(made.text.split("data: ")[1].partition("\n")[0]) if stream else made.json()
        id = first["response"]["id"] if stream else first["id"]
        until(lambda: client.get(f"/v1/responses/{id}").json()["status"] == "failed")
        error = client.get(f"/v1/responses/{id}").json()["error"]
    assert error["code"] == "server_error"
    assert made.headers["x-request-id"] in error["message"]
    assert "secret" not in error["message"]
    if stream:
        assert made.text.strip().split("\n\n")[-1].startswith("event: response.failed")


def test_a_response_in_the_background_fails_with_the_server(engine: FakeEngine) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 400

    async def run() -> dict[str, Any]:
        app = build_app(engine, ServerSettings())
        context = app.state.context
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
            made = (await client.post("/v1/responses", json={"input": "Hi", "background": True})).json()
            while not engine.running:
                await asyncio.sleep(0.005)
            context.abort_all(server_stopping_error())
            while context.open_tasks:
                await asyncio.sleep(0.005)
            found: dict[str, Any] = json.loads(await context.response_store.get(made["id"]) or b"")
            return found

    found = asyncio.run(run())
    assert found["status"] == "failed"
    assert "stopping" in found["error"]["message"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_it(chat, engine: FakeEngine, kind: type[BaseException]) -> None:
    engine.fail_at, engine.failure = 2, kind()
    with pytest.raises(kind):
        chat()
