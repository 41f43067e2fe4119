"""``GET /stats``: the server's current state, request by request. The web page's live view shows it."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel

from dovetail.server.context import ServerContext
from dovetail.server.http.errors import ApiError
from dovetail.server.http.openapi import ERROR_RESPONSES

ENGINE_SECONDS = 5.0
"""How long to wait for a busy engine, as ``/metrics`` does."""


class PrefixCache(BaseModel):
    """Total tokens that were looked up in the prefix cache, and those found there."""

    queries: int
    hits: int


class RequestState(BaseModel):
    """One sequence; a request with ``n`` completions is ``n`` of them."""

    id: str
    state: Literal["running", "waiting"]
    prompt_tokens: int
    output_tokens: int
    seconds: float


class Stats(BaseModel):
    """The state of the server. Counts of tokens and preemptions are totals since the engine started. ``uptime`` is in
    seconds.

    Attributes:
        model, models: the main name, and all names that requests may use.
        kv_cache_usage: share of the KV cache that sequences use, 0 to 1.
        requests: running requests first, then waiting ones.
        requests_left_out: number of requests that ``requests`` does not list.
    """

    model: str
    models: list[str]
    uptime: float
    max_model_len: int
    max_num_seqs: int
    running: int
    waiting: int
    kv_cache_usage: float
    prefix_cache: PrefixCache
    preemptions: int
    prompt_tokens: int
    output_tokens: int
    requests: list[RequestState]
    requests_left_out: int


def router(context: ServerContext) -> APIRouter:
    """The statistics route. The engine is asked, because it knows the requests of all API processes."""
    routes = APIRouter(tags=["status"], responses=ERROR_RESPONSES)

    @routes.get("/stats", summary="What the server is doing, request by request")
    async def show_stats() -> Stats:
        context.check_health()
        engine = context.engine
        try:
            overview = await asyncio.wait_for(engine.overview(), ENGINE_SECONDS)
        except TimeoutError:
            message = f"the engine did not answer within {ENGINE_SECONDS:g} s; try again later"
            raise ApiError(503, message, code="engine_busy") from None
        stats = overview.stats
        return Stats(
            model=context.model_names[0],
            models=[*context.model_names, *engine.adapters],
            uptime=time.time() - context.created,
            max_model_len=engine.max_model_len,
            max_num_seqs=engine.max_num_seqs,
            running=stats.running,
            waiting=stats.waiting,
            kv_cache_usage=stats.kv_usage,
            prefix_cache=PrefixCache(queries=stats.prefix_queries, hits=stats.prefix_hits),
            preemptions=stats.preemptions,
            prompt_tokens=stats.prompt_tokens,
            output_tokens=stats.output_tokens,
            requests=[RequestState(**msgspec.structs.asdict(request)) for request in overview.requests],
            requests_left_out=overview.num_omitted,
        )

    return routes
