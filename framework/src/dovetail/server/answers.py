"""An answer, in the form of its route: sent whole, or as a stream."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Any, ClassVar
from uuid import uuid4

import msgspec
from fastapi import Request, Response

from dovetail.engine.outputs import Delta
from dovetail.server.connection import ClientLeftError, while_connected
from dovetail.server.context import ServerContext
from dovetail.server.errors import ApiError
from dovetail.server.generation import Batches, Completion, collect, first_of, generate
from dovetail.server.jobs import Job
from dovetail.server.logprobs import TokenNames
from dovetail.server.protocol import GenerationRequest
from dovetail.server.sse import ChunkWriter, Events, EventStream, usage


class Answer(ABC):
    """What one request gets.

    Args:
        model: the name to answer with.
    """

    prefix: ClassVar[str]
    """What its id begins with."""
    kind: ClassVar[str]
    """Its ``object``."""
    kind_of_chunk: ClassVar[str]
    """The ``object`` of its chunks."""

    def __init__(self, context: ServerContext, body: GenerationRequest, job: Job, model: str) -> None:
        self.body = body
        self.job = job
        self.model = model
        self.names = TokenNames(context.engine.tokenizer, bool(body.return_tokens_as_token_ids))

    def head(self, kind: str) -> dict[str, Any]:
        """The fields that an answer, and each of its chunks, begins with."""
        return {
            "id": f"{self.prefix}-{self.body.request_id or uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": None,
        }

    def whole(self, done: Sequence[Completion]) -> dict[str, Any]:
        """The answer, sent at once."""
        cached = sum(choice.cached_tokens for choice in done[:: self.job.params.n])
        tokens = sum(len(choice.token_ids) for choice in done)
        return {
            **self.head(self.kind),
            "choices": [self.choice(index, choice) for index, choice in enumerate(done)],
            "usage": usage(self.job.prompt_tokens, tokens, cached),
        }

    @abstractmethod
    def choice(self, index: int, choice: Completion) -> dict[str, Any]:
        """One choice, sent at once."""

    def opening(self, writer: ChunkWriter) -> Iterable[bytes]:
        """The chunks that come before any token."""
        return ()

    @abstractmethod
    def pieces(self, writer: ChunkWriter, delta: Delta) -> Iterable[bytes]:
        """The chunks that a delta makes."""


async def respond(context: ServerContext, request: Request, answer: Answer) -> Response:
    """Run a job, and send its answer as the request wants it.

    Raises:
        ApiError: what kept it from beginning; or the client left, which nobody reads but the log of the HTTP layer.
    """
    job, body = answer.job, answer.body
    batches = generate(context, job)
    try:
        if not body.stream:
            done = await while_connected(context, request.receive, collect(batches, job.choices))
            return json_response(answer.whole(done))
        first = await while_connected(context, request.receive, first_of(batches))
    except ClientLeftError:
        await batches.aclose()
        raise ApiError(499, "the client left") from None  # 499 is what other servers log for it
    except BaseException:
        await batches.aclose()
        raise
    writer = ChunkWriter(answer.head(answer.kind_of_chunk), body.stream_options, job.prompt_tokens, job.params.n)
    return EventStream(context, _events(answer, writer, first, batches), batches)


async def _events(answer: Answer, writer: ChunkWriter, first: list[Delta], batches: Batches) -> Events:
    def chunks(batch: list[Delta]) -> bytes:
        made: list[bytes] = []
        for delta in batch:
            writer.count(delta)
            made += answer.pieces(writer, delta)
        return b"".join(made)

    async with aclosing(batches):
        if opening := b"".join(answer.opening(writer)):
            yield opening
        if made := chunks(first):
            yield made
        async for batch in batches:
            if made := chunks(batch):
                yield made
    yield writer.end()


def json_response(content: dict[str, Any]) -> Response:
    """A whole answer."""
    return Response(msgspec.json.encode(content), media_type="application/json")
