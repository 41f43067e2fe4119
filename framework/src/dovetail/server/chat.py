"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from dovetail.engine.outputs import Delta
from dovetail.server.answers import Answer, respond
from dovetail.server.body import read_body
from dovetail.server.context import ServerContext
from dovetail.server.generation import Completion
from dovetail.server.jobs import Job, make_job
from dovetail.server.logprobs import chat_logprobs, prompt_logprobs
from dovetail.server.openapi import documented
from dovetail.server.prompts import chat_prompt
from dovetail.server.protocol import ChatCompletionRequest
from dovetail.server.sse import NULL, ChunkWriter, encode


def router(context: ServerContext) -> APIRouter:
    """The chat route."""
    routes = APIRouter(tags=["generate"])

    @routes.post("/v1/chat/completions", **documented(ChatCompletionRequest, "Answer a conversation", streams=True))
    async def create_chat_completion(request: Request) -> Response:
        body = await read_body(request, ChatCompletionRequest)
        model, adapter = context.select(body.model)
        context.need_task("generate")
        job = make_job(context, body, [await chat_prompt(context, body)], adapter)
        return await respond(context, request, ChatAnswer(context, body, job, model))

    return routes


class ChatAnswer(Answer):
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
            "logprobs": self._logprobs(choice),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        return {**shown, "token_ids": choice.token_ids} if self.body.return_token_ids else shown

    def opening(self, writer: ChunkWriter) -> Iterable[bytes]:
        if self.body.return_token_ids:
            writer = writer.extended({"prompt_token_ids": self.job.prompts[0]})
        delta = b'"delta":' + encode({"role": self.role, "content": ""})
        return [writer.chunk(index, delta, NULL) for index in range(self.job.choices)]

    def pieces(self, writer: ChunkWriter, delta: Delta) -> Iterable[bytes]:
        ids = b',"token_ids":' + encode(delta.token_ids) if self.body.return_token_ids and delta.token_ids else b""
        logprobs = encode(self._logprobs(delta)) if self.wants_logprobs and delta.token_ids else NULL
        made = []
        # Text may be held back while its tokens and their logprobs are known.
        if delta.text or ids or logprobs is not NULL:
            made.append(writer.chunk(delta.index, b'"delta":{"content":' + encode(delta.text) + b"}" + ids, logprobs))
        if delta.finish_reason is not None:
            made.append(writer.last_chunk(delta.index, b'"delta":{}', NULL, delta.finish_reason, delta.stop_reason))
        return made

    def _logprobs(self, source: Completion | Delta) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        return chat_logprobs(self.names, source.token_ids, source.logprobs or (), self.top)
