"""``POST /v1/chat/completions``."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from dovetail.server.chat.recording import record_chat
from dovetail.server.chat.response_builder import ChatResponseBuilder
from dovetail.server.context import ServerContext
from dovetail.server.generate.job_builder import make_job
from dovetail.server.generate.response_builders import respond
from dovetail.server.http.openapi import route_docs
from dovetail.server.prompts.render import render_chat
from dovetail.server.protocol.body import read_body
from dovetail.server.protocol.requests import ChatCompletionRequest


def router(context: ServerContext) -> APIRouter:
    """The chat route."""
    routes = APIRouter(tags=["generate"])

    @routes.post("/v1/chat/completions", **route_docs(ChatCompletionRequest, "Answer a conversation", streams=True))
    async def create_chat_completion(request: Request) -> Response:
        body = await read_body(request, ChatCompletionRequest)
        model, adapter = context.select_model(body.model)
        context.require_task("generate")
        prompt, parsing, images = await render_chat(context, body)
        job = await make_job(context, body, [prompt], adapter, parsing, images)
        builder = ChatResponseBuilder(context, body, job, model, parsing)
        sent = await record_chat(context, request, body, builder) if body.store else builder
        return await respond(context, request, sent, stream=bool(body.stream))

    return routes
