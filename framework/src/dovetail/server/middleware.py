"""What happens to every request: an id, a last net for exceptions, the API key, the size limit.

Plain ASGI, so that a stream passes through without a task or a queue of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dovetail.server.dialects import route_path
from dovetail.server.errors import ApiError, to_api_error

OPEN_PATHS = frozenset(("/health",))
SANE_ID = re.compile(rb"[\w.:-]{1,128}")
DRAIN_SECONDS = 10


def header(scope: Scope, name: bytes) -> bytes:
    """The first value of a request header, or nothing."""
    return next((value for key, value in scope["headers"] if key == name), b"")


class RequestId:
    """Gives every request an id, the client's own if it is sane, and turns any exception into an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        request_id = given if SANE_ID.fullmatch(given) else uuid4().hex.encode()
        scope["request_id"] = request_id.decode()
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            answer = to_api_error(error, scope["request_id"])
            if not started:
                await answer.response(scope)(scope, receive, send_with_id)


class ApiKey:
    """Lets in requests that carry one of the keys, and those to the open paths."""

    def __init__(self, app: ASGIApp, keys: list[str]) -> None:
        self.app = app
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and route_path(scope) not in OPEN_PATHS and not self.allows(scope):
            given = header(scope, b"authorization")
            message = (
                "the API key is not valid" if given else "wanted an API key, in the header Authorization: Bearer KEY"
            )
            challenge = {"WWW-Authenticate": "Bearer"}
            await ApiError(401, message, code="invalid_api_key", headers=challenge).response(scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def allows(self, scope: Scope) -> bool:
        scheme, _, key = header(scope, b"authorization").partition(b" ")
        # Digests of one length, and every key compared, so that the time taken tells nothing of the keys.
        digest = hashlib.sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self.digests]
        return scheme.lower() == b"bearer" and any(matches)


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
