"""Runs all prompts of a pooling request on the engine at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import msgspec
from fastapi import Request, Response

from dovetail.engine.output.pooled import Pooled
from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.pooling_params import NO_SAMPLING, PoolingParams
from dovetail.server.context import ServerContext
from dovetail.server.generate.chunks import usage
from dovetail.server.generate.client_connection import ClientDisconnectedError, run_while_connected
from dovetail.server.generate.job_builder import check_priority
from dovetail.server.generate.response_builders import json_response
from dovetail.server.generate.run import STARTED_AT_ONCE
from dovetail.server.generation_job import Job
from dovetail.server.http.errors import ApiError, engine_error
from dovetail.server.observe.request_records import JobObserver
from dovetail.server.pooling.protocol import PoolingFields


def pooling_job(context: ServerContext, body: PoolingFields, prompts: list[list[int]], adapter: str | None) -> Job:
    """Build the job of a pooling request.

    Raises:
        ApiError: the request has a priority, and the server does not schedule by priority.
    """
    check_priority(context, body.priority)
    return Job(
        id=uuid4().hex,
        prompts=prompts,
        params=NO_SAMPLING,
        priority=body.priority or 0,
        cache_salt=body.cache_salt,
        adapter=adapter,
    )


async def compute_vectors(context: ServerContext, request: Request, job: Job, params: PoolingParams) -> list[Pooled]:
    """The vector of each prompt, in order. If the client disconnects, its prompts are aborted.

    Raises:
        ApiError: too many requests wait, a prompt failed, or the client disconnected.
        RequestError: the model does not have such vectors.
    """
    try:
        return await run_while_connected(context, request.receive, _pool_all(context, job, params))
    except ClientDisconnectedError:
        raise ApiError(499, "the client left") from None


async def _pool_all(context: ServerContext, job: Job, params: PoolingParams) -> list[Pooled]:
    with (
        context.admission.admit(job.num_sequences) as ticket,
        JobObserver(context.generation_metrics, job) as observation,
    ):

        async def one(number: int) -> Pooled:
            pooled = await context.engine.pool(
                f"{job.id}-{number}",
                job.prompts[number],
                params,
                priority=job.priority,
                cache_salt=job.cache_salt,
                adapter=job.adapter,
            )
            if pooled.error is not None:
                raise ApiError(400, pooled.error) if pooled.is_request_error else engine_error(pooled.error)
            ended = observation.add(
                [Delta(number, "", [], "stop", cached_tokens=pooled.cached_tokens, timing=pooled.timing)]
            )
            context.admission.release(ticket, ended)
            return pooled

        tasks: list[asyncio.Task[Pooled]] = []
        try:
            for number in range(len(job.prompts)):
                tasks.append(asyncio.create_task(one(number)))
                if number % STARTED_AT_ONCE == STARTED_AT_ONCE - 1:
                    await asyncio.sleep(0)  # they begin, and others have their turn
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def pooling_usage(job: Job, pooled: Sequence[Pooled]) -> dict[str, Any]:
    """OpenAI's usage object."""
    return usage(job.num_prompt_tokens, 0, sum(each.cached_tokens for each in pooled))


async def list_response(
    context: ServerContext,
    common_fields: dict[str, Any],
    key: str,
    entries: Sequence[Any],
    show: Callable[[int, Any], dict[str, Any]],
) -> Response:
    """A response that consists mainly of one list.

    Vectors are long. They are encoded entry by entry in the worker thread, so that other streams are not delayed.

    Args:
        common_fields: the other fields.
        key: name of the list.
        show: builds the JSON object of an entry from its index and value.
    """

    def write() -> Response:
        # Piece by piece: the interpreter's lock is held for as long as one piece takes.
        pieces = [msgspec.Raw(msgspec.json.encode(show(place, entry))) for place, entry in enumerate(entries)]
        return json_response({**common_fields, key: pieces})

    return await context.run_in_worker(write)


def common_fields(prefix: str, body: PoolingFields, model: str, used: dict[str, Any]) -> dict[str, Any]:
    """The first fields of every response with a list."""
    return {
        "id": f"{prefix}-{body.request_id or uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "usage": used,
    }
