"""``POST /v1/chat/completions``."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from dovetail.server.chat.answer import ChatAnswer
from dovetail.server.chat.recording import kept
from dovetail.server.context import ServerContext
from dovetail.server.generate.answers import respond
from dovetail.server.generate.job_builder import make_job
from dovetail.server.http.openapi import documented
from dovetail.server.prompts.prompts import converse
from dovetail.server.protocol.body import read_body
from dovetail.server.protocol.requests import ChatCompletionRequest


def router(context: ServerContext) -> APIRouter:
    """The chat route."""
    routes = APIRouter(tags=["generate"])

    @routes.post("/v1/chat/completions", **documented(ChatCompletionRequest, "Answer a conversation", streams=True))
    async def create_chat_completion(request: Request) -> Response:
        body = await read_body(request, ChatCompletionRequest)
        model, adapter = context.select(body.model)
        context.need_task("generate")
        prompt, reading = await converse(context, body)
        job = make_job(context, body, [prompt], adapter, reading)
        answer = ChatAnswer(context, body, job, model, reading)
        sent = await kept(context, request, body, answer) if body.store else answer
        return await respond(context, request, sent, stream=bool(body.stream))

    return routes
