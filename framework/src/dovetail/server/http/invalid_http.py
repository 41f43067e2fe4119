"""Errors for clients that send something other than HTTP/1.1, or break its rules."""

from __future__ import annotations

import re

from dovetail.server.http.errors import ApiError

CLOSE = {"Connection": "close"}
VERSIONS = ("1.0", "1.1")
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
"""Known methods. A route without one of them answers 405; other methods get 501 everywhere."""
OPENING_BYTES = 512
"""Number of bytes of a message's beginning that are examined to find out what it is."""
REQUEST_LINE = re.compile(rb"(?:\r?\n)*([!#$%&'*+.^_`|~\w-]+) +\S+ +HTTP/(\d+(?:\.\d+)?)\r?\n", re.ASCII)
HTTP09_REQUEST_LINE = re.compile(rb"(?:\r?\n)*[A-Z]+ +\S+ *\r?\n")
PROXY_HEADERS = (b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n")
"""First bytes of the two versions of the PROXY protocol."""
TLS_HANDSHAKE = b"\x16\x03"
TRANSFER_ENCODING_REASON = "Request has invalid `Transfer-Encoding`"
"""The parser's message if the last transfer coding is not ``chunked``."""


def invalid_http_error(reason: str, status: int = 400) -> ApiError:
    """An error after which the connection is closed, because the start of the next request is unknown."""
    return ApiError(status, reason, code="invalid_http", headers=CLOSE)


def invalid_message_error(opening: bytes, reason: str) -> ApiError:
    """The error for a message that the parser refuses.

    Args:
        opening: its first bytes, or those of a message before it.
        reason: the parser's message.
    """
    if opening.startswith(TLS_HANDSHAKE):
        return invalid_http_error(
            "wanted HTTP, found a TLS handshake; use http:// in the address, or start the server with --ssl-certfile"
        )
    if opening.startswith(PROXY_HEADERS):
        return invalid_http_error(
            "wanted HTTP, found a header of the PROXY protocol; switch that off in the proxy or load balancer"
        )
    if line := REQUEST_LINE.match(opening):
        if error := version_error(line[2].decode()) or method_error(line[1].decode()):
            return error
    elif is_http09(opening):
        return version_error("0.9")  # type: ignore[return-value]  # there is none of these that is spoken
    if reason.startswith(TRANSFER_ENCODING_REASON):
        return transfer_coding_error()
    return invalid_http_error(f"the request is not valid HTTP/1.1: {reason}")


def is_http09(opening: bytes) -> bool:
    """Whether a message's first line has no version."""
    return HTTP09_REQUEST_LINE.match(opening) is not None


def version_error(version: str) -> ApiError | None:
    """The error for unsupported versions."""
    if version in VERSIONS:
        return None
    return invalid_http_error(f"HTTP/{version[:8]} is not spoken here; use HTTP/1.1", 505)


def method_error(method: str) -> ApiError | None:
    """The error for methods that no route has."""
    if method in METHODS:
        return None
    hint = (
        "methods are written in upper case" if method.upper() in METHODS else f"use one of {', '.join(sorted(METHODS))}"
    )
    message = f"the method {method[:40]} is not supported; {hint}"
    return ApiError(501, message, code="method_not_supported", headers=CLOSE)


def transfer_coding_error() -> ApiError:
    """The error for unknown transfer codings of bodies."""
    return invalid_http_error("the only transfer coding that is supported is Transfer-Encoding: chunked", 501)
