"""Decodes compressed request bodies (gzip and deflate), within the size limit of uncompressed ones."""

from __future__ import annotations

import asyncio
import zlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dovetail.server.http.errors import ApiError, describe

DECODERS = frozenset((b"gzip", b"x-gzip", b"deflate"))
ACCEPT_ENCODING = "gzip, deflate"
MAX_MEMBERS = 64
"""Maximum number of members of a gzip file. Each one is copied with all that follow it."""
THREAD_BYTES = 32 * 1024
"""Compressed bodies of this size and more are decoded in a thread, not on the event loop, which all streams share."""


class ContentEncodingMiddleware:
    """Decodes bodies that are compressed once.

    Args:
        limit: maximum size of the decoded body, in bytes.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        codings = _codings(scope) if scope["type"] == "http" else []
        if not codings:
            await self.app(scope, receive, send)
            return
        if len(codings) > 1 or codings[0] not in DECODERS:
            found = describe(b", ".join(codings).decode("latin-1"))
            message = f"wanted a body with Content-Encoding: gzip or deflate, or without, found {found}"
            refusal = ApiError(415, message, headers={"Accept-Encoding": ACCEPT_ENCODING})
            await refusal.response(scope)(scope, receive, send)
            return
        decoded = False

        async def receive_decoded() -> Message:
            nonlocal decoded
            if decoded:
                return await receive()
            parts = []
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    break
            decoded = True
            body = b"".join(parts)
            # A small body can become a large one, but not much faster than it can be written.
            thread = len(body) > THREAD_BYTES
            body = await asyncio.to_thread(decode, body, self.limit) if thread else decode(body, self.limit)
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_decoded, send)


def _codings(scope: Scope) -> list[bytes]:
    values = (value for name, value in scope["headers"] if name == b"content-encoding")
    codings = (coding.strip().lower() for value in values for coding in value.split(b","))
    return [coding for coding in codings if coding not in (b"", b"identity")]


def decode(data: bytes, limit: int) -> bytes:
    """Decode gzip or deflate data.

    Raises:
        ApiError: it is neither, or is larger than the limit.
    """
    found = bytearray()
    members = 0
    while data:
        members += 1
        decoder = zlib.decompressobj(_window_bits(data))
        try:
            found += decoder.decompress(data, limit + 1 - len(found))
        except zlib.error as error:
            raise ApiError(400, f"the body is not what its Content-Encoding says: {error}") from None
        if len(found) > limit:
            message = (
                f"the body is larger than {limit} bytes when it is decoded, the server's limit (--max-request-bytes)"
            )
            raise ApiError(413, message, code="request_too_large")
        if not decoder.eof:
            raise ApiError(400, "the body ends before what is compressed in it does")
        data = decoder.unused_data
        if members == MAX_MEMBERS and data:
            raise ApiError(400, f"the body is of more than {MAX_MEMBERS} parts that are compressed each by itself")
    return bytes(found)


def _window_bits(data: bytes) -> int:
    """zlib's number for the format of compressed data: with a gzip or zlib header, or without any, as some clients
    understand deflate.
    """
    is_gzip = data.startswith(b"\x1f\x8b")
    is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    return 32 + zlib.MAX_WBITS if is_gzip or is_zlib else -zlib.MAX_WBITS
