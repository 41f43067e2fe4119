"""HTTP/1.0 and 1.1 on one connection: uvicorn's protocol, with the rules, limits and errors of a public server."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from dovetail.server.http.errors import ApiError
from dovetail.server.http.invalid_http import OPENING_BYTES, invalid_http_error, invalid_message_error, is_http09
from dovetail.server.http.paused_reading import WatchedFlow
from dovetail.server.http.request_rules import (
    MAX_HEADER_BYTES,
    MAX_TARGET_BYTES,
    REFUSAL,
    find_refusal,
    headers_too_large_error,
    origin_form,
    target_too_long_error,
)

logger = logging.getLogger("dovetail.server")

LINGER_SECONDS = 2
LINGER_BYTES = 1 << 20
"""How long, and how many bytes, to read from a client that still sends after an error. Closing a connection with
unread data resets it, and the client may never see the error response.
"""


class HttpConnection(HttpToolsProtocol):
    """One connection.

    It is closed if the headers of a request are not complete in time, or too large. uvicorn has a time-out for idle
    connections between two requests, but none before the first request, nor for an incomplete one.

    Attributes:
        seconds: time limit of headers, from the connection's or their own first byte.
        waiting: closes the connection if the headers take too long.
        opening: the first bytes that were received since the last message ended.
        pending_bytes: bytes received since the last complete headers or piece of a body.
        in_message: whether a message has begun and not ended; ``in_body``: whether its headers have ended.
        served: the request that the application has, or had last. Further ones may wait behind it.
        ignored_bytes: bytes received since the connection only waits to be closed; None while it is in use.
    """

    seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting: asyncio.TimerHandle | None = None
        self.url = self.opening = b""
        self.pending_bytes = 0
        self.in_message = self.in_body = False
        self.ignored_bytes: int | None = None
        self.served: RequestResponseCycle | None = None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.flow: WatchedFlow = WatchedFlow(self.transport, self.loop)
        self.wait_for_headers()

    def data_received(self, data: bytes) -> None:
        if self.ignored_bytes is not None:
            self.ignored_bytes += len(data)
            if self.ignored_bytes > LINGER_BYTES:
                self.transport.close()
            return
        self._unset_keepalive_if_required()
        before = self.cycle
        if not self.in_message or len(self.opening) < OPENING_BYTES:
            self.opening = (self.opening + data if self.in_message else data)[:OPENING_BYTES]
        self.pending_bytes += len(data)
        try:
            self.parse(data)
        except httptools.HttpParserError as error:
            self.stop(invalid_message_error(self.opening, str(error)))
            return
        if self.cycle is not before:
            self.stop_waiting()
        elif self.pending_bytes > MAX_HEADER_BYTES:
            self.stop(self.too_large_error())
        elif self.waiting is None and self.is_idle():
            self.wait_for_headers()
        if self.in_message and not self.headers and is_http09(self.opening):
            self.stop(invalid_message_error(self.opening, ""))

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_waiting()
        self.flow.stop_looking()
        self.pipeline.clear()
        super().connection_lost(exc)
        # uvicorn tells it to the latest request alone, which may wait behind the one that is being served.
        if self.served is not None and not self.served.response_complete:
            self.served.disconnected = True
            self.served.message_event.set()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self.in_message, self.in_body = True, False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_body:  # what follows a body in chunks could pass for a header of the request
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.offers_upgrade():
            return
        version, method = self.parser.get_http_version(), self.parser.get_method().decode("ascii")
        refusal = find_refusal(method, version, self.url, self.headers)
        if self.header_bytes() > MAX_HEADER_BYTES:
            refusal = refusal or headers_too_large_error()
        self.pending_bytes = 0
        self.url = origin_form(self.url)[:MAX_TARGET_BYTES]  # uvicorn has its own limit, but no error response for it
        super().on_headers_complete()
        self.in_body = True
        if refusal is not None:
            self.scope[REFUSAL] = refusal  # type: ignore[literal-required]  # one of ours
        if version == "1.0":
            # The application has not begun: its task runs once this call has returned.
            self.cycle.__class__ = Http10Cycle
            self.cycle.keep_alive = self.parser.should_keep_alive()
            self.cycle.waiting_for_100_continue = False

    def on_body(self, body: bytes) -> None:
        self.pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.offers_upgrade():
            return
        self.in_message = self.in_body = False
        super().on_message_complete()

    # What uvicorn calls.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.served = cycle
        super()._start_asgi_task(cycle, app)

    # The rest.

    def parse(self, data: bytes) -> None:
        """Pass data to the parser.

        Raises:
            httptools.HttpParserError: it is not HTTP.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self.ignored_bytes = 0  # what follows is not HTTP
                    return
                # The parser takes what follows for another protocol. The offer is not taken up, so it is a body after all.
                data = self.head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = _create_parser(self)

    def offers_upgrade(self) -> bool:
        """Whether the current request offers an upgrade to another protocol."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def head_without_upgrade(self) -> bytes:
        """The received part of the request, without the offer of an upgrade."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join((*lines, b"", b""))

    def header_bytes(self) -> int:
        """Size of the received headers, with colons, spaces and line ends."""
        return sum(len(name) + len(value) + 4 for name, value in self.headers)

    def is_idle(self) -> bool:
        """Whether no request is being served."""
        return self.cycle is None or self.cycle.response_complete

    def wait_for_headers(self) -> None:
        self.waiting = self.loop.call_later(self.seconds, self.transport.close)

    def stop_waiting(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None

    def too_large_error(self) -> ApiError:
        """The error for something other than a body that does not end."""
        if self.in_body:
            return invalid_http_error("what stands around the body's chunks is larger than this server takes")
        return target_too_long_error() if len(self.url) > MAX_TARGET_BYTES else headers_too_large_error()

    def stop(self, error: ApiError) -> None:
        """Stop reading from this connection, and send the error if a response is still possible."""
        self.stop_waiting()
        self.ignored_bytes = 0
        cycle = self.cycle
        refused = self.in_body and REFUSAL in cycle.scope
        if not refused:
            host = f"{self.client[0]}:{self.client[1]}" if self.client else "a client"
            logger.info("%s: %d, %s", host, error.status, error.message)
        if self.is_idle():
            answered = self.in_body
        elif refused or not self.in_body:
            # What was asked before is answered, and the refused request is by the application.
            cycle.keep_alive = cycle.more_body = False
            cycle.message_event.set()
            return
        else:
            answered = cycle.response_started or bool(self.pipeline)
            cycle.disconnected = True
            cycle.message_event.set()
        if answered:  # in the middle of an answer, or after it, there is no place for another
            self.transport.close()
        else:
            self.send_error(error)

    def send_error(self, error: ApiError) -> None:
        """Write an error response, and close the connection after the client could read it."""
        if self.transport.is_closing():
            return
        response = error.response({"type": "http", "path": "", "headers": []})
        head = [b"HTTP/1.1 %d %s" % (error.status, HTTPStatus(error.status).phrase.encode())]
        head += [b"%s: %s" % header for header in (*self.server_state.default_headers, *response.raw_headers)]
        self.transport.write(b"\r\n".join((*head, b"", b"")) + bytes(response.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()


class Http10Cycle(RequestResponseCycle):
    """A request of HTTP/1.0 and its response. It cannot have chunks: it ends with the connection, unless its length
    is known.
    """

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [(name.lower(), value) for name, value in message.get("headers", ())]
            names = {name for name, _ in headers}
            if b"content-length" not in names:
                self.chunked_encoding, self.keep_alive = False, False
            elif self.keep_alive and b"connection" not in names:
                message = {**message, "headers": [*headers, (b"connection", b"keep-alive")]}
        elif self.chunked_encoding is False and not self.keep_alive:
            # uvicorn counts down to the end of what was announced.
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


def _create_parser(connection: HttpConnection) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(connection)
    parser.set_dangerous_leniencies(
        lenient_data_after_close=True
    )  # as uvicorn does, so that the first request is answered
    return parser


def build_protocol_class(seconds: float) -> type[HttpConnection]:
    """The connection class with this time limit of headers."""
    return type("Connection", (HttpConnection,), {"seconds": seconds})
