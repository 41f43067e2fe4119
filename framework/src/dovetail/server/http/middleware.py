"""Middleware for every request: a request id, the last exception handler, and the cross-site check.

Plain ASGI, so that a stream passes through without a task or a queue of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dovetail.engine.grammars.checks import collected_notices
from dovetail.server.asgi_scope import header
from dovetail.server.http.error_formats import is_anthropic_route
from dovetail.server.http.errors import ApiError, to_api_error
from dovetail.server.observe.request_records import RequestRecord, current_request
from dovetail.utils.panics import reraise_control_flow

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
"""Methods that change nothing."""
VALID_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}")
FOREIGN_SITES = (b"cross-site", b"same-site")
DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
"""Ports that addresses do not show."""
PORT = re.compile(rb":\d+$")
FORWARDED_HOST = re.compile(rb"(?i:\bhost)=\"?([^\";,\s]+)")
MAX_HEADER_CHARS = 2000
"""Maximum bytes of each header that names ignored fields. Proxies refuse headers of many kilobytes."""
RequestEndCallbacks = Sequence[Callable[[RequestRecord, Scope], None]]


class RequestIdMiddleware:
    """Gives every request an id (the client's own, if it is valid), and turns any exception into a response.

    Args:
        on_request_end: called with the record of each request once it has ended, in every case.
        process: the number of this process, which responses carry if there are several processes.
    """

    def __init__(self, app: ASGIApp, on_request_end: RequestEndCallbacks = (), process: int = 0) -> None:
        self.app = app
        self.on_request_end = on_request_end
        self.headers = [(b"x-api-process", str(process).encode())] if process else []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        request_id = given if VALID_REQUEST_ID.fullmatch(given) else uuid4().hex.encode()
        scope["request_id"] = request_id.decode()
        record = RequestRecord(scope["request_id"], scope["method"])
        current_request.set(record)
        notices: list[str] = []
        collected_notices.set(notices)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                names = (b"x-request-id", b"request-id") if is_anthropic_route(scope) else (b"x-request-id",)
                told = [(b"x-dovetail-notice", _header_value("; ", notices))] if notices else []
                if record.ignored:
                    told.append((b"x-dovetail-ignored-parameters", _header_value(", ", record.ignored)))
                message["headers"] = [
                    *message["headers"],
                    *((name, request_id) for name in names),
                    *self.headers,
                    *told,
                ]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except BaseException as error:  # a library's panic among them
            reraise_control_flow(error)
            answer = to_api_error(error, scope["request_id"])
            if not record.status:
                await answer.response(scope)(scope, receive, send_with_id)
        finally:
            # Without an answer the client had left; 499 is what other servers log for it.
            record.status = record.status or 499
            record.route = getattr(scope.get("route"), "path", "")
            for callback in self.on_request_end:
                callback(record, scope)


def _header_value(separator: str, texts: Iterable[str]) -> bytes:
    """Encode texts as a header value. Headers hold visible ASCII only, and names in a request may hold anything."""
    value = separator.join(texts).encode("unicode_escape")
    return value if len(value) <= MAX_HEADER_CHARS else value[: MAX_HEADER_CHARS - 3] + b"..."


class CrossSiteMiddleware:
    """Refuses requests that a foreign web page makes a browser send. Without it, any page could put a local server's
    engine to sleep.

    With requests over TLS and to this machine, browsers say whether another site's page made them. With others they
    only say which page did, which is compared with the address that the request was sent to. Pages can change neither.
    Other clients say nothing.

    Args:
        allowed: origins whose pages may send requests.
    """

    def __init__(self, app: ASGIApp, allowed: list[str]) -> None:
        self.app = app
        self.allowed = {origin.encode() for origin in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.refuses(scope):
            origin = header(scope, b"origin").decode(errors="replace")[:200]
            message = f"pages of {origin or 'other sites'} may not use this server; --allowed-origins says which may"
            if header(scope, b"sec-fetch-site") not in FOREIGN_SITES:
                host = header(scope, b"host").decode(errors="replace")[:200]
                message += f", and a proxy before it must pass the client's Host on (found {host})"
            await ApiError(403, message, code="origin_not_allowed").response(scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def refuses(self, scope: Scope) -> bool:
        origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
        if scope["method"] in SAFE_METHODS or origin in self.allowed:
            return False
        if site in (b"same-origin", b"none"):
            return False
        return site in FOREIGN_SITES or (bool(origin) and not _is_own_origin(scope, origin))


def _is_own_origin(scope: Scope, origin: bytes) -> bool:
    """Whether a page comes from the address that it sends a request to.

    What a proxy says of that address counts as well: without permission, no page can send these headers.
    """
    scheme, _, page = origin.lower().partition(b"://")
    if scheme not in DEFAULT_PORTS or (scope["scheme"] == "https" and scheme != b"https"):
        return False
    page = page.removesuffix(DEFAULT_PORTS[scheme])
    own = [header(scope, b"host"), *header(scope, b"x-forwarded-host").split(b",")]
    own += FORWARDED_HOST.findall(header(scope, b"forwarded"))
    own = [address.strip().lower().removesuffix(DEFAULT_PORTS[scheme]) for address in own]
    if not page or page in own:
        return bool(page)
    # Many proxies pass the name without the port. That of a server without a proxy is always there, or is the default.
    port = (scope.get("server") or ("", None))[1]
    return b":%d" % (port or 0) not in DEFAULT_PORTS.values() and PORT.sub(b"", page) in own


class RootPathMiddleware:
    """Sets the path prefix under which a proxy serves the application, whether or not the proxy removes it."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self.app = app
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = self.path
        await self.app(scope, receive, send)
