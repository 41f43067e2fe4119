"""What is left out of a request's form is told in a header of the answer."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from dovetail.engine.grammars.checks import collected_notices
from dovetail.server.http.middleware import MAX_HEADER_CHARS, RequestIdMiddleware


def answer(*notices: str) -> str | None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        collected = collected_notices.get()
        assert collected is not None
        collected += notices
        await PlainTextResponse("")(scope, receive, send)

    return TestClient(RequestIdMiddleware(app)).get("/").headers.get("x-dovetail-notice")


def test_notices_are_a_header() -> None:
    assert answer() is None
    assert answer("not at # is not kept", "if at #/a is not kept") == "not at # is not kept; if at #/a is not kept"


def test_names_in_them_cannot_break_it() -> None:
    assert answer("not at #/é\r\nset-cookie: a=b is not kept") == r"not at #/\xe9\r\nset-cookie: a=b is not kept"
    assert len(answer("x" * 10_000) or "") == MAX_HEADER_CHARS
