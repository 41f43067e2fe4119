"""What happens to every request: an id, a last net for exceptions, who may send it, how large it may be and how long it may take to come.

Plain ASGI, so that a stream passes through without a task or a queue of its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dovetail.server.errors import ApiError, to_api_error
from dovetail.server.observe import Record, current
from dovetail.server.scopes import header

READING = frozenset(("GET", "HEAD", "OPTIONS"))
"""Methods that change nothing."""
SANE_ID = re.compile(rb"[\w.:-]{1,128}")
DRAIN_SECONDS = 10
Ended = Sequence[Callable[[Record, Scope], None]]


class RequestId:
    """Gives every request an id, the client's own if it is sane, and turns any exception into an answer.

    Args:
        ended: called with what is known of each request once it has ended, however that came.
    """

    def __init__(self, app: ASGIApp, ended: Ended = ()) -> None:
        self.app = app
        self.ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        request_id = given if SANE_ID.fullmatch(given) else uuid4().hex.encode()
        scope["request_id"] = request_id.decode()
        record = Record(scope["request_id"], scope["method"])
        current.set(record)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            answer = to_api_error(error, scope["request_id"])
            if not record.status:
                await answer.response(scope)(scope, receive, send_with_id)
        finally:
            # Without an answer the client had left; 499 is what other servers log for it.
            record.status = record.status or 499
            record.route = getattr(scope.get("route"), "path", "")
            for tell in self.ended:
                tell(record, scope)


class CrossSite:
    """Refuses what a web page of a stranger has a browser send. Without this, any page could put a local server's engine to sleep.

    Browsers say with every request whether another site's page made it; other clients say nothing, and pages cannot lie.

    Args:
        allowed: origins whose pages may.
    """

    def __init__(self, app: ASGIApp, allowed: list[str]) -> None:
        self.app = app
        self.allowed = {origin.encode() for origin in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.refuses(scope):
            origin = header(scope, b"origin").decode(errors="replace")[:200]
            message = f"pages of {origin or 'other sites'} may not use this server; --allowed-origins says which may"
            await ApiError(403, message, code="origin_not_allowed").response(scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def refuses(self, scope: Scope) -> bool:
        foreign = header(scope, b"sec-fetch-site") in (b"cross-site", b"same-site")
        return foreign and scope["method"] not in READING and header(scope, b"origin") not in self.allowed


class RootPath:
    """Tells the application the path under which a proxy serves it, whether or not the proxy takes it off."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self.app = app
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = self.path
        await self.app(scope, receive, send)


class BodyLimit:
    """Refuses bodies that are too large, whether or not their length was announced."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = header(scope, b"content-length")
        if length.isdigit() and int(length[:20]) > self.limit:
            # A client that is still writing sees a reset connection, not the answer, unless its body is read.
            # One that waits to be told to go on has not begun.
            if not header(scope, b"expect"):
                await _drain(receive, 8 * self.limit)
            await self._refusal().response(scope)(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limit:
                if message.get("more_body"):
                    await _drain(receive, 8 * self.limit)
                raise self._refusal()
            return message

        await self.app(scope, counted, send)

    def _refusal(self) -> ApiError:
        message = f"the body is larger than {self.limit} bytes, the server's limit (--max-request-bytes)"
        return ApiError(413, message, code="request_too_large")


async def _drain(receive: Receive, most: int) -> None:
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return
