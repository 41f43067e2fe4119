"""``/v1/models``, and the routes that say how the server is."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response

from dovetail.server.context import ServerContext
from dovetail.server.generate.sampling_params import default_values
from dovetail.server.http.openapi import ERROR_RESPONSES


def router(context: ServerContext) -> APIRouter:
    """Models, health and version."""
    routes = APIRouter(tags=["status"], responses=ERROR_RESPONSES)

    def model(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": context.created,
            "owned_by": "dovetail",
            "root": context.engine.adapters.get(name, context.model_names[0]),
            "parent": context.model_names[0] if name in context.engine.adapters else None,
            "max_model_len": context.engine.max_model_len,
            "default_sampling_params": default_values(context),
        }

    @routes.get("/v1/models", summary="The names under which the model is served")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [model(name) for name in (*context.model_names, *context.engine.adapters)]}

    @routes.get("/v1/models/{model_id:path}", summary="One of them")
    async def retrieve_model(model_id: str) -> dict[str, Any]:
        return model(context.resolve_model_name(model_id))

    @routes.get("/health", summary="Whether requests can be served", response_class=Response)
    async def health() -> Response:
        context.check_health()
        return Response()

    @routes.get("/ping", summary="The same, as some hosts ask it", response_class=Response)
    async def ping() -> Response:
        return await health()

    @routes.post("/ping", summary="The same, as others do", response_class=Response)
    async def post_ping() -> Response:
        return await health()

    @routes.get("/load", summary="How many requests are being served")
    async def load() -> dict[str, int]:
        return {"server_load": int(context.open_requests.value)}

    @routes.get("/version", summary="The version of the server")
    async def show_version() -> dict[str, str]:
        return {"version": version("dovetail")}

    return routes
