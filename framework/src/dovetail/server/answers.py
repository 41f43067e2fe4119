"""The two ways to answer: whole, or as a stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec
from fastapi import Request, Response

from dovetail.engine.outputs import Delta
from dovetail.server.connection import ClientLeftError, while_connected
from dovetail.server.context import ServerContext
from dovetail.server.errors import ApiError
from dovetail.server.generation import Batches, Completion, collect, first_of
from dovetail.server.protocol import GenerationRequest, StreamOptions
from dovetail.server.sse import Events, EventStream


def json_response(content: dict[str, Any]) -> Response:
    """A whole answer."""
    return Response(msgspec.json.encode(content), media_type="application/json")


def answer_head(prefix: str, kind: str, body: GenerationRequest, model: str) -> dict[str, Any]:
    """The fields that an answer, and each of its chunks, begins with."""
    return {
        "id": f"{prefix}-{body.request_id or uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": None,
    }


def stream_options(body: GenerationRequest) -> StreamOptions | None:
    """The options of a stream.

    Raises:
        ApiError: there are options, but no stream was asked for.
    """
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options", code="invalid_value")
    return body.stream_options


async def begin_stream(
    context: ServerContext, request: Request, batches: Batches, events: Callable[[list[Delta]], Events]
) -> Response:
    """Wait for the first batch, then answer with the events that ``events`` makes of it and of those that follow."""
    try:
        first = await while_connected(context, request.receive, first_of(batches))
    except BaseException as error:
        await batches.aclose()
        if isinstance(error, ClientLeftError):
            return nobody()
        raise
    return EventStream(context, events(first))


async def whole(context: ServerContext, request: Request, batches: Batches, choices: int) -> list[Completion]:
    """Wait for the whole answer.

    Raises:
        ApiError: the client left, which nobody reads but the log of the HTTP layer.
    """
    try:
        return await while_connected(context, request.receive, collect(batches, choices))
    except ClientLeftError:
        raise ApiError(499, "the client left") from None


def nobody() -> Response:
    """The answer to a client that left. 499 is what other servers log for it."""
    return Response(status_code=499)
