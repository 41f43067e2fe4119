"""Real sockets and the real client: streams, many at once, clients that leave."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
from server_fakes import WORDS, FakeEngine, serving

from dovetail.server.settings import ServerSettings

TEXT = "".join(WORDS)
MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
Until = Callable[..., None]


@pytest.fixture
def client(live: str) -> Any:
    with openai.OpenAI(base_url=f"{live}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_client_chats(client: openai.OpenAI) -> None:
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model
    answer = client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, n=2)
    assert [choice.message.content for choice in answer.choices] == [TEXT] * 2
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_client_streams(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="fake/model", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert chunks[-1].usage is not None
    with client.chat.completions.stream(model="fake/model", messages=MESSAGES) as stream:
        assert stream.get_final_completion().choices[0].message.content == TEXT


def test_client_completes(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="fake/model", prompt=["a", "b"], extra_body={"top_k": 3})
    assert [choice.text for choice in answer.choices] == [TEXT] * 2
    stream = client.completions.create(model="fake/model", prompt="a", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == TEXT


def test_client_sees_errors(client: openai.OpenAI, engine: FakeEngine) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="fake/model", messages=MESSAGES, temperature=-1)
    assert bad.value.param == "temperature"
    assert bad.value.request_id
    engine.fail_at = 3
    with pytest.raises(openai.APIError, match="internal error"):
        list(client.chat.completions.create(model="fake/model", messages=MESSAGES, stream=True))


def test_client_with_a_key(engine: FakeEngine) -> None:
    with serving(engine, ServerSettings(api_key=["right"])) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="right") as right:
            assert right.models.list().data
        with openai.OpenAI(base_url=f"{url}/v1", api_key="wrong") as wrong, pytest.raises(openai.AuthenticationError):
            wrong.models.list()


def test_many_at_once(live: str, engine: FakeEngine) -> None:
    engine.delay = 0.02

    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        messages: Any = [{"role": "user", "content": str(number)}]
        if number % 2:
            answer = await client.chat.completions.create(model="fake/model", messages=messages)
            return answer.choices[0].message.content or ""
        stream = await client.chat.completions.create(model="fake/model", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{live}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.wait_for(asyncio.gather(*(one(client, number) for number in range(16))), 5)

    assert asyncio.run(run()) == [TEXT] * 16


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ["chat/completions", "completions"])
def test_client_that_leaves_frees_its_slot(
    live: str, engine: FakeEngine, until: Until, route: str, stream: bool
) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 10_000
    body = {"messages": MESSAGES} if "chat" in route else {"prompt": ["a", "b"], "max_tokens": 500}
    raw = json.dumps({**body, "stream": stream}).encode()
    with _post(live, f"/v1/{route}", raw) as sock:
        until(lambda: engine.running)
        if stream:
            assert sock.recv(10)
    until(lambda: engine.aborted, 1)
    assert not engine.running


def test_client_that_leaves_before_the_first_token(live: str, engine: FakeEngine, until: Until) -> None:
    engine.delay = 60
    with _post(live, "/v1/chat/completions", json.dumps({"messages": MESSAGES, "stream": True}).encode()):
        until(lambda: engine.running)
    until(lambda: engine.aborted, 1)


def test_client_that_leaves_before_its_request_is_complete(live: str, engine: FakeEngine) -> None:
    with _post(live, "/v1/chat/completions", b'{"messages"', announced=1000):
        pass
    assert httpx2.get(f"{live}/health").status_code == 200
    assert not engine.asked


def test_client_that_stops_reading_harms_nobody(live: str, engine: FakeEngine, until: Until) -> None:
    engine.words, engine.max_model_len = ("word " * 1000,) * 3000, 10_000
    with _post(live, "/v1/chat/completions", json.dumps({"messages": MESSAGES, "stream": True}).encode()):
        until(lambda: engine.running)
        engine.words = WORDS
        answer = httpx2.post(f"{live}/v1/chat/completions", json={"messages": MESSAGES})
        assert answer.json()["choices"][0]["message"]["content"] == TEXT
    until(lambda: not engine.running, 2)


def test_reader_that_stalls_makes_its_own_answer_wait_and_gets_all_of_it(
    live: str, engine: FakeEngine, until: Until
) -> None:
    class Taken(tuple[str, ...]):
        last = 0

        def __getitem__(self, step: Any) -> Any:
            Taken.last = step
            return super().__getitem__(step)

    megabytes = 20
    engine.words, engine.max_model_len = Taken(["x" * 10_000] * megabytes * 100), 10_000
    body = json.dumps({"prompt": "a", "stream": True, "max_tokens": megabytes * 100}).encode()
    with _post(live, "/v1/completions", body) as sock:
        received = sock.recv(100)
        before = -1
        while before != Taken.last:  # until no more is made: the socket's buffers are full
            before = Taken.last
            time.sleep(0.5)
        assert before < megabytes * 100 * 3 // 4
        assert httpx2.get(f"{live}/load").json() == {"server_load": 1}
        while not received.endswith(b"0\r\n\r\n"):
            received += sock.recv(1 << 20)
    assert received.count(b"x" * 10_000) == megabytes * 100
    assert b"data: [DONE]" in received


def test_large_body_is_answered_not_reset(live: str) -> None:
    content = json.dumps({"prompt": "x" * 10_000_000}).encode()
    response = httpx2.post(f"{live}/v1/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


def test_connections_are_reused_after_errors(live: str) -> None:
    with httpx2.Client(base_url=live) as client:
        for _ in range(3):
            assert client.post("/v1/completions", json={"prompt": 3}).status_code == 400
            assert client.post("/v1/completions", json={"prompt": "a", "stream": True}).text.endswith("[DONE]\n\n")


def test_engine_that_dies_is_told_to_everyone(live: str, engine: FakeEngine, until: Until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 10_000

    def ask(stream: bool) -> httpx2.Response:
        return httpx2.post(f"{live}/v1/chat/completions", json={"messages": MESSAGES, "stream": stream})

    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(ask, stream) for stream in (True, False)]
        until(lambda: len(engine.running) == 2 and len(engine.asked) == 2)
        time.sleep(0.1)
        engine.die()
        streamed, whole = (future.result() for future in waiting)
    assert streamed.text.strip().split("\n\n")[-1].startswith('data: {"error":')
    assert whole.status_code == 503
    assert httpx2.get(f"{live}/health").status_code == 503


def _post(url: str, path: str, body: bytes, announced: int | None = None) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)))
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {announced or len(body)}\r\n\r\n".encode() + body)
    return sock
