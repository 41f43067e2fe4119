"""Server-sent events: an answer that arrives in pieces."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dovetail.engine.outputs import Delta
from dovetail.server.connection import ClientLeftError, while_connected
from dovetail.server.context import ServerContext
from dovetail.server.errors import ApiError, to_api_error
from dovetail.server.generation import Batches

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


class EventStream(Response):
    """Sends an answer until it ends or the client leaves. An exception becomes an event, and the end of the stream.

    Args:
        first: the first batch of deltas, taken already.
        batches: the others; closed at the end, whatever that is.
    """

    def __init__(self, context: ServerContext, stream: AnswerStream, first: list[Delta], batches: Batches) -> None:
        # X-Accel-Buffering keeps proxies from holding chunks back.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(None, 200, headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self.context = context
        self.stream = stream
        self.first = first
        self.batches = batches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct: Send = scope.get(DIRECT, send)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await while_connected(self.context, receive, self._pump(direct))
        except ClientLeftError:
            return
        except Exception as error:
            event = self.stream.failure(to_api_error(error, scope.get("request_id", "")), scope)
            await direct({"type": "http.response.body", "body": event, "more_body": True})
        finally:
            await self.batches.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        events = self.stream.events
        await _send(send, self.stream.opening())
        await _send(send, events(self.first))
        async for batch in self.batches:
            if made := events(batch):
                await send({"type": "http.response.body", "body": made, "more_body": True})
        await self.stream.settle()
        await _send(send, self.stream.ending())


async def _send(send: Send, events: bytes) -> None:
    if events:
        await send({"type": "http.response.body", "body": events, "more_body": True})
