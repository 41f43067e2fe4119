"""Routes that control the engine: reset its prefix cache, sleep and wake up. They need an API key if one is set."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from dovetail.server.context import ServerContext
from dovetail.server.http.errors import ApiError
from dovetail.server.http.openapi import ERROR_RESPONSES


def router(context: ServerContext) -> APIRouter:
    """The control routes, as vLLM has them."""
    routes = APIRouter(tags=["operate"], responses=ERROR_RESPONSES)
    engine = context.engine

    @routes.post("/reset_prefix_cache", summary="Forget what was computed of earlier prompts", response_class=Response)
    async def reset_prefix_cache() -> Response:
        context.check_health()
        await engine.reset_prefix_cache()
        return Response()

    @routes.post(
        "/sleep", summary="Give the device's memory back; requests are refused until /wake_up", response_class=Response
    )
    async def sleep(
        level: Annotated[str, Query(description="1 keeps the weights at hand, 2 drops them")] = "1",
    ) -> Response:
        context.check_health()
        if level not in ("1", "2"):
            raise ApiError(400, f"level: wanted 1 or 2, found {level[:60]!r}", param="level", code="invalid_value")
        await engine.sleep(int(level))
        return Response()

    @routes.post("/wake_up", summary="Serve requests again", response_class=Response)
    async def wake_up(
        tags: Annotated[
            list[str] | None, Query(description="weights, kv_cache, or both; all that sleeps without")
        ] = None,
    ) -> Response:
        context.check_health()
        await engine.wake_up(tags)
        return Response()

    @routes.get("/is_sleeping", summary="Whether the engine sleeps")
    async def is_sleeping() -> dict[str, bool]:
        context.check_health()
        return {"is_sleeping": engine.sleeping}

    return routes
