"""The routes that load and unload LoRA adapters while the server runs."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from dovetail.engine.adapters.lora_request import check_adapter_name
from dovetail.server.context import ServerContext
from dovetail.server.http.errors import ApiError
from dovetail.server.http.openapi import route_docs
from dovetail.server.operations.adapter_paths import resolve_adapter_path
from dovetail.server.protocol.body import read_body
from dovetail.server.protocol.requests import LoadAdapterRequest, UnloadAdapterRequest


def router(context: ServerContext) -> APIRouter:
    """The adapter routes, as vLLM has them."""
    routes = APIRouter(tags=["adapters"])
    engine = context.engine

    @routes.post(
        "/v1/load_lora_adapter", **route_docs(LoadAdapterRequest, "Load a LoRA adapter", media_type="text/plain")
    )
    async def load(request: Request) -> Response:
        body = await read_body(request, LoadAdapterRequest)
        context.check_health()
        check_adapter_name(body.lora_name, context.model_names, engine.adapters)
        path = await asyncio.to_thread(resolve_adapter_path, body.lora_path, context.settings)
        await engine.add_adapter(body.lora_name, path)
        return Response(f"the adapter {body.lora_name} is loaded", media_type="text/plain")

    @routes.post(
        "/v1/unload_lora_adapter", **route_docs(UnloadAdapterRequest, "Unload a LoRA adapter", media_type="text/plain")
    )
    async def unload(request: Request) -> Response:
        body = await read_body(request, UnloadAdapterRequest)
        context.check_health()
        if body.lora_name not in engine.adapters:
            message = (
                f"there is no adapter {body.lora_name[:200]!r}; this server has {', '.join(engine.adapters) or 'none'}"
            )
            raise ApiError(404, message, param="lora_name", code="model_not_found")
        await engine.remove_adapter(body.lora_name)
        return Response(f"the adapter {body.lora_name} is unloaded", media_type="text/plain")

    return routes
