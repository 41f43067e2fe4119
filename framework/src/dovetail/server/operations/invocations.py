"""``POST /invocations``: the single route of servers on SageMaker. The fields of the body select the actual route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.types import Message, Receive, Scope, Send

from dovetail.server.context import ServerContext
from dovetail.server.http.errors import ApiError
from dovetail.server.http.openapi import route_docs
from dovetail.server.protocol.body import read_json_object

ROUTES = (
    (("messages",), "/v1/chat/completions"),
    (("prompt",), "/v1/completions"),
    (("query", "documents"), "/rerank"),
    (("text_1",), "/score"),
    (("queries",), "/score"),
    (("data_1",), "/score"),
    (("input",), "/v1/embeddings"),
)
"""Fields → the route for bodies that have all of them. The first match is used."""
CLASSIFY = "/classify"


def router(context: ServerContext) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["generate"])

    @routes.post("/invocations", **route_docs(None, "Whatever another route does with this body", streams=True))
    async def invoke(request: Request) -> Response:
        raw, body = await read_json_object(request)
        return ForwardedResponse(request.app.router, _route_for(context, body), raw)

    return routes


def _route_for(context: ServerContext, body: Mapping[str, Any]) -> str:
    route = next((route for fields, route in ROUTES if all(field in body for field in fields)), None)
    if route is None:
        message = (
            "wanted a body with messages, prompt, input, query and documents, or text_1 and text_2, found none of them"
        )
        raise ApiError(400, message, code="missing_required_parameter")
    tasks = context.engine.plan.tasks
    if "generate" not in tasks and route in ("/v1/embeddings", "/v1/chat/completions"):
        return "/v1/embeddings" if "embed" in tasks else CLASSIFY
    return route


class ForwardedResponse(Response):
    """The response of another route to the same body.

    Args:
        app: the application with the route.
    """

    def __init__(self, app: Any, path: str, raw: bytes) -> None:
        super().__init__()
        self._app, self._path, self._raw = app, path, raw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        unread = True

        async def replay_body() -> Message:
            nonlocal unread
            if unread:
                unread = False
                return {"type": "http.request", "body": self._raw, "more_body": False}
            return await receive()

        path = scope.get("root_path", "") + self._path
        await self._app({**scope, "path": path, "raw_path": path.encode()}, replay_body, send)
