"""Renders conversations for routes that only tokenize or embed them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dovetail.server.context import ServerContext
from dovetail.server.http.errors import ApiError
from dovetail.server.prompts.render import chat_prompt_ids, find_images
from dovetail.server.protocol.base import Body, Items
from dovetail.server.protocol.body import validate_body
from dovetail.server.protocol.requests import ChatCompletionRequest

CHAT_FIELDS = (
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "chat_template",
    "chat_template_kwargs",
)
"""Fields for the chat template, checked as on the chat route."""


class ConversationFields(Body):
    """A conversation, with the fields of the chat route."""

    messages: list[Any] | None = Field(None, min_length=1, description="a conversation, as the chat route takes it")
    tools: Items[dict[str, Any]] | None = Field(None, description="as the chat route takes them")
    documents: Items[dict[str, Any]] | None = Field(None, description="documents for the chat template")
    add_generation_prompt: bool | None = Field(None, description="open the answer's turn behind the messages")
    continue_final_message: bool | None = Field(None, description="leave the last message open")
    add_special_tokens: bool | None = Field(
        None, description="let the tokenizer add its own tokens (default: to texts, and not to conversations)"
    )
    chat_template: str | None = Field(None, description="a jinja template, if the server trusts requests with it")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables for the chat template")


async def conversation_prompt(
    context: ServerContext, body: ConversationFields, *, add_generation_prompt: bool, images: bool = True
) -> list[int]:
    """The token ids of a body's conversation.

    Args:
        add_generation_prompt: whether to open the assistant's message, if the request does not say.
        images: the conversation may have some.

    Raises:
        ApiError, RequestError: as on the chat route.
    """
    given = {name: value for name in CHAT_FIELDS if (value := getattr(body, name)) is not None}
    if not body.continue_final_message:
        given.setdefault("add_generation_prompt", add_generation_prompt)
    chat = await context.convert(
        lambda: validate_body(given, ChatCompletionRequest, context.settings), len(body.messages or ())
    )
    if not images and find_images(context, chat):
        message = "only the routes that generate read images; send text"
        raise ApiError(400, message, param="messages", code="unsupported_value")
    return await chat_prompt_ids(context, chat)
