"""Bodies as clients send them: types, encodings, framing, and answers that come before their end."""

from __future__ import annotations

import gzip
import zlib

import pytest
from raw_http import BODY, FRAMING, JSON, LIMIT, STREAM, ask, connect, exchange, post

from dovetail.server.http.content_encoding import MAX_MEMBERS


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
        ("gzip", gzip.compress(BODY, mtime=0), 200),
        ("X-GZip", gzip.compress(BODY, mtime=0), 200),
        ("gzip", gzip.compress(BODY[:5], mtime=0) + gzip.compress(BODY[5:], mtime=0), 200),
        ("deflate", zlib.compress(BODY), 200),
        ("deflate", raw_deflate(BODY), 200),
        ("identity", BODY, 200),
        ("", BODY, 200),
        ("gzip", gzip.compress(BODY.ljust(LIMIT), mtime=0), 200),
        ("gzip", gzip.compress(BODY.ljust(LIMIT + 1), mtime=0), 413),
        ("gzip", gzip.compress(bytes(50_000_000), mtime=0), 413),
        ("gzip", gzip.compress(BODY, mtime=0)[:-1], 400),
        ("gzip", gzip.compress(BODY, mtime=0) + b"x", 400),
        ("gzip", gzip.compress(b"", mtime=0) * (MAX_MEMBERS + 1), 400),
        ("gzip", BODY, 400),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY, mtime=0), mtime=0), 415),
        ("br", BODY, 415),
        ("zstd", BODY, 415),
    ],
)
def test_content_encodings(url: str, coding: str, body: bytes, status: int) -> None:
    answer = post(url, f"Content-Encoding: {coding}", body=body)
    assert answer.status == status
    if status == 415:
        assert answer.headers["accept-encoding"] == "gzip, deflate"


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
        (FRAMING + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
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


@pytest.mark.parametrize("trailers", [b"X: " + b"a" * 5_000_000 + b"\r\n", b"X: a\r\n" * 800_000], ids=["one", "many"])
def test_megabytes_of_trailers_end_the_connection(url: str, trailers: bytes) -> None:
    sent, received = 0, b""
    with connect(url) as sock:
        sock.sendall(CHUNKED + b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY))
        try:
            while sent < len(trailers):
                sent += sock.send(trailers[sent : sent + 65536])
            received = sock.recv(65536)
        except OSError:  # it had enough
            pass
    assert received.startswith(b"HTTP/1.1 400 ") or sent < len(trailers)


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
