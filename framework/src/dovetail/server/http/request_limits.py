"""Limits for incoming requests: how many at once, how large a body, how long it may take to arrive.

Plain ASGI, as :mod:`dovetail.server.http.middleware`.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dovetail.server.asgi_scope import header
from dovetail.server.http.errors import ApiError
from dovetail.server.http.middleware import SAFE_METHODS
from dovetail.server.observe.counters import Gauge

UNLIMITED_METHODS = SAFE_METHODS | {"DELETE"}
DRAIN_SECONDS = 10
DRAIN_IDLE_SECONDS = 1
"""How long to read a body that is not needed, and how long to wait for its next bytes."""
BUSY_SECONDS = 1
"""Retry-After while the limit of concurrent requests is reached. One may end at any moment."""


class ConcurrencyLimitMiddleware:
    """Refuses requests above the limit of concurrent requests. Requests that only read, such as health and metrics, and
    those that end something are not counted.

    Args:
        requests: counts requests over all processes that serve the engine, background responses included.
    """

    def __init__(self, app: ASGIApp, requests: Gauge, limit: int) -> None:
        self.app = app
        self.requests = requests
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in UNLIMITED_METHODS or scope["path"].endswith("/cancel"):
            await self.app(scope, receive, send)
            return
        if self.requests.value >= self.limit:
            await self._refusal().response(scope)(scope, receive, send)
            return
        self.requests.inc()
        try:
            await self.app(scope, receive, send)
        finally:
            self.requests.dec()

    def _refusal(self) -> ApiError:
        message = (
            f"{self.limit} requests are being served (--max-concurrent-requests), and no more may be; try again later"
        )
        return ApiError(429, message, code="too_many_requests", headers={"Retry-After": str(BUSY_SECONDS)})


class BodyLimitMiddleware:
    """Refuses bodies that are too large, with or without a Content-Length, and bodies that arrive too slowly.

    Args:
        limit: bytes.
        seconds: from a request's headers to the end of its body.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float) -> None:
        self.app = app
        self.limit = limit
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = header(scope, b"content-length")
        if length.isdigit() and int(length[:20]) > self.limit:
            await self._too_large().response(scope)(scope, receive, send)
            return
        size, complete = 0, False
        deadline = asyncio.get_running_loop().time() + self.seconds

        async def receive_limited() -> Message:
            nonlocal size, complete
            if complete:  # what comes now is that the client leaves, for which there is all the time in the world
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            complete = not message.get("more_body")
            size += len(message.get("body", b""))
            if size > self.limit:
                raise self._too_large()
            return message

        await self.app(scope, receive_limited, send)

    def _too_large(self) -> ApiError:
        message = f"the body is larger than {self.limit} bytes, the server's limit (--max-request-bytes)"
        return ApiError(413, message, code="request_too_large")

    def _too_slow(self) -> ApiError:
        message = f"the body was not complete within {self.seconds:g} s, the server's limit (--receive-timeout)"
        return ApiError(408, message, code="request_timeout", headers={"Connection": "close"})


class EarlyAnswerMiddleware:
    """Reads the rest of a body before an early response, such as a refusal, is sent.

    A client that writes first and reads afterwards would otherwise see a reset connection.

    Args:
        max_bytes: maximum number of bytes to read. If the body is longer, or does not arrive, the connection is closed.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            await self.app(scope, receive, send)
            return
        begun = complete = False

        async def receive_noted() -> Message:
            nonlocal begun, complete
            begun = True
            message = await receive()
            complete = not message.get("more_body")
            return message

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start" and not complete:
                # A client that waits for "100 Continue" has not started the body; one that was too slow had its time.
                waits = not begun and bool(header(scope, b"expect"))
                if waits or message["status"] == 408 or not await self._drain(receive):
                    headers = [(name, value) for name, value in message["headers"] if name.lower() != b"connection"]
                    message["headers"] = [*headers, (b"connection", b"close")]
            await send(message)

        await self.app(scope, receive_noted, send_after_body)

    async def _drain(self, receive: Receive) -> bool:
        """Read to the end. Returns whether it was reached."""
        left = self.max_bytes
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while left > 0:
                    async with asyncio.timeout(DRAIN_IDLE_SECONDS):
                        message = await receive()
                    left -= len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body"):
                        return True
        except TimeoutError:
            pass
        return False


def _has_body(scope: Scope) -> bool:
    return header(scope, b"content-length") not in (b"", b"0") or bool(header(scope, b"transfer-encoding"))
