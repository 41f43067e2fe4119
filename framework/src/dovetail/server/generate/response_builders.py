"""Builders of responses: one for each route; each gives the whole body or an encoder of its stream."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar
from uuid import uuid4

import msgspec
from fastapi import Request, Response

from dovetail.engine.request.outputs import Delta
from dovetail.server.context import ServerContext
from dovetail.server.generate.chunks import ChunkWriter, usage
from dovetail.server.generate.client_connection import ClientDisconnectedError, run_while_connected
from dovetail.server.generate.logprobs import TokenFormatter
from dovetail.server.generate.run import Batches, Completion, collect_completions, first_batch, generate
from dovetail.server.generate.sse import GenerationStreamResponse, StreamEncoder, close_batches
from dovetail.server.generation_job import Job
from dovetail.server.http.errors import ApiError
from dovetail.server.protocol.requests import GenerationRequest, Sampling


class ResponseBuilder(ABC):
    """Builds the response to one request.

    Args:
        model: the model name in the response.
    """

    def __init__(self, job: Job, model: str) -> None:
        self.job = job
        self.model = model

    @abstractmethod
    async def collect_response(self, batches: Batches) -> dict[str, Any]:
        """Run ``batches`` to their end and return the whole response."""

    @abstractmethod
    def stream_encoder(self) -> StreamEncoder:
        """The encoder of a streamed response."""


class CollectedResponseBuilder(ResponseBuilder):
    """A builder whose whole response is built from finished completions."""

    async def collect_response(self, batches: Batches) -> dict[str, Any]:
        return self.build_response(await collect_completions(batches, self.job.num_choices))

    @abstractmethod
    def build_response(self, done: Sequence[Completion]) -> dict[str, Any]:
        """Build the whole response."""


BUILT_AT_ONCE = 4096
"""Logprobs of a response that are built without a thread, which takes about 10 ms."""


class ChoicesResponseBuilder(CollectedResponseBuilder):
    """A builder for OpenAI's two routes whose responses have choices."""

    id_prefix: ClassVar[str]
    """Prefix of the response's id."""
    object_type: ClassVar[str]
    """Value of the response's ``object``."""
    chunk_object_type: ClassVar[str]
    """Value of ``object`` in its chunks."""

    def __init__(self, context: ServerContext, body: GenerationRequest, job: Job, model: str) -> None:
        super().__init__(job, model)
        self.body = body
        self.context = context
        self.id = f"{self.id_prefix}-{body.request_id or uuid4().hex}"
        self.created = int(time.time())
        as_ids = body.return_tokens_as_token_ids
        self.formatter = TokenFormatter(
            context.engine.tokenizer, context.settings.return_tokens_as_token_ids if as_ids is None else as_ids
        )

    async def collect_response(self, batches: Batches) -> dict[str, Any]:
        done = await collect_completions(batches, self.job.num_choices)
        size = logprobs_size(done, self.job.params.n)
        if size <= BUILT_AT_ONCE:
            return self.build_response(done)

        def build() -> dict[str, Any]:
            return {name: encode_in_pieces(value) for name, value in self.build_response(done).items()}

        return await self.context.workers.run(build, LOGPROB_BYTES * size)

    def common_fields(self, object_type: str) -> dict[str, Any]:
        """The first fields of the response, and of each of its chunks."""
        return {
            "id": self.id,
            "object": object_type,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
        }

    def writer(self) -> ChunkWriter:
        """The chunk writer of a stream."""
        fields = self.common_fields(self.chunk_object_type)
        return ChunkWriter(fields, self.body.stream_options, self.job.num_prompt_tokens, self.job.params.n)

    def build_response(self, done: Sequence[Completion]) -> dict[str, Any]:
        cached = sum(choice.cached_tokens for choice in done[:: self.job.params.n])
        tokens = sum(len(choice.token_ids) for choice in done)
        return {
            **self.common_fields(self.object_type),
            "choices": [self.build_choice(index, choice) for index, choice in enumerate(done)],
            "usage": usage(self.job.num_prompt_tokens, tokens, cached),
        }

    @abstractmethod
    def build_choice(self, index: int, choice: Completion) -> dict[str, Any]:
        """One choice of a whole response."""


async def respond(context: ServerContext, request: Request, builder: ResponseBuilder, *, stream: bool) -> Response:
    """Run a job, and send its response as a whole or as a stream.

    Raises:
        ApiError: the job could not begin. Also if the client disconnected; then only the HTTP log reads the error.
    """
    batches = generate(context, builder.job)
    try:
        if not stream:
            return json_response(await run_while_connected(context, request.receive, builder.collect_response(batches)))
        return GenerationStreamResponse(
            context, builder.stream_encoder(), await _wait_for_first_batch(context, request, batches), batches
        )
    except ClientDisconnectedError:
        await batches.aclose()
        raise ApiError(499, "the client left") from None  # 499 is what other servers log for it
    except BaseException:
        await batches.aclose()
        raise


async def _wait_for_first_batch(
    context: ServerContext, request: Request, batches: Batches
) -> asyncio.Task[list[Delta]]:
    """Wait for the first batch, at most one ping interval. Returns its task, which may still be running.

    Raises:
        ClientDisconnectedError: the client disconnected before the response began.
        ApiError: the engine refused the job before the response began.
    """
    first = asyncio.create_task(first_batch(batches))
    try:
        await run_while_connected(
            context, request.receive, asyncio.wait({first}, timeout=context.settings.sse_ping_interval or None)
        )
        if first.done():
            first.result()
    except BaseException:
        await close_batches(first, batches)
        raise
    return first


def request_id_taken_error(body: Sampling, kind: str) -> ApiError:
    """The error for a ``request_id`` that belongs to a stored response.

    Args:
        kind: of the response.
    """
    message = f"request_id {body.request_id!r} is that of a {kind} which is kept; give another"
    return ApiError(400, message, param="request_id", code="invalid_value")


LOGPROB_BYTES = 50
"""Of one logprob in JSON."""
PIECE_ENTRIES = 256


def logprobs_size(done: Sequence[Completion], n: int) -> int:
    """Number of logprobs in a response, if each choice shows those of its prompt."""
    size = 0
    for choice in done:
        if choice.logprobs:
            size += len(choice.logprobs) * len(choice.logprobs[0])
        if choice.prompt_logprobs:
            size += n * len(choice.prompt_logprobs) * len(choice.prompt_logprobs[-1] or ())
    return size


def encode_in_pieces(value: Any) -> Any:
    """Encode the long lists of a value to JSON, some entries at a time: the interpreter's lock is held for as long as
    one call takes.
    """
    if isinstance(value, dict):
        return {name: encode_in_pieces(inner) for name, inner in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) <= PIECE_ENTRIES:
        return [encode_in_pieces(inner) for inner in value] if value and isinstance(value[0], dict) else value
    pieces = (msgspec.json.encode(value[i : i + PIECE_ENTRIES])[1:-1] for i in range(0, len(value), PIECE_ENTRIES))
    return msgspec.Raw(b"[" + b",".join(pieces) + b"]")


def json_response(content: dict[str, Any]) -> Response:
    """A whole response, as JSON."""
    return Response(msgspec.json.encode(content), media_type="application/json")
