"""Server-sent events: a streamed answer, sent as it is made. Its events are encoded by each route's ``StreamEncoder``."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dovetail.engine.request.outputs import Delta
from dovetail.server.context import ServerContext
from dovetail.server.generate.client_connection import ClientDisconnectedError, run_while_connected
from dovetail.server.generate.run import Batches
from dovetail.server.http.errors import ApiError, to_api_error

PING = b": waiting\n\n"
"""A comment, which readers of events pass over."""
DIRECT_SEND = "dovetail.send"
"""Where a request's scope holds the way to its socket, past what wraps ``send`` on the way: that looks at the beginning and the end of an answer
alone, and would cost each of its pieces as much as encoding it."""


class DirectSendMiddleware:
    """The outermost application: remembers the way to the socket."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[DIRECT_SEND] = send
        await self.app(scope, receive, send)


class StreamEncoder(ABC):
    """Encodes one answer as events, while it is made. What it returns may be empty."""

    def encode_start(self) -> bytes:
        """What comes before any token."""
        return b""

    @abstractmethod
    def encode_deltas(self, deltas: list[Delta]) -> bytes:
        """What deltas make, which came together."""

    async def finish(self) -> None:  # noqa: B027  most have nothing to do
        """What has to be done after the last delta, and before the end is sent."""

    @abstractmethod
    def encode_end(self) -> bytes:
        """What follows the last delta."""

    def encode_error(self, error: ApiError, scope: Scope) -> bytes:
        """What ends the stream instead, if something failed."""
        return error.event(scope)


class EventSourceResponse(Response, ABC):
    """Sends events until they end or the client leaves. An exception becomes an event, and the end of the stream.

    Attributes:
        is_idle: set to False by whoever sends something, so that no comment is sent instead.
    """

    def __init__(self, context: ServerContext) -> None:
        # X-Accel-Buffering keeps proxies from holding chunks back.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(None, 200, headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self.context = context
        self.is_idle = False

    @abstractmethod
    async def send_all(self, send: Send) -> None:
        """Send all events."""

    @asynccontextmanager
    async def keep_alive(self, send: Send, *, begun: bool = True) -> AsyncIterator[None]:
        """Send comments where nothing else is for long, which show clients and proxies that the stream is alive.

        Args:
            begun: whether something is sent at once; else it has been quiet for long.
        """
        self.is_idle = not begun
        pings = asyncio.create_task(self._ping(send, self.context.settings.sse_ping_interval))
        try:
            yield
        finally:
            pings.cancel()

    async def _ping(self, send: Send, seconds: float) -> None:
        while seconds:
            if self.is_idle:
                await send_events(send, PING)
            self.is_idle = True
            await asyncio.sleep(seconds)

    def encode_error(self, error: ApiError, scope: Scope) -> bytes:
        """The event that ends the stream if something failed."""
        return error.event(scope)

    async def close(self) -> None:
        """What has to be done at the end, whatever that is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct: Send = scope.get(DIRECT_SEND, send)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await run_while_connected(self.context, receive, self.send_all(direct))
        except ClientDisconnectedError:
            return
        except Exception as error:
            event = self.encode_error(to_api_error(error, scope.get("request_id", "")), scope)
            await send_events(direct, event)
        finally:
            await self.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class GenerationStreamResponse(EventSourceResponse):
    """Sends an answer while it is made.

    Args:
        first: the first batch of deltas.
        batches: the others; closed at the end.
    """

    def __init__(
        self, context: ServerContext, stream: StreamEncoder, first: asyncio.Task[list[Delta]], batches: Batches
    ) -> None:
        super().__init__(context)
        self.stream = stream
        self.first = first
        self.batches = batches

    async def send_all(self, send: Send) -> None:
        events = self.stream.encode_deltas
        async with self.keep_alive(send, begun=self.first.done()):
            first = await self.first
            await send_events(send, self.stream.encode_start())
            await send_events(send, events(first))
            async for batch in self.batches:
                if made := events(batch):
                    self.is_idle = False
                    await send({"type": "http.response.body", "body": made, "more_body": True})
            await self.stream.finish()
        await send_events(send, self.stream.encode_end())

    def encode_error(self, error: ApiError, scope: Scope) -> bytes:
        return self.stream.encode_error(error, scope)

    async def close(self) -> None:
        await close_batches(self.first, self.batches)


async def close_batches(first: asyncio.Task[list[Delta]], batches: Batches) -> None:
    """Close batches, whether or not the first of them has come."""
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await batches.aclose()


async def send_events(send: Send, events: bytes) -> None:
    if events:
        await send({"type": "http.response.body", "body": events, "more_body": True})
