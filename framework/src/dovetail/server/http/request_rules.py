"""Rules of HTTP that the parser does not check: RFC 9110 and 9112 on versions, methods, targets and headers.

The connection checks a request when its headers are complete, and stores the error in its scope. The application sends
the error response, so that it has a request id, its place among the responses, and its line in the log.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from dovetail.server.http.errors import ApiError
from dovetail.server.http.invalid_http import (
    CLOSE,
    invalid_http_error,
    method_error,
    transfer_coding_error,
    version_error,
)

MAX_TARGET_BYTES = 8192
"""Maximum bytes of a request's path and query."""
MAX_HEADER_BYTES = 64 * 1024
"""Approximate maximum bytes of one request's headers."""
HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[\w.:%~-]+\])(?::\d*)?", re.ASCII)
NO_HOST = re.compile(rb"[a-z][a-z0-9+.-]*://(?:[/?#:]|$)", re.IGNORECASE)
REFUSAL = "dovetail.refusal"
"""Scope key of the error that refuses the request."""

Headers = Sequence[tuple[bytes, bytes]]


class RefusalMiddleware:
    """Sends the errors that the connection has stored."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: ApiError | None = scope.get(REFUSAL)
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await refusal.response(scope)(scope, receive, send)


def find_refusal(method: str, version: str, target: bytes, headers: Headers) -> ApiError | None:
    """The error for a request that breaks a rule, or None.

    Args:
        target: as it was sent.
        headers: names in lower case.
    """
    if error := version_error(version) or method_error(method):
        return error
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if not HOST.fullmatch(value):
                return invalid_http_error("wanted the header Host: NAME or NAME:PORT, found something else")
        elif name == b"transfer-encoding":
            if version == "1.0":
                return invalid_http_error("HTTP/1.0 has no Transfer-Encoding; send Content-Length, or use HTTP/1.1")
            if value.strip().lower() != b"chunked":
                return transfer_coding_error()
        elif name == b"expect" and version != "1.0" and value.strip().lower() != b"100-continue":
            return ApiError(417, "the only expectation that is supported is 100-continue", headers=CLOSE)
    if hosts != 1 and not (hosts == 0 and version == "1.0"):
        return invalid_http_error(f"wanted one Host header, found {hosts or 'none'}")
    if target == b"*" and method != "OPTIONS":
        return invalid_http_error(f"the target * is for OPTIONS; give {method[:40]} a path")
    if NO_HOST.match(target):
        return invalid_http_error("the address in the request line names no host")
    if len(target) > MAX_TARGET_BYTES:
        return target_too_long_error()
    return None


def target_too_long_error() -> ApiError:
    """The error for long targets."""
    message = f"the path and query are longer than {MAX_TARGET_BYTES} bytes; send what is long in the body"
    return ApiError(414, message, code="uri_too_long", headers=CLOSE)


def headers_too_large_error() -> ApiError:
    """The error for large headers."""
    message = f"the headers are larger than {MAX_HEADER_BYTES} bytes"
    return ApiError(431, message, code="headers_too_large", headers=CLOSE)


def origin_form(target: bytes) -> bytes:
    """The path and query of a request target of any form.

    Args:
        target: a path; an absolute URL, as proxies send it; ``*``; or a host and a port, as in ``CONNECT``.
    """
    if target.startswith(b"/") or target == b"*":
        return target
    _, scheme, rest = target.partition(b"://")
    if not scheme:
        return b"*"  # no path is meant, and the method is refused
    end = min((at for at in map(rest.find, (b"/", b"?", b"#")) if at >= 0), default=len(rest))
    path = rest[end:]
    return path if path.startswith(b"/") else b"/" + path
