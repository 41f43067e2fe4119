"""HTTP/1.1 as uvicorn speaks it, with limits for headers, and an error object for what is no HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from dovetail.server.http.errors import ApiError

HEADER_BYTES = 64 * 1024
"""Of one request's headers, about; one of uvicorn's two parsers has no limit."""


class HeaderTimeoutProtocol(asyncio.Protocol):
    """A connection that is closed when the headers of a request do not come in time, or do not end.

    uvicorn has a time-out for connections that say nothing between two requests. It has none before the first, nor for a request that is
    begun and never completed.

    Attributes:
        seconds: that headers may take, from the connection's or their own first byte.
        cycle: the newest request whose headers have come; uvicorn's, as ``loop`` and ``transport``.
    """

    seconds: float
    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting: asyncio.TimerHandle | None = None
        self.header_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.wait_for_headers()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if before is None or not before.more_body:
            self.header_bytes += len(data)
        super().data_received(data)
        if self.cycle is not before:
            self.header_bytes = 0
            self.stop_waiting()
        elif self.header_bytes > HEADER_BYTES:
            self.send_400_response(f"the headers are larger than {HEADER_BYTES} bytes")
        elif self.waiting is None and self.is_idle():
            self.wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_waiting()
        super().connection_lost(exc)

    def is_idle(self) -> bool:
        """Whether no request is being served."""
        return self.cycle is None or self.cycle.response_complete

    def wait_for_headers(self) -> None:
        self.waiting = self.loop.call_later(self.seconds, self.transport.close)

    def stop_waiting(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no HTTP."""
        # In the middle of an answer there is no place for another.
        answering = not self.is_idle() and (self.cycle.response_started or getattr(self, "pipeline", ()))
        if not answering and not self.transport.is_closing():
            body = ApiError(400, msg, code="invalid_http").body()
            head = "HTTP/1.1 400 Bad Request", "Content-Type: application/json", f"Content-Length: {len(body)}"
            self.transport.write("\r\n".join((*head, "Connection: close", "", "")).encode() + body)
        self.transport.close()


def build_protocol_class(seconds: float, base: type[asyncio.Protocol] = AutoHTTPProtocol) -> type[asyncio.Protocol]:
    """The class of connections whose headers may take so many seconds.

    Args:
        base: one of uvicorn's two; by default that of the parser that is installed.
    """
    return type("Connection", (HeaderTimeoutProtocol, base), {"seconds": seconds})
