"""``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from dovetail.engine.request.outputs import Delta, PositionLogprobs
from dovetail.server.context import ServerContext
from dovetail.server.generate.answers import ChoicesAnswer, respond
from dovetail.server.generate.chunks import NULL, encode
from dovetail.server.generate.job_builder import make_job
from dovetail.server.generate.logprobs import CompletionLogprobs, prompt_logprobs
from dovetail.server.generate.run import Completion
from dovetail.server.generate.sse import AnswerStream
from dovetail.server.generation_job import Job
from dovetail.server.http.openapi import documented
from dovetail.server.prompts.prompts import completion_prompts, prompt_texts
from dovetail.server.protocol.body import read_body
from dovetail.server.protocol.requests import CompletionRequest


def router(context: ServerContext) -> APIRouter:
    """The completions route."""
    routes = APIRouter(tags=["generate"])

    @routes.post("/v1/completions", **documented(CompletionRequest, "Continue one or more texts", streams=True))
    async def create_completion(request: Request) -> Response:
        body = await read_body(request, CompletionRequest)
        model, adapter = context.select(body.model)
        context.need_task("generate")
        job = make_job(context, body, await completion_prompts(context, body), adapter)
        echoes = await prompt_texts(context, body, job.prompts) if body.echo else []
        answer = CompletionAnswer(context, body, job, model, echoes)
        return await respond(context, request, answer, stream=bool(body.stream))

    return routes


class CompletionAnswer(ChoicesAnswer):
    """The continuations of texts, ``n`` of each.

    Args:
        echoes: the prompts' texts, if choices are to begin with them.
    """

    prefix, kind, kind_of_chunk = "cmpl", "text_completion", "text_completion"

    def __init__(
        self, context: ServerContext, body: CompletionRequest, job: Job, model: str, echoes: list[str]
    ) -> None:
        super().__init__(context, body, job, model)
        self.echoes = echoes
        self.top = body.logprobs
        self.prompts: dict[int, Sequence[PositionLogprobs | None]] = {}
        """First choice of each prompt → the prompt's logprobs, which come with that choice alone."""

    def stream(self) -> AnswerStream:
        return CompletionStream(self)

    def whole(self, done: Sequence[Completion]) -> dict[str, Any]:
        for first in range(0, len(done), self.job.params.n):
            self.prompts[first] = done[first].prompt_logprobs or ()
        return super().whole(done)

    def choice(self, index: int, choice: Completion) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "index": index,
            "text": self.echo(index) + choice.text,
            "logprobs": self.logprobs(index, choice, self.counter(), begins=True),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if self.body.prompt_logprobs is not None:
            shown["prompt_logprobs"] = prompt_logprobs(self.names, self.prompts[self.first(index)])
        if self.body.return_token_ids:
            shown |= {"prompt_token_ids": self.job.prompt_of(index), "token_ids": choice.token_ids}
        return shown

    def first(self, index: int) -> int:
        return index - index % self.job.params.n

    def echo(self, index: int) -> str:
        return self.echoes[index // self.job.params.n] if self.echoes else ""

    def counter(self) -> CompletionLogprobs | None:
        return None if self.top is None else CompletionLogprobs(self.names, self.top)

    def logprobs(
        self, index: int, source: Completion | Delta, counter: CompletionLogprobs | None, *, begins: bool
    ) -> dict[str, Any] | None:
        if counter is None:
            return None
        token_ids = source.token_ids
        positions: list[PositionLogprobs | None] = [*(source.logprobs or ())]
        if begins and self.echoes:
            token_ids = [*self.job.prompt_of(index), *token_ids]
            positions = [*self.prompts[self.first(index)], *positions]
        return counter.show(token_ids, positions)


class CompletionStream(AnswerStream):
    """The chunks of a :class:`CompletionAnswer`."""

    def __init__(self, answer: CompletionAnswer) -> None:
        self.answer = answer
        self.writer = answer.writer()
        self._begun: dict[int, CompletionLogprobs | None] = {}
        """The choices of which something was sent, and where each is in its logprobs."""
        self._held: dict[int, list[Delta]] = {}
        self._waits = bool(answer.echoes) and answer.top is not None
        plain = answer.top is None and not answer.body.return_token_ids
        # Most chunks differ from each other in their text alone.
        self._frames = [
            self.writer.frame(index, b'"text":', b"") if plain else None for index in range(answer.job.choices)
        ]

    def events(self, deltas: list[Delta]) -> bytes:
        made: list[bytes] = []
        for delta in deltas:
            self.writer.count(delta)
            frame = self._frames[delta.index]
            if frame is None or delta.finish_reason is not None or delta.index not in self._begun:
                made += self._pieces(delta) if self._waits else (self._piece(delta),)
            elif delta.text:
                made += (frame[0], encode(delta.text), frame[1])
        return b"".join(made)

    def ending(self) -> bytes:
        return self.writer.end()

    def _pieces(self, delta: Delta) -> Sequence[bytes]:
        """Hold choices back until the logprobs of their prompt are there, which each of them begins with."""
        prompts, first = self.answer.prompts, self.answer.first(delta.index)
        if first in prompts:
            return (self._piece(delta),)
        if delta.index != first:
            self._held.setdefault(first, []).append(delta)
            return ()
        prompts[first] = delta.prompt_logprobs or ()
        return [self._piece(waiting) for waiting in (delta, *self._held.pop(first, ()))]

    def _piece(self, delta: Delta) -> bytes:
        answer = self.answer
        begins = delta.index not in self._begun
        if begins:
            self._begun[delta.index] = answer.counter()
        text = answer.echo(delta.index) + delta.text if begins else delta.text
        payload, logprobs = b'"text":' + encode(text), NULL
        if answer.top is not None and (begins or delta.token_ids):
            logprobs = encode(answer.logprobs(delta.index, delta, self._begun[delta.index], begins=begins))
        ids = answer.body.return_token_ids
        if ids:
            if begins:
                payload += b',"prompt_token_ids":' + encode(answer.job.prompt_of(delta.index))
            payload += b',"token_ids":' + encode(delta.token_ids)
        if delta.finish_reason is not None:
            return self.writer.last_chunk(delta.index, payload, logprobs, delta.finish_reason, delta.stop_reason)
        # Text may be held back while its tokens are known.
        shows = text or logprobs is not NULL or ids
        return self.writer.chunk(delta.index, payload, logprobs) if shows else b""
