"""``POST /tokenize`` and ``POST /detokenize``, as vLLM has them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from dovetail.server.context import ServerContext
from dovetail.server.generate.response_builders import json_response
from dovetail.server.generate.sampling_params import check_ids
from dovetail.server.http.errors import ApiError
from dovetail.server.http.openapi import route_docs
from dovetail.server.prompts.conversation import ConversationFields, conversation_prompt
from dovetail.server.prompts.encoding import check_text_length
from dovetail.server.protocol.base import Body, Items
from dovetail.server.protocol.body import read_body
from dovetail.server.protocol.fields import Int

BYTES_PER_ID = 4
"""Bytes of text that take about as long as a token id."""


class TokenizeRequest(ConversationFields):
    """The body of ``POST /tokenize``: a prompt or messages."""

    model: str | None = Field(None, description="a name from /v1/models; may be left out")
    prompt: str | None = Field(None, description="a text")
    return_token_strs: bool | None = Field(None, description="send the tokens as the vocabulary writes them, too")


class DetokenizeRequest(Body):
    """The body of ``POST /detokenize``."""

    model: str | None = Field(None, description="a name from /v1/models; may be left out")
    tokens: Items[Int]


BODIES = (TokenizeRequest, DetokenizeRequest)


def router(context: ServerContext) -> APIRouter:
    """Text to token ids and back. The engine is not needed, so the routes also work while it sleeps."""
    routes = APIRouter(tags=["tokens"])

    @routes.post("/tokenize", **route_docs(TokenizeRequest, "The token ids of a text or a conversation"))
    async def tokenize(request: Request) -> Response:
        body = await read_body(request, TokenizeRequest)
        context.resolve_model_name(body.model)
        ids = await _token_ids(context, body)
        answer: dict[str, Any] = {
            "count": len(ids),
            "max_model_len": context.engine.max_model_len,
            "tokens": ids,
            "token_strs": None,
        }

        def write() -> Response:
            if body.return_token_strs:
                answer["token_strs"] = context.engine.tokenizer.convert_ids_to_tokens(ids)
            return json_response(answer)

        return await context.run_in_worker(write, BYTES_PER_ID * len(ids))

    @routes.post("/detokenize", **route_docs(DetokenizeRequest, "The text of token ids"))
    async def detokenize(request: Request) -> Response:
        body = await read_body(request, DetokenizeRequest)
        context.resolve_model_name(body.model)

        def decode() -> Response:
            check_ids(context, body.tokens, "tokens")
            return json_response({"prompt": context.engine.tokenizer.decode(body.tokens, skip_special_tokens=False)})

        return await context.run_in_worker(decode, BYTES_PER_ID * len(body.tokens))

    return routes


async def _token_ids(context: ServerContext, body: TokenizeRequest) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "give prompt or messages, one of them", param="prompt", code="invalid_value")
    if body.messages is not None:
        return await conversation_prompt(context, body, add_generation_prompt=True)
    text, special = body.prompt or "", body.add_special_tokens is not False
    encode = context.engine.tokenizer.encode
    check_text_length(context, [text], "prompt")
    return await context.run_in_worker(lambda: encode(text, add_special_tokens=special), len(text))
