"""``POST /v1/completions``."""

from __future__ import annotations

from contextlib import aclosing
from uuid import uuid4

from fastapi import APIRouter, Request, Response

from dovetail.engine.outputs import Delta
from dovetail.server.answers import answer_head, begin_stream, json_response, stream_options, whole
from dovetail.server.body import read_body
from dovetail.server.context import ServerContext
from dovetail.server.generation import Batches, generate
from dovetail.server.openapi import documented
from dovetail.server.prompts import completion_prompts, prompt_texts
from dovetail.server.protocol import CompletionRequest
from dovetail.server.sampling import sampling_params
from dovetail.server.sse import ChunkWriter, Events, encode, usage


def router(context: ServerContext) -> APIRouter:
    """The completions route."""
    routes = APIRouter(tags=["generate"])

    @routes.post("/v1/completions", **documented(CompletionRequest, "Continue one or more texts", streams=True))
    async def create_completion(request: Request) -> Response:
        body = await read_body(request, CompletionRequest)
        model = context.served_name(body.model)
        context.need_task("generate")
        options = stream_options(body)
        prompts = await completion_prompts(context, body)
        params = sampling_params(context, body, prompts)
        total = len(prompts) * params.n
        echoes = [text for text in await prompt_texts(context, body) for _ in range(params.n)] if body.echo else None

        prompt_tokens = sum(map(len, prompts))
        batches = generate(context, f"cmpl-{uuid4().hex}", prompts, params)
        head = answer_head("cmpl", "text_completion", body, model)
        if body.stream:
            writer = ChunkWriter(head, options, prompt_tokens)
            return await begin_stream(context, request, batches, lambda first: _events(writer, echoes, first, batches))
        done = await whole(context, request, batches, total)
        choices = [
            {
                "index": index,
                "text": (echoes[index] if echoes else "") + choice.text,
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            for index, choice in enumerate(done)
        ]
        return json_response({**head, "choices": choices, "usage": usage(prompt_tokens, sum(c.tokens for c in done))})

    return routes


async def _events(writer: ChunkWriter, echoes: list[str] | None, batch: list[Delta], batches: Batches) -> Events:
    async with aclosing(batches):
        if echoes:
            yield b"".join(writer.chunk(index, b'"text":' + encode(text)) for index, text in enumerate(echoes))
        yield _chunks(writer, batch)
        async for batch in batches:
            if chunks := _chunks(writer, batch):
                yield chunks
    yield writer.end()


def _chunks(writer: ChunkWriter, batch: list[Delta]) -> bytes:
    chunks = []
    for delta in batch:
        writer.completion_tokens += len(delta.token_ids)
        payload = b'"text":' + encode(delta.text)
        if delta.finish_reason is not None:
            chunks.append(writer.last_chunk(delta.index, payload, delta.finish_reason, delta.stop_reason))
        elif delta.text:
            chunks.append(writer.chunk(delta.index, payload))
    return b"".join(chunks)
