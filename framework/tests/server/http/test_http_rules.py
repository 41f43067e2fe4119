"""HTTP as clients, probes and proxies speak it: versions, methods and headers, and what is no HTTP, over a socket."""

from __future__ import annotations

import json
import logging
import re

import pytest
from raw_http import BODY, JSON, LIMIT, STREAM, ask, exchange, post

# Versions.


def test_http10_stream_ends_with_the_connection(url: str) -> None:
    answer = post(url, body=STREAM, version="1.0")
    assert "transfer-encoding" not in answer.headers
    assert "content-length" not in answer.headers
    assert answer.headers["connection"] == "close"
    assert answer.body.startswith(b"data: {")
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_http10_answer_with_a_length_keeps_the_connection_if_asked(url: str) -> None:
    kept = b"GET /version HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    first, second, third = exchange(url, kept + kept + b"GET /version HTTP/1.0\r\n\r\n")
    assert [first.headers["connection"], second.headers["connection"]] == ["keep-alive"] * 2
    assert third.headers["connection"] == "close"
    stream = STREAM, b"POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\n" + JSON
    (answer,) = exchange(url, stream[1] + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM)
    assert answer.headers["connection"] == "close"
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_http10_needs_no_host_and_knows_no_expectations(url: str) -> None:
    assert ask(url, "GET /health HTTP/1.0", host=None).status == 200
    assert post(url, "Expect: 100-continue", version="1.0").status == 200
    assert post(url, "Expect: something", version="1.0").status == 200
    assert ask(url, "HEAD /version HTTP/1.0").body == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/3.0\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/0.9\r\n\r\n",
        b"GET /health\r\n",
        b"GET /health\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    ],
)
def test_other_versions_get_505(url: str, sent: bytes) -> None:
    (answer,) = exchange(url, sent)
    assert (answer.status, answer.headers["connection"]) == (505, "close")
    assert "use HTTP/1.1" in answer.error["message"]


# Methods.


@pytest.mark.parametrize(
    "path", ["/", "/health", "/version", "/v1/models", "/v1/models/fake/model", "/load", "/metrics", "/stats", "/docs"]
)
def test_head_is_get_without_the_body(url: str, path: str) -> None:
    got, head = ask(url, f"GET {path}"), ask(url, f"HEAD {path}")
    assert (head.status, head.body) == (got.status, b"")
    assert head.headers.keys() == got.headers.keys()
    assert head.headers["content-type" if got.body else "date"]


def test_head_leaves_the_connection_in_order(url: str) -> None:
    head = b"HEAD /version HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    found = exchange(url, head + head + last, methods=("HEAD", "HEAD", "GET"))
    assert [answer.status for answer in found] == [200] * 3


def test_options_tells_the_methods(url: str) -> None:
    for target, expected in {
        "/health": "GET, HEAD, OPTIONS",
        "/v1/completions": "OPTIONS, POST",
        "/ping": "GET, HEAD, OPTIONS, POST",
        "*": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
    }.items():
        answer = ask(url, f"OPTIONS {target}")
        assert (answer.status, answer.headers["allow"], answer.headers["content-length"]) == (200, expected, "0")
    assert ask(url, "OPTIONS /nothing").status == 404


def test_method_that_a_route_lacks_gets_405(url: str) -> None:
    for line in ("GET /v1/completions", "PUT /health", "DELETE /v1/models", "HEAD /v1/completions", "PATCH /"):
        answer = ask(url, line)
        assert answer.status == 405
        assert "OPTIONS" in answer.headers["allow"]


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "QUERY", "M-SEARCH", "BREW", "get", "Post", "X"])
def test_method_that_no_route_has_gets_501(url: str, method: str) -> None:
    (answer,) = exchange(url, f"{method} /health HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert (answer.status, answer.headers["connection"]) == (501, "close")
    assert method in answer.error["message"]
    assert ("upper case" in answer.error["message"]) == (method in ("get", "Post"))


def test_connect_gets_501(url: str) -> None:
    (answer,) = exchange(url, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n\x16\x03\x01\0\0GET / HTTP/1.1\r\n\r\n")
    assert answer.status == 501


# Headers.


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ([], 400),
        (["a", "a"], 400),
        (["a", "b"], 400),
        (["user@a"], 400),
        (["a b"], 400),
        (["a/b"], 400),
        (["a:b"], 400),
        (["http://a"], 400),
        ([""], 200),
        (["a"], 200),
        (["A.example.:8000"], 200),
        (["a:"], 200),
        (["[::1]:8000"], 200),
        (["my_host"], 200),
    ],
)
def test_hosts(url: str, hosts: list[str], status: int) -> None:
    answer = ask(url, "GET /health", *(f"Host: {host}" for host in hosts), host=None)
    assert answer.status == status
    if status == 400:
        assert "Host" in answer.error["message"]


@pytest.mark.parametrize(
    "line", ["X : a", " X: a", "X: a\r\n b", "X: a\rb", "X: a\x00b", ": a", "X", "X: a\nY: b", "Content-Length : 3"]
)
def test_header_lines_that_parsers_read_differently_get_400(url: str, line: str) -> None:
    assert ask(url, "GET /health", line).status == 400


@pytest.mark.parametrize("size", [70_000, 200_000, 900_000])
def test_large_headers_get_431(url: str, size: int) -> None:
    many = [f"X-{i}: {'a' * 1000}" for i in range(size // 1000)]
    for headers in (many, [f"X: {'a' * size}"]):
        assert ask(url, "GET /health", *headers).status == 431
    assert ask(url, "GET /health", *many[:50]).status == 200


@pytest.mark.parametrize(
    "lines",
    [b"a:\r\n" * 30_000, b"a:\r\n" * 17_000, b"a" * 66_000 + b": b\r\n", b"a:" + b" " * 300_000 + b"b\r\n"],
    ids=["many", "just too many", "name", "spaces"],
)
@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["first", "second"])
def test_headers_are_counted_as_they_are_on_the_wire(url: str, lines: bytes, before: bytes) -> None:
    sent = before + b"GET /health HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"
    found = exchange(url, sent)
    assert [answer.status for answer in found] == [200] * bool(before) + [431]
    assert "65536 bytes" in found[-1].error["message"]


def test_lines_before_a_request_have_a_limit(url: str, caplog: pytest.LogCaptureFixture) -> None:
    get = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    assert [answer.status for answer in exchange(url, b"\r\n" + get, end=False)] == [200]
    assert [answer.status for answer in exchange(url, b"\r\n" * 300_000 + get)] == [431]
    assert not [record for record in caplog.records if record.exc_info]


def test_expectations(url: str, locked: str) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n" + JSON + b"Content-Length: %d\r\n" % len(BODY)
    go_on, answer = exchange(url, head + b"Expect: 100-Continue\r\n\r\n", BODY, count=2, end=False)
    assert (go_on.status, answer.status) == (100, 200)
    (refused,) = exchange(url, head + b"Expect: 200-ok\r\n\r\n", BODY)
    assert refused.status == 417
    # Whoever waits to be told to go on, and is refused instead, may send the body or not: nobody could tell it from a request.
    (refused,) = exchange(locked, head + b"Expect: 100-continue\r\n\r\n")
    assert (refused.status, refused.headers["connection"]) == (401, "close")
    large = head.replace(b"%d" % len(BODY), b"%d" % (LIMIT + 1))
    (refused,) = exchange(url, large + b"Expect: 100-continue\r\n\r\n")
    assert (refused.status, refused.headers["connection"]) == (413, "close")


@pytest.mark.parametrize(
    "headers",
    [
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"],
        ["Upgrade: websocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Key: a", "Sec-WebSocket-Version: 13"],
        ["Connection: upgrade", "Upgrade: TLS/1.0, HTTP/2.0"],
        ["Upgrade: h2c"],
    ],
)
def test_offers_of_another_protocol_are_passed_over(url: str, headers: list[str]) -> None:
    answer = post(url, *headers)
    assert (answer.version, answer.status) == (b"HTTP/1.1", 200)
    assert "choices" in json.loads(answer.body)
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    head = (
        "\r\n".join(("POST /v1/completions HTTP/1.1", "Host: a", *headers, "Transfer-Encoding: chunked", "")).encode()
        + JSON
    )
    for parts in ([head + b"\r\n" + chunks + head + b"\r\n" + chunks], [head[:40], head[40:], b"\r\n", chunks]):
        count = parts[0].count(b"POST")
        assert [answer.status for answer in exchange(url, *parts, count=count, end=False)] == [200] * count
    assert ask(url, "GET /v1/nothing", *headers).status == 404
    assert ask(url, "GET /health", *headers).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "Accept: text/event-stream",
        "Accept: application/xml",
        "Accept-Encoding: identity;q=0",
        "Accept-Encoding: br, zstd",
        "Range: bytes=0-1",
        "If-None-Match: *",
        "If-Modified-Since: Tue, 01 Jan 2030 00:00:00 GMT",
        "TE: trailers",
        "Via: 1.1 proxy",
        "X-Forwarded-For: 1.2.3.4, unknown",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Prefix: /llm",
        "Forwarded: for=1.2.3.4;proto=https",
        "Max-Forwards: 0",
        "X: \xff\xfe",
        "X:",
        "Cookie: a=b",
    ],
)
def test_headers_that_change_nothing(url: str, header: str) -> None:
    answer = ask(url, "GET /v1/models", header)
    assert answer.status == 200
    assert json.loads(answer.body)["object"] == "list"
    answer = post(url, header)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.headers["date"])


def test_connection_close_is_kept_to(url: str) -> None:
    first = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Close, x\r\n\r\n"
    (answer,) = exchange(url, first + first)
    assert answer.headers["connection"] == "close"


# What is not HTTP.


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60), "TLS"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n", "PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12), "PROXY protocol"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not valid HTTP"),
        (b"\0" * 100, "not valid HTTP"),
    ],
)
def test_other_protocols_get_an_answer_and_a_line(
    url: str, caplog: pytest.LogCaptureFixture, sent: bytes, told: str
) -> None:
    with caplog.at_level(logging.INFO):
        (answer,) = exchange(url, sent)
    assert (answer.status, answer.error["code"]) == (400, "invalid_http")
    assert told in answer.error["message"]
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("dovetail")]
    assert re.fullmatch(r"127\.0\.0\.1:\d+: 400, .*", line)
    assert told in line


# The log.


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "dovetail.requests"]


def test_log_says_why_a_request_was_refused(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    post(url, body=b'{"prompt": "a", "temperature": "hot secret"}')
    post(url, body=b'{"prompt": "a", "model": "unknown/model"}')
    post(url, body=b'{"prompt": "a", "stop": {"it\'s secret\\u0000\\n": "secret"}}')
    post(url, body=b'{"prompt": "a", "model": "a secret\\nprompt"}')
    ask(url, "GET /nothing")
    ask(url, "GET /health", "Host: b")
    ask(url, "BREW /health")
    ask(url, "GET /health")
    lines = lines_of(caplog)
    assert all("secret" not in line and line.isprintable() and len(line) < 500 for line in lines)
    told = [
        "temperature: wanted",
        r"the model 'unknown/model' does not exist",
        "stop",
        "'…' does not exist",
        "no such route",
        "Host",
    ]
    for line, words in zip(lines, told, strict=False):
        assert re.search(r" 4\d\d in [\d.]+ s: ", line)
        assert words in line
    assert lines[-1].endswith(" s")
