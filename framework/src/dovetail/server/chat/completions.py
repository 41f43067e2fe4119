"""``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from dovetail.engine.request.outputs import Delta, PositionLogprobs
from dovetail.server.context import ServerContext
from dovetail.server.generate.chunks import NULL, encode_json
from dovetail.server.generate.job_builder import make_job
from dovetail.server.generate.logprobs import CompletionLogprobs, prompt_logprobs
from dovetail.server.generate.response_builders import ChoicesResponseBuilder, respond
from dovetail.server.generate.run import Completion
from dovetail.server.generate.sse import StreamEncoder
from dovetail.server.generation_job import Job
from dovetail.server.http.openapi import route_docs
from dovetail.server.prompts.render import completion_prompts, prompt_texts
from dovetail.server.protocol.body import read_body
from dovetail.server.protocol.requests import CompletionRequest


def router(context: ServerContext) -> APIRouter:
    """The completions route."""
    routes = APIRouter(tags=["generate"])

    @routes.post("/v1/completions", **route_docs(CompletionRequest, "Continue one or more texts", streams=True))
    async def create_completion(request: Request) -> Response:
        body = await read_body(request, CompletionRequest)
        model, adapter = context.select_model(body.model)
        context.require_task("generate")
        job = await make_job(context, body, await completion_prompts(context, body), adapter)
        echoes = await prompt_texts(context, body, job.prompts) if body.echo else []
        builder = CompletionResponseBuilder(context, body, job, model, echoes)
        return await respond(context, request, builder, stream=bool(body.stream))

    return routes


class CompletionResponseBuilder(ChoicesResponseBuilder):
    """Builds the response of the completions route: ``n`` continuations of each prompt.

    Args:
        echoes: the prompts' texts, if choices begin with them (``echo``).
    """

    id_prefix, object_type, chunk_object_type = "cmpl", "text_completion", "text_completion"

    def __init__(
        self, context: ServerContext, body: CompletionRequest, job: Job, model: str, echoes: list[str]
    ) -> None:
        super().__init__(context, body, job, model)
        self.echoes = echoes
        self.top = body.logprobs
        self.prompts: dict[int, Sequence[PositionLogprobs | None]] = {}
        """Index of the first choice of each prompt → the prompt's logprobs. Only that choice has them."""

    def stream_encoder(self) -> StreamEncoder:
        return CompletionStreamEncoder(self)

    def build_response(self, done: Sequence[Completion]) -> dict[str, Any]:
        for first in range(0, len(done), self.job.params.n):
            self.prompts[first] = done[first].prompt_logprobs or ()
        return super().build_response(done)

    def build_choice(self, index: int, choice: Completion) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "index": index,
            "text": self.echo(index) + choice.text,
            "logprobs": self.logprobs(index, choice, self.new_logprobs(), is_first=True),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if self.body.prompt_logprobs is not None:
            shown["prompt_logprobs"] = prompt_logprobs(self.formatter, self.prompts[self.first(index)])
        if self.body.return_token_ids:
            shown |= {"prompt_token_ids": self.job.prompt_for(index), "token_ids": choice.token_ids}
        return shown

    def first(self, index: int) -> int:
        return index - index % self.job.params.n

    def echo(self, index: int) -> str:
        return self.echoes[index // self.job.params.n] if self.echoes else ""

    def new_logprobs(self) -> CompletionLogprobs | None:
        return None if self.top is None else CompletionLogprobs(self.formatter, self.top)

    def logprobs(
        self, index: int, source: Completion | Delta, logprobs: CompletionLogprobs | None, *, is_first: bool
    ) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        token_ids = source.token_ids
        positions: list[PositionLogprobs | None] = [*(source.logprobs or ())]
        if is_first and self.echoes:
            token_ids = [*self.job.prompt_for(index), *token_ids]
            positions = [*self.prompts[self.first(index)], *positions]
        return logprobs.show(token_ids, positions)


class CompletionStreamEncoder(StreamEncoder):
    """Encodes the chunks of a :class:`CompletionResponseBuilder`."""

    def __init__(self, builder: CompletionResponseBuilder) -> None:
        self.builder = builder
        self.writer = builder.writer()
        self._started: dict[int, CompletionLogprobs | None] = {}
        """The choices that have begun, and the position of each in its logprobs."""
        self._pending: dict[int, list[Delta]] = {}
        self._needs_prompt_logprobs = bool(builder.echoes) and builder.top is not None
        plain = builder.top is None and not builder.body.return_token_ids
        # Most chunks differ from each other in their text alone.
        self._frames = [
            self.writer.frame(index, b'"text":', b"") if plain else None for index in range(builder.job.num_choices)
        ]

    def encode_deltas(self, deltas: list[Delta]) -> bytes:
        chunks: list[bytes] = []
        for delta in deltas:
            self.writer.count(delta)
            frame = self._frames[delta.index]
            if frame is None or delta.finish_reason is not None or delta.index not in self._started:
                chunks += self._pieces(delta) if self._needs_prompt_logprobs else (self._piece(delta),)
            elif delta.text:
                chunks += (frame[0], encode_json(delta.text), frame[1])
        return b"".join(chunks)

    def encode_end(self) -> bytes:
        return self.writer.end()

    def _pieces(self, delta: Delta) -> Sequence[bytes]:
        """Hold choices back until the logprobs of their prompt have arrived, because a choice begins with them."""
        prompts, first = self.builder.prompts, self.builder.first(delta.index)
        if first in prompts:
            return (self._piece(delta),)
        if delta.index != first:
            self._pending.setdefault(first, []).append(delta)
            return ()
        prompts[first] = delta.prompt_logprobs or ()
        return [self._piece(waiting) for waiting in (delta, *self._pending.pop(first, ()))]

    def _piece(self, delta: Delta) -> bytes:
        builder = self.builder
        is_first = delta.index not in self._started
        if is_first:
            self._started[delta.index] = builder.new_logprobs()
        text = builder.echo(delta.index) + delta.text if is_first else delta.text
        payload, logprobs = b'"text":' + encode_json(text), NULL
        if builder.top is not None and (is_first or delta.token_ids):
            logprobs = encode_json(builder.logprobs(delta.index, delta, self._started[delta.index], is_first=is_first))
        ids = builder.body.return_token_ids
        if ids:
            if is_first:
                payload += b',"prompt_token_ids":' + encode_json(builder.job.prompt_for(delta.index))
            payload += b',"token_ids":' + encode_json(delta.token_ids)
        if delta.finish_reason is not None:
            return self.writer.last_chunk(delta.index, payload, logprobs, delta.finish_reason, delta.stop_reason)
        # Text may be held back while its tokens are known.
        shows = text or logprobs is not NULL or ids
        return self.writer.chunk(delta.index, payload, logprobs) if shows else b""
