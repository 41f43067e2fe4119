"""Server-sent events: an answer that arrives in pieces."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dovetail.engine.outputs import Delta
from dovetail.server.connection import ClientLeftError, while_connected
from dovetail.server.context import ServerContext
from dovetail.server.errors import ApiError, to_api_error
from dovetail.server.generation import Batches

PING = b": waiting\n\n"
"""A comment, which readers of events pass over."""
DIRECT = "dovetail.send"
"""Where a request's scope holds the way to its socket, past what wraps ``send`` on the way: that looks at the beginning and the end of an answer
alone, and would cost each of its pieces as much as encoding it."""


class Direct:
    """The outermost application: remembers the way to the socket."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[DIRECT] = send
        await self.app(scope, receive, send)


class AnswerStream(ABC):
    """Encodes one answer as events, while it is made. What it returns may be empty."""

    def opening(self) -> bytes:
        """What comes before any token."""
        return b""

    @abstractmethod
    def events(self, deltas: list[Delta]) -> bytes:
        """What deltas make, which came together."""

    async def settle(self) -> None:  # noqa: B027  most have nothing to do
        """What has to be done after the last delta, and before the end is sent."""

    @abstractmethod
    def ending(self) -> bytes:
        """What follows the last delta."""

    def failure(self, error: ApiError, scope: Scope) -> bytes:
        """What ends the stream instead, if something failed."""
        return error.event(scope)


class Events(Response, ABC):
    """Sends events until they end or the client leaves. An exception becomes an event, and the end of the stream."""

    def __init__(self, context: ServerContext) -> None:
        # X-Accel-Buffering keeps proxies from holding chunks back.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(None, 200, headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self.context = context

    @abstractmethod
    async def pump(self, send: Send) -> None:
        """Send all events."""

    def failure(self, error: ApiError, scope: Scope) -> bytes:
        """The event that ends the stream if something failed."""
        return error.event(scope)

    async def close(self) -> None:
        """What has to be done at the end, whatever that is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct: Send = scope.get(DIRECT, send)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await while_connected(self.context, receive, self.pump(direct))
        except ClientLeftError:
            return
        except Exception as error:
            event = self.failure(to_api_error(error, scope.get("request_id", "")), scope)
            await send_events(direct, event)
        finally:
            await self.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class EventStream(Events):
    """Sends an answer while it is made. Where nothing comes for long, comments show clients and proxies that it is alive.

    Args:
        first: the first batch of deltas.
        batches: the others; closed at the end.
    """

    def __init__(
        self, context: ServerContext, stream: AnswerStream, first: asyncio.Task[list[Delta]], batches: Batches
    ) -> None:
        super().__init__(context)
        self.stream = stream
        self.first = first
        self.batches = batches
        self._quiet = False

    async def pump(self, send: Send) -> None:
        events = self.stream.events
        alive = asyncio.create_task(self._keep_alive(send, self.context.settings.sse_ping_interval, self.first.done()))
        try:
            first = await self.first
            await send_events(send, self.stream.opening())
            await send_events(send, events(first))
            async for batch in self.batches:
                if made := events(batch):
                    self._quiet = False
                    await send({"type": "http.response.body", "body": made, "more_body": True})
            await self.stream.settle()
        finally:
            alive.cancel()
        await send_events(send, self.stream.ending())

    async def _keep_alive(self, send: Send, seconds: float, begun: bool) -> None:
        """
        Args:
            begun: whether something is sent at once; else there was nothing for so many seconds.
        """
        if not seconds:
            return
        self._quiet = not begun
        while True:
            if self._quiet:
                await send_events(send, PING)
            self._quiet = True
            await asyncio.sleep(seconds)

    def failure(self, error: ApiError, scope: Scope) -> bytes:
        return self.stream.failure(error, scope)

    async def close(self) -> None:
        await end(self.first, self.batches)


async def end(first: asyncio.Task[list[Delta]], batches: Batches) -> None:
    """Close batches, whether or not the first of them has come."""
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await batches.aclose()


async def send_events(send: Send, events: bytes) -> None:
    if events:
        await send({"type": "http.response.body", "body": events, "more_body": True})
