"""Routing: slashes in paths, HEAD and OPTIONS, and the handlers that send errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dovetail.api.errors import EngineDeadError, RequestError
from dovetail.server.asgi_scope import route_path
from dovetail.server.http.errors import ApiError, to_api_error
from dovetail.server.http.invalid_http import METHODS

SLASHES = re.compile(r"/{2,}")


class SlashMiddleware:
    """Finds routes for paths with a trailing slash or repeated slashes, which clients make from a base URL and a path.

    It does not redirect, because a client might follow a redirect without its body. A path segment that is a name, such
    as a model's, keeps its slashes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.routes: list[Route] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = route_path(scope)
            if path.endswith("/") or "//" in path:
                self.simplify(scope, path)
        await self.app(scope, receive, send)

    def simplify(self, scope: Scope, path: str) -> None:
        if self.routes is None:
            self.routes = [route for route in iter_routes(scope["app"].routes) if ":path}" not in route.path]
        simple = SLASHES.sub("/", path).rstrip("/") or "/"
        if any(route.path_regex.match(simple) for route in self.routes):
            scope["path"] = str(scope["path"]).removesuffix(path) + simple


class MethodMiddleware:
    """Answers ``HEAD`` like ``GET`` (the connection drops the body), and ``OPTIONS *``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
        elif scope["method"] == "HEAD":
            # The connection looks at the method of the scope that it made.
            inner = {**scope, "method": "GET"}
            try:
                await self.app(inner, receive, send)
            finally:
                scope["route"] = inner.get("route")
        elif scope["path"] == "*":
            await options_response(METHODS)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def install_error_handlers(app: FastAPI) -> None:
    """Send errors of routes and of routing in the format of the route's API."""

    async def handle_error(request: Request, error: Exception) -> Response:
        return to_api_error(error, request.scope.get("request_id", "")).response(request.scope)

    async def handle_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = f"{request.method} {request.url.path}"
        if error.status_code == 404:
            return ApiError(404, f"no such route: {where}; see /docs", code="unknown_url").response(request.scope)
        if error.status_code == 405:
            methods = allowed_methods(app.routes, route_path(request.scope))
            if request.method == "OPTIONS":
                return options_response(methods)
            allowed = ", ".join(sorted(methods))
            message = f"{where} is not allowed" + (f"; use {allowed}" if allowed else "")
            refusal = ApiError(405, message, code="method_not_supported", headers={"Allow": allowed})
            return refusal.response(request.scope)
        return to_api_error(error).response(request.scope)

    for kind in (ApiError, RequestError, EngineDeadError):
        app.add_exception_handler(kind, handle_error)
    app.add_exception_handler(HTTPException, handle_http_exception)


def options_response(methods: Iterable[str]) -> Response:
    """The response to ``OPTIONS``."""
    return Response(headers={"Allow": ", ".join(sorted(methods))})


def allowed_methods(routes: Iterable[BaseRoute], path: str) -> set[str]:
    """The methods of all routes of a path; starlette only looks at the first. If a route has exactly this path,
    routes that match it as a path parameter do not count.
    """
    found = [route for route in iter_routes(routes) if route.path_regex.match(path)]
    written = [route for route in found if route.path == path]
    methods = {method for route in written or found for method in route.methods or ()}
    return methods | ({"HEAD", "OPTIONS"} if "GET" in methods else {"OPTIONS"} if methods else set())


def iter_routes(routes: Iterable[BaseRoute]) -> Iterator[Route]:
    """All routes, including those of included routers."""
    for route in routes:
        router = getattr(route, "original_router", route)  # what newer versions of FastAPI keep of an included router
        if inner := getattr(router, "routes", None):
            yield from iter_routes(inner)
        elif isinstance(route, Route):
            yield route
