"""``POST /v1/chat/completions``."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response

from dovetail.engine.outputs import Delta
from dovetail.server.answers import answer_head, begin_stream, json_response, stream_options, whole
from dovetail.server.body import read_body
from dovetail.server.context import ServerContext
from dovetail.server.generation import Batches, generate
from dovetail.server.openapi import documented
from dovetail.server.prompts import chat_prompt
from dovetail.server.protocol import ChatCompletionRequest
from dovetail.server.sampling import sampling_params
from dovetail.server.sse import ChunkWriter, Events, encode, usage


def router(context: ServerContext) -> APIRouter:
    """The chat route."""
    routes = APIRouter(tags=["generate"])

    @routes.post("/v1/chat/completions", **documented(ChatCompletionRequest, "Answer a conversation", streams=True))
    async def create_chat_completion(request: Request) -> Response:
        body = await read_body(request, ChatCompletionRequest)
        model = context.served_name(body.model)
        context.need_task("generate")
        options = stream_options(body)
        prompt = await chat_prompt(context, body)
        params = sampling_params(context, body, [prompt])
        role = body.messages[-1].role if body.continue_final_message else context.settings.response_role

        batches = generate(context, f"chat-{uuid4().hex}", [prompt], params)
        head = answer_head("chatcmpl", "chat.completion", body, model)
        if body.stream:
            head["object"] += ".chunk"
            writer = ChunkWriter(head, options, len(prompt))
            return await begin_stream(
                context, request, batches, lambda first: _events(writer, role, params.n, first, batches)
            )
        done = await whole(context, request, batches, params.n)
        choices = [
            {
                "index": index,
                "message": {"role": role, "content": choice.text, "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            for index, choice in enumerate(done)
        ]
        return json_response({**head, "choices": choices, "usage": usage(len(prompt), sum(c.tokens for c in done))})

    return routes


async def _events(writer: ChunkWriter, role: str, n: int, batch: list[Delta], batches: Batches) -> Events:
    opening: dict[str, Any] = {"delta": {"role": role, "content": ""}}
    async with aclosing(batches):
        yield b"".join(writer.chunk(index, encode(opening)[1:-1]) for index in range(n))
        yield _chunks(writer, batch)
        async for batch in batches:
            if chunks := _chunks(writer, batch):
                yield chunks
    yield writer.end()


def _chunks(writer: ChunkWriter, batch: list[Delta]) -> bytes:
    chunks = []
    for delta in batch:
        writer.completion_tokens += len(delta.token_ids)
        if delta.text:
            chunks.append(writer.chunk(delta.index, b'"delta":{"content":' + encode(delta.text) + b"}"))
        if delta.finish_reason is not None:
            chunks.append(writer.last_chunk(delta.index, b'"delta":{}', delta.finish_reason, delta.stop_reason))
    return b"".join(chunks)
