"""Clients who leave are noticed, whatever they sent before."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable

import pytest
from raw_http import FRAMING, connect, exchange
from server_fakes import FakeEngine

from dovetail.server.http.paused_reading import has_left

LONG = json.dumps({"prompt": "a", "max_tokens": 400}).encode()
REQUEST = FRAMING + b"Content-Length: %d\r\n\r\n" % len(LONG) + LONG
GET = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def slow(engine: FakeEngine) -> FakeEngine:
    engine.words, engine.delay = ("word ",) * 1000, 0.05
    return engine


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "more",
    [b"", GET, REQUEST, REQUEST * 3, REQUEST[:40], REQUEST[:-1], REQUEST * 1000, b"no HTTP\r\n\r\n"],
    ids=["nothing", "get", "another", "three", "headers", "part", "much", "nonsense"],
)
def test_what_a_client_sends_next_does_not_hide_that_it_left(
    live: str, slow: FakeEngine, until: Callable[..., None], more: bytes, reset: bool
) -> None:
    with connect(live) as sock:
        sock.sendall(REQUEST)
        until(lambda: slow.running)
        sock.sendall(more)
        time.sleep(0.05)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    left = time.monotonic()
    until(lambda: not slow.running)
    assert time.monotonic() - left < 5  # an answer takes 20 s
    assert len(slow.asked) == 1, "what nobody waits for was begun"


def test_who_stays_gets_all_answers(live: str, slow: FakeEngine) -> None:
    slow.delay = 0.3  # so that looks at the connection come in between
    body = b'{"prompt": "a", "max_tokens": 4}'
    short = FRAMING + b"Content-Length: %d\r\n\r\n" % len(body) + body
    found = exchange(live, short, short + GET, count=3, end=False)
    assert [answer.status for answer in found] == [200, 200, 200]
    assert len(slow.asked) == 2


def test_has_left() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not has_left(ours)
        theirs.sendall(b"more")
        assert not has_left(ours)
        theirs.shutdown(socket.SHUT_WR)
        assert has_left(ours)
