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
from dovetail.server.workers import SMALL_BYTES

PING = b": waiting\n\n"
"""A ping: an SSE comment, which clients ignore."""
DIRECT_SEND = "dovetail.send"
"""Scope key of the unwrapped ``send``. Middlewares only need the start and the end of a stream. Chunks bypass them,
because the wrappers cost as much as encoding a chunk.
"""


class DirectSendMiddleware:
    """The outermost middleware. It stores the unwrapped ``send`` in the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[DIRECT_SEND] = send
        await self.app(scope, receive, send)


class StreamEncoder(ABC):
    """Encodes one streamed response as events. Each method may return no bytes."""

    def encode_start(self) -> bytes:
        """Encode what comes before the first token."""
        return b""

    @abstractmethod
    def encode_deltas(self, deltas: list[Delta]) -> bytes:
        """Encode the deltas of one batch."""

    async def finish(self) -> None:  # noqa: B027  most have nothing to do
        """Called after the last delta, before the end is sent."""

    @abstractmethod
    def encode_end(self) -> bytes:
        """Encode what follows the last delta."""

    def encode_error(self, error: ApiError, scope: Scope) -> bytes:
        """Encode the error that ends the stream."""
        return error.event(scope)


class EventSourceResponse(Response, ABC):
    """Sends events until they end or the client disconnects. An exception is sent as an event, and ends the stream.

    Attributes:
        is_idle: set to False whenever something is sent, so that no ping is sent in that interval.
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
        """Send a ping when nothing else was sent for one interval. Clients and proxies see that the stream is alive.

        Args:
            begun: False if nothing was sent for one interval already, so that a ping is sent at once.
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
        """Encode the event that ends the stream after an error."""
        return error.event(scope)

    async def close(self) -> None:
        """Called at the end, in every case."""

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
    """Streams the response of a job.

    Args:
        first: the first batch of deltas.
        batches: the other batches; closed at the end.
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
            # The first may hold the logprobs of a whole prompt, once for each choice.
            if any(delta.prompt_logprobs for delta in first):
                await send_events(send, await self.context.workers.run(lambda: events(first), SMALL_BYTES + 1))
            else:
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
    """Close the batches, whether or not the first one has arrived."""
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await batches.aclose()


async def send_events(send: Send, events: bytes) -> None:
    if events:
        await send({"type": "http.response.body", "body": events, "more_body": True})
