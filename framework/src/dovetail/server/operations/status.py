"""``/v1/models``, health and version."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response

from dovetail.server.context import ServerContext
from dovetail.server.generate.sampling_params import default_values
from dovetail.server.http.keys import PUBLIC_PATHS
from dovetail.server.http.openapi import ERROR_RESPONSES


def router(context: ServerContext) -> APIRouter:
    """The routes for models, health and version."""
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
        names = (model_id, model_id.rstrip("/"))
        known = {*context.model_names, *context.engine.adapters}
        return model(context.resolve_model_name(next((name for name in names if name in known), model_id)))

    @routes.get("/health", summary="Whether requests can be served", response_class=Response)
    async def health() -> Response:
        context.check_health()
        return Response()

    for path in sorted(PUBLIC_PATHS - {"/health"}):
        routes.add_api_route(path, health, include_in_schema=False)

    @routes.get("/favicon.ico", include_in_schema=False)
    async def show_no_icon() -> Response:
        # Browsers ask for one beside whatever they show.
        return Response(status_code=204)

    @routes.get("/robots.txt", include_in_schema=False)
    async def show_robots() -> Response:
        return Response("User-agent: *\nDisallow: /\n", media_type="text/plain")

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
