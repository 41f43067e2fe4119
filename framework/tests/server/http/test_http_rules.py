"""HTTP as clients, probes and proxies speak it: every method, version, target, header and body, over a socket."""

from __future__ import annotations

import gzip
import json
import logging
import re
import socket
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from server_fakes import FakeEngine, serving

from dovetail.server.http.content_encoding import MAX_MEMBERS
from dovetail.server.settings import ServerSettings

BODY = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
STREAM = json.dumps({"prompt": "a", "max_tokens": 3, "stream": True}).encode()
JSON = b"Content-Type: application/json\r\n"
LIMIT = 100_000
Answers = list["Answer"]


@dataclass
class Answer:
    """One answer, as it was on the wire."""

    version: bytes
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeEngine(), ServerSettings(max_request_bytes=LIMIT)) as url:
        yield url


@pytest.fixture(scope="module")
def locked() -> Iterator[str]:
    """A server with a key, below a path."""
    settings = ServerSettings(api_key=["key"], root_path="/llm", disable_web_page=True, max_request_bytes=LIMIT)
    with serving(FakeEngine(), settings) as url:
        yield url


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def exchange(url: str, *sent: bytes, methods: tuple[str, ...] = ("GET",), count: int = 1, end: bool = True) -> Answers:
    """Send bytes, and read the answers.

    Args:
        methods: of the requests, of which ``HEAD`` has an answer without a body.
        count: how many answers are read, at the most.
        end: wait for the server to close the connection instead.
    """
    received, found = b"", list[Answer]()
    with connect(url) as sock:
        for part in sent:
            sock.sendall(part)
        while part := sock.recv(1 << 16):
            received += part
            found, complete = read_answers(received, list(methods))
            if complete and len(found) == count and not end:
                break
    return found


def read_answers(raw: bytes, methods: list[str]) -> tuple[Answers, bool]:
    """The answers in what was received, and whether the last of them has a length and all of it is there."""
    found: Answers = []
    while raw:
        head, blank, raw = raw.partition(b"\r\n\r\n")
        if not blank:
            return found, False
        first, *lines = head.split(b"\r\n")
        version, status, _ = first.split(b" ", 2)
        headers = {name.lower(): value for name, value in (line.decode().split(": ", 1) for line in lines)}
        method = methods.pop(0) if len(methods) > 1 else methods[0]
        body = b""
        if method == "HEAD" or status in (b"100", b"204", b"304"):
            pass
        elif "content-length" in headers:
            length = int(headers["content-length"])
            if len(raw) < length:
                return found, False
            body, raw = raw[:length], raw[length:]
        elif headers.get("transfer-encoding") == "chunked":
            body, ended, raw = raw.partition(b"0\r\n\r\n")
            if not ended:
                return found, False
            body = b"".join(re.split(rb"(?:^|\r\n)[0-9a-f]+\r\n|\r\n$", body))
        else:
            found.append(Answer(version, int(status), headers, raw))
            return found, False
        found.append(Answer(version, int(status), headers, body))
    return found, True


def ask(url: str, line: str, *headers: str, body: bytes = b"", host: str | None = "a") -> Answer:
    """One request and its answer. ``line`` lacks the version where that is 1.1."""
    line = line if " HTTP/" in line else line + " HTTP/1.1"
    fields = [*([f"Host: {host}"] if host is not None else []), *headers]
    fields += [f"Content-Length: {len(body)}"] if body else []
    head = "\r\n".join((line, *fields, "", "")).encode("latin-1")
    (answer,) = exchange(url, head + body, methods=(line.split()[0],), end=False)
    return answer


def post(url: str, *headers: str, body: bytes = BODY, version: str = "1.1", path: str = "/v1/completions") -> Answer:
    return ask(url, f"POST {path} HTTP/{version}", "Content-Type: application/json", *headers, body=body)


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


# Targets.


@pytest.mark.parametrize(
    "target",
    [
        "http://a/v1/models",
        "HTTP://A:80/v1/models",
        "https://a/v1/models?limit=1#end",
        "http://user:password@a/v1/models",
        "/v1/models?limit=1",
        "/v1/models?",
        "/v1/%6dodels",
        "/v1%2Fmodels",
        "/v1/models/",
        "/v1/models//",
        "//v1/models",
        "/v1//models/?x",
    ],
)
def test_ways_to_name_a_resource(url: str, target: str) -> None:
    answer = ask(url, f"GET {target}")
    assert answer.status == 200
    assert json.loads(answer.body)["object"] == "list"


@pytest.mark.parametrize(
    "target", ["/v1/completions/", "//v1/completions", "/v1//completions//", "http://a/v1/completions/"]
)
def test_ways_to_name_a_route_keep_the_body(url: str, target: str) -> None:
    assert post(url, path=target).status == 200


def test_address_without_a_path_is_the_root(url: str) -> None:
    for target in ("http://a", "http://a?x=/y", "/"):
        assert ask(url, f"GET {target}").headers["content-type"].startswith("text/html")


def test_names_keep_their_slashes(url: str) -> None:
    for name, shown in {"/data/model": "/data/model", "a//b": "a//b", "%2Fdata%2Fmodel": "/data/model"}.items():
        answer = ask(url, f"GET /v1/models/{name}")
        assert (answer.status, f"'{shown}'" in answer.error["message"]) == (404, True)
    assert ask(url, "GET /v1/models/fake/model/").status == 200


def test_slashes_below_a_root_path(locked: str) -> None:
    for target, status in {
        "/llm/v1/models/": 200,
        "/llm//v1/models": 200,
        "/v1/models/": 200,
        "/llm/v1/nothing/": 404,
    }.items():
        assert ask(locked, f"GET {target}", "Authorization: Bearer key").status == status


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("health", 400),
        ("*", 400),
        ("http:///health", 400),
        ("/\xe9", 400),
        ("/a b", 400),
        ("/%", 404),
        ("/%00", 404),
        ("/%ff%zz", 404),
        ("/v1/../health", 404),
        ("/" + "a" * 8191, 404),
        ("/health?" + "a" * 8192, 414),
        ("/" + "a" * 100_000, 414),
        ("/" + "a" * 300_000, 414),
    ],
)
def test_targets_that_name_nothing(url: str, target: str, status: int) -> None:
    answer = ask(url, f"GET {target}")
    assert answer.status == status
    assert answer.error["message"]


@pytest.mark.parametrize("path", ["/health", "/healthz", "/livez", "/readyz", "/healthz/", "/llm/readyz"])
def test_probes_need_no_key(locked: str, path: str) -> None:
    assert [ask(locked, f"{method} {path}").status for method in ("GET", "HEAD")] == [200, 200]


def test_paths_that_browsers_and_crawlers_ask_for(url: str, locked: str) -> None:
    assert ask(url, "GET /favicon.ico").status == 204
    assert b"Disallow: /" in ask(url, "GET /robots.txt").body
    assert ask(url, "GET /v1").status == 404
    assert ask(locked, "GET /", "Authorization: Bearer key").status == 404
    for path in ("/robots.txt", "/favicon.ico", "*"):
        assert ask(locked, f"OPTIONS {path}").status == 401


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


# Bodies.


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ("application/json;odata=verbose ; x=y", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/jsonlines", 415),
        ("multipart/form-data; boundary=application/json", 415),
    ],
)
def test_content_types(url: str, kind: str, status: int) -> None:
    answer = ask(url, "POST /v1/completions", f"Content-Type: {kind}", body=BODY)
    assert answer.status == status


def test_content_type_of_curl_gets_advice(url: str) -> None:
    answer = ask(url, "POST /v1/completions", "Content-Type: application/x-www-form-urlencoded", body=BODY)
    assert "-H 'Content-Type: application/json'" in answer.error["message"]
    assert "found none" in ask(url, "POST /v1/completions", body=BODY).error["message"]


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("gzip", gzip.compress(BODY), 200),
        ("X-GZip", gzip.compress(BODY), 200),
        ("gzip", gzip.compress(BODY[:5]) + gzip.compress(BODY[5:]), 200),
        ("deflate", zlib.compress(BODY), 200),
        ("deflate", raw_deflate(BODY), 200),
        ("identity", BODY, 200),
        ("", BODY, 200),
        ("gzip", gzip.compress(BODY.ljust(LIMIT)), 200),
        ("gzip", gzip.compress(BODY.ljust(LIMIT + 1)), 413),
        ("gzip", gzip.compress(bytes(50_000_000)), 413),
        ("gzip", gzip.compress(BODY)[:-1], 400),
        ("gzip", gzip.compress(BODY) + b"x", 400),
        ("gzip", gzip.compress(b"") * (MAX_MEMBERS + 1), 400),
        ("gzip", BODY, 400),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY)), 415),
        ("br", BODY, 415),
        ("zstd", BODY, 415),
    ],
)
def test_content_encodings(url: str, coding: str, body: bytes, status: int) -> None:
    answer = post(url, f"Content-Encoding: {coding}", body=body)
    assert answer.status == status
    if status == 415:
        assert answer.headers["accept-encoding"] == "gzip, deflate"


FRAMING = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n" + JSON
CHUNKED = FRAMING + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (CHUNKED + b'%x;name=value;other="a b"\r\n%s\r\n0;end\r\nTrailer: a\r\n\r\n' % (len(BODY), BODY), 200),
        (CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\nHost: b\r\nExpect: c\r\n\r\n", 200),
        (CHUNKED + b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY) + b"X: a\r\n" * 200_000 + b"\r\n", 400),
        (CHUNKED + b"1;" + b"a" * 1_000_000, 400),
        (CHUNKED + b"1\r\n{\r\nzz\r\n", 400),
        (FRAMING + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (FRAMING + b"Transfer-Encoding: gzip\r\n\r\n" + BODY, 501),
        (FRAMING + b"Transfer-Encoding: identity\r\n\r\n" + BODY, 501),
        (FRAMING + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        (FRAMING + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (FRAMING + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
        (FRAMING + b"Content-Length: 2, 2\r\n\r\n{}", 400),
        (FRAMING + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (FRAMING + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.0\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (FRAMING + b"\r\n", 400),
    ],
)
def test_framing(url: str, sent: bytes, status: int) -> None:
    (answer,) = exchange(url, sent, end=False)
    assert answer.status == status
    assert status == 200 or answer.error["message"]


def test_early_answer_reaches_a_client_that_writes_first(url: str, locked: str) -> None:
    large = b"x" * (LIMIT * 7)
    for server, status in ((url, 413), (locked, 401)):
        for connection in (b"close", b"keep-alive"):
            for framing in (
                b"Content-Length: %d\r\n\r\n%s",
                b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n",
            ):
                head = FRAMING + b"Connection: %s\r\n" % connection
                (answer,) = exchange(server, head + framing % (len(large), large), end=False)
                assert answer.status == status
    # What is read for nobody has an end.
    head = FRAMING + b"Content-Length: %d\r\n\r\n" % (LIMIT * 1000)
    (answer,) = exchange(locked, head + b"x" * (LIMIT * 8))
    assert (answer.status, answer.headers["connection"]) == (401, "close")


def test_next_request_follows_an_early_answer(locked: str) -> None:
    refused = FRAMING + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    found = exchange(locked, refused + refused + b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", count=3, end=False)
    assert [answer.status for answer in found] == [401, 401, 200]


def test_answers_go_out_before_an_error_in_what_follows(url: str) -> None:
    stream = FRAMING + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM
    (answer,) = exchange(url, stream + b"nonsense\r\n\r\n")
    assert answer.body.endswith(b"data: [DONE]\n\n")
    # A body that is longer than was announced is read as a request.
    (answer,) = exchange(url, FRAMING + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + b"}}}")
    assert answer.status == 200


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
