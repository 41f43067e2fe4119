"""What clients do to a socket: too slow, too many, too much, or no HTTP at all."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest
from server_fakes import FakeEngine, build_app, serving, serving_app

from dovetail.server.settings import ServerSettings

BODY = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
SECONDS = 0.4
Until = Callable[..., None]


@pytest.fixture
def live(engine: FakeEngine) -> Iterator[str]:
    with serving_app(build_app(engine, ServerSettings())) as url:
        yield url


@pytest.fixture
def impatient(engine: FakeEngine) -> Iterator[str]:
    with serving_app(build_app(engine, ServerSettings(receive_timeout=SECONDS))) as url:
        yield url


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def rest(sock: socket.socket) -> bytes:
    """All that is sent until the server closes the connection."""
    received = b""
    while part := sock.recv(1 << 16):
        received += part
    return received


def answers(raw: bytes) -> list[tuple[int, Any]]:
    """Status and body of each answer in what was received."""
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        (length,) = (int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        found.append((int(head.split()[1]), json.loads(raw[:length])))
        raw = raw[length:]
    return found


def closed_after(sock: socket.socket, begun: float) -> float:
    assert rest(sock) == b""
    return time.monotonic() - begun


def drop_by_drop(sock: socket.socket, sent: bytes) -> None:
    for i in range(len(sent)):
        sock.sendall(sent[i : i + 1])
        time.sleep(SECONDS / 10)


@pytest.mark.parametrize("sent", [b"", b"POST", WHOLE[:40], HEAD], ids=["nothing", "a word", "half a line", "no end"])
def test_headers_that_do_not_come_end_the_connection(impatient: str, sent: bytes) -> None:
    with connect(impatient) as sock:
        begun = time.monotonic()
        sock.sendall(sent)
        assert SECONDS * 0.9 < closed_after(sock, begun) < SECONDS + 2


def test_headers_that_come_drop_by_drop_end_it_too(impatient: str) -> None:
    with connect(impatient) as sock:
        begun = time.monotonic()
        with pytest.raises(OSError, match=r"reset|pipe"):
            drop_by_drop(sock, WHOLE)
        assert time.monotonic() - begun < SECONDS + 2


def test_second_request_of_a_connection_has_its_own_time(impatient: str) -> None:
    with connect(impatient) as sock:
        sock.sendall(WHOLE)
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200")
        time.sleep(SECONDS * 1.5)  # it may be idle for longer, between two requests
        begun = time.monotonic()
        sock.sendall(WHOLE[:40])
        assert SECONDS * 0.9 < closed_after(sock, begun) < SECONDS + 2


@pytest.mark.parametrize("framing", [b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked"])
def test_body_that_does_not_come_gets_408(impatient: str, engine: FakeEngine, framing: bytes) -> None:
    with connect(impatient) as sock:
        sock.sendall(HEAD + framing + b"\r\n\r\n")
        ((status, body),) = answers(rest(sock))
    assert status == 408
    assert body["error"]["code"] == "request_timeout"
    assert not engine.asked


def test_answers_may_take_longer_than_requests(impatient: str, engine: FakeEngine) -> None:
    engine.delay = SECONDS
    for stream in (False, True):
        answer = httpx2.post(f"{impatient}/v1/completions", json={"prompt": "a", "max_tokens": 4, "stream": stream})
        assert answer.status_code == 200
        assert "is the capital" in answer.text.replace('"', "") or "[DONE]" in answer.text


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60),  # a TLS hello
        b"GET /health HTTP/1.1\r\nHost: a\r\nBad Name: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: b\x00c\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 0x10\r\n\r\n",
        HEAD + b"Content-Length: +5\r\n\r\nabcde",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_an_error_object(live: str, engine: FakeEngine, sent: bytes) -> None:
    with connect(live) as sock:
        sock.sendall(sent)
        ((status, body),) = answers(rest(sock))
    assert status == 400
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == "invalid_http"
    assert not engine.asked
    assert httpx2.get(f"{live}/health").status_code == 200


def test_headers_without_an_end_fill_no_memory(live: str) -> None:
    with connect(live) as sock, pytest.raises(OSError, match=r"reset|pipe"):
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"b" * 50_000_000)
    assert httpx2.get(f"{live}/health").status_code == 200


def test_requests_cannot_be_smuggled_between_length_and_chunks(live: str, engine: FakeEngine) -> None:
    """With both headers, a proxy before this server may see one request where it sees two. Chunks win, and the connection ends, or it is refused."""
    hidden = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    for length in (len(chunks), len(chunks) + len(hidden), 4):
        with connect(live) as sock:
            sock.sendall(HEAD + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % length + chunks + hidden)
            sock.shutdown(socket.SHUT_WR)
            received = rest(sock)
        assert b'"object":"list"' not in received


def test_pipelined_requests_are_answered_in_their_order(live: str) -> None:
    asked = [b"GET /v1/models/%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(20)]
    with connect(live) as sock:
        sock.sendall(b"".join(asked) + WHOLE + b"GET /v1/models/last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        found = answers(rest(sock))
    assert [status for status, _ in found] == [404] * 20 + [200, 404]
    for i, (_, body) in enumerate(found[:20]):
        assert f"'{i}'" in body["error"]["message"]
    assert "'last'" in found[-1][1]["error"]["message"]


def test_socket_that_is_closed_half_harms_nobody(live: str, engine: FakeEngine, until: Until) -> None:
    with connect(live) as sock:
        sock.sendall(WHOLE)
        sock.shutdown(socket.SHUT_WR)
        rest(sock)
    with connect(live) as sock:
        sock.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        sock.shutdown(socket.SHUT_WR)
        rest(sock)
    until(lambda: not engine.running)
    assert httpx2.get(f"{live}/health").status_code == 200


@pytest.mark.alone
def test_thousand_idle_connections(live: str) -> None:
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connect(live))
        begun = time.monotonic()
        answer = httpx2.post(f"{live}/v1/completions", json={"prompt": "a"})
        assert answer.status_code == 200
        assert time.monotonic() - begun < 2


def test_requests_past_the_limit_are_told_to_come_back(engine: FakeEngine, until: Until) -> None:
    engine.delay, engine.words = 0.01, ("word ",) * 10_000
    with serving(engine, ServerSettings(max_concurrent_requests=2)) as url, ExitStack() as stack:
        endless = {"prompt": "a", "max_tokens": 500, "stream": True}
        for _ in range(2):
            lines = stack.enter_context(httpx2.stream("POST", f"{url}/v1/completions", json=endless)).iter_lines()
            stack.callback(lines.close)  # type: ignore[attr-defined]
            next(lines)
        refused = httpx2.post(f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}]})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "too_many_requests")
        assert "--max-concurrent-requests" in error["message"]
        for path in ("/health", "/v1/models", "/load", "/metrics"):
            assert httpx2.get(url + path).status_code == 200
        stack.close()
        until(lambda: not engine.running)
        assert httpx2.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200
