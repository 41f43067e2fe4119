"""Requests and answers as they are on the wire, byte by byte."""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

BODY = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
STREAM = json.dumps({"prompt": "a", "max_tokens": 3, "stream": True}).encode()
JSON = b"Content-Type: application/json\r\n"
LIMIT = 100_000
"""Of a body, on the servers of these tests."""
FRAMING = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n" + JSON
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
        # A server that closes while a body is still on its way resets the connection, after its answer.
        with suppress(ConnectionResetError):
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
