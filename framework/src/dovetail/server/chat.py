"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from dovetail.engine.outputs import Delta
from dovetail.server.answers import ChoicesAnswer, respond
from dovetail.server.body import read_body
from dovetail.server.chunks import NULL, encode
from dovetail.server.context import ServerContext
from dovetail.server.generation import Completion
from dovetail.server.jobs import Job, make_job
from dovetail.server.logprobs import chat_logprobs, prompt_logprobs
from dovetail.server.openapi import documented
from dovetail.server.prompts import chat_prompt
from dovetail.server.protocol import ChatCompletionRequest
from dovetail.server.sse import AnswerStream


def router(context: ServerContext) -> APIRouter:
    """The chat route."""
    routes = APIRouter(tags=["generate"])

    @routes.post("/v1/chat/completions", **documented(ChatCompletionRequest, "Answer a conversation", streams=True))
    async def create_chat_completion(request: Request) -> Response:
        body = await read_body(request, ChatCompletionRequest)
        model, adapter = context.select(body.model)
        context.need_task("generate")
        job = make_job(context, body, [await chat_prompt(context, body)], adapter)
        answer = ChatAnswer(context, body, job, model)
        return await respond(context, request, answer, stream=bool(body.stream))

    return routes


class ChatAnswer(ChoicesAnswer):
    """The next turn of a conversation, ``n`` times."""

    prefix, kind, kind_of_chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, context: ServerContext, body: ChatCompletionRequest, job: Job, model: str) -> None:
        super().__init__(context, body, job, model)
        self.role = body.messages[-1].role if body.continue_final_message else context.settings.response_role
        self.top = body.top_logprobs or 0
        self.wants_logprobs = bool(body.logprobs)

    def whole(self, done: Sequence[Completion]) -> dict[str, Any]:
        answer = super().whole(done)
        if self.body.prompt_logprobs is not None:
            answer["prompt_logprobs"] = prompt_logprobs(self.names, done[0].prompt_logprobs or ())
        if self.body.return_token_ids:
            answer["prompt_token_ids"] = self.job.prompts[0]
        return answer

    def choice(self, index: int, choice: Completion) -> dict[str, Any]:
        shown = {
            "index": index,
            "message": {"role": self.role, "content": choice.text, "refusal": None},
            "logprobs": self.logprobs(choice),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        return {**shown, "token_ids": choice.token_ids} if self.body.return_token_ids else shown

    def stream(self) -> AnswerStream:
        return ChatStream(self)

    def logprobs(self, source: Completion | Delta) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        return chat_logprobs(self.names, source.token_ids, source.logprobs or (), self.top)


class ChatStream(AnswerStream):
    """The chunks of a :class:`ChatAnswer`."""

    def __init__(self, answer: ChatAnswer) -> None:
        self.answer = answer
        self.writer = answer.writer()
        self._plain = not (answer.wants_logprobs or answer.body.return_token_ids)
        # Most chunks differ from each other in their text alone.
        self._frames = [
            self.writer.frame(index, b'"delta":{"content":', b"}") if self._plain else None
            for index in range(answer.job.choices)
        ]

    def opening(self) -> bytes:
        answer, writer = self.answer, self.writer
        if answer.body.return_token_ids:
            writer = writer.extended({"prompt_token_ids": answer.job.prompts[0]})
        delta = b'"delta":' + encode({"role": answer.role, "content": ""})
        return b"".join(writer.chunk(index, delta, NULL) for index in range(answer.job.choices))

    def events(self, deltas: list[Delta]) -> bytes:
        made = []
        for delta in deltas:
            self.writer.count(delta)
            frame = self._frames[delta.index]
            if frame is None:
                made.append(self._piece(delta))
            elif delta.text:
                made += (frame[0], encode(delta.text), frame[1])
            if delta.finish_reason is not None:
                reason = delta.finish_reason
                made.append(self.writer.last_chunk(delta.index, b'"delta":{}', NULL, reason, delta.stop_reason))
        return b"".join(made)

    def ending(self) -> bytes:
        return self.writer.end()

    def _piece(self, delta: Delta) -> bytes:
        answer = self.answer
        ids = b',"token_ids":' + encode(delta.token_ids) if answer.body.return_token_ids and delta.token_ids else b""
        logprobs = encode(answer.logprobs(delta)) if answer.wants_logprobs and delta.token_ids else NULL
        # Text may be held back while its tokens and their logprobs are known.
        if not (delta.text or ids or logprobs is not NULL):
            return b""
        return self.writer.chunk(delta.index, b'"delta":{"content":' + encode(delta.text) + b"}" + ids, logprobs)
