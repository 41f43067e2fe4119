"""Converts a Responses request to a chat completion request."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from dovetail.server.context import ServerContext
from dovetail.server.http.error_fields import rename_error_fields
from dovetail.server.http.errors import CONTEXT_LENGTH_EXCEEDED, ApiError
from dovetail.server.prompts.render import ChatPrompt, render_chat
from dovetail.server.protocol.requests import ChatCompletionRequest, Sampling
from dovetail.server.protocol.validation import validation_error
from dovetail.server.responses.items import Item, to_chat_messages
from dovetail.server.responses.protocol import ResponsesRequest, TextFormat
from dovetail.server.responses.tools import AllowedFunctions, ChosenFunction, prompt_name, to_chat_tools

SHARED_FIELDS = (*Sampling.model_fields, "chat_template", "chat_template_kwargs", "thinking", "parallel_tool_calls")
"""Fields with the same name and meaning in both APIs."""
SYSTEM = ("system", "developer")
FIELD_NAMES = (
    (re.compile(r"messages.*"), "input"),
    (re.compile(r"max_completion_tokens"), "max_output_tokens"),
    (re.compile(r"response_format(\.json_schema)?"), "text.format"),
    (re.compile(r"reasoning_effort"), "reasoning.effort"),
    (re.compile(r"(tools\[\d+\])\.function"), r"\1"),
)
"""Names of the chat route's fields in this API."""


def to_chat_request(body: ResponsesRequest, items: list[Item]) -> ChatCompletionRequest:
    """Convert the request to one of the chat route.

    Args:
        items: the whole conversation.

    Raises:
        ApiError: it contradicts itself.
    """
    chat = {name: getattr(body, name) for name in SHARED_FIELDS}
    chat["messages"] = _messages(body.instructions, items)
    chat["max_completion_tokens"] = body.max_output_tokens
    if body.include_logprobs:
        chat |= {"logprobs": True, "top_logprobs": body.top_logprobs}
    elif body.top_logprobs:
        message = 'top_logprobs needs include: ["message.output_text.logprobs"]'
        raise ApiError(400, message, param="top_logprobs", code="invalid_value")
    if body.tools:
        chat["tools"] = list(to_chat_tools(body.tools))
    if body.tool_choice is not None:
        chat["tool_choice"] = _tool_choice(body.tool_choice)
    if body.text is not None:
        chat["verbosity"] = body.text.verbosity
        if body.text.format is not None:
            chat["response_format"] = _response_format(body.text.format)
    if body.reasoning is not None:
        chat["reasoning_effort"] = "xhigh" if body.reasoning.effort == "max" else body.reasoning.effort
    with rename_error_fields(FIELD_NAMES):
        try:
            return ChatCompletionRequest.model_validate(chat)
        except ValidationError as error:
            raise validation_error(error) from None


def _messages(instructions: str | None, items: list[Item]) -> list[dict[str, Any]]:
    turns = to_chat_messages(items)
    if instructions is None:
        return turns
    # Most templates take one message of the system's, at the beginning.
    first = next((i for i, turn in enumerate(turns) if turn["role"] not in SYSTEM), len(turns))
    texts = [instructions, *(turn["content"] for turn in turns[:first])]
    return [{"role": "system", "content": "\n\n".join(texts)}, *turns[first:]]


def _tool_choice(choice: str | ChosenFunction | AllowedFunctions) -> Any:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, ChosenFunction):
        return _function_choice(choice)
    allowed = {"mode": choice.mode, "tools": list(map(_function_choice, choice.tools))}
    return {"type": "allowed_tools", "allowed_tools": allowed}


def _function_choice(choice: ChosenFunction) -> dict[str, Any]:
    return {"type": "function", "function": {"name": prompt_name(choice.name, choice.namespace)}}


def _response_format(text_format: TextFormat) -> dict[str, Any]:
    if text_format.type != "json_schema":
        return {"type": text_format.type}
    for name, value in (("name", text_format.name), ("schema", text_format.schema_)):
        if value is None:
            param = f"text.format.{name}"
            raise ApiError(400, f"{param} is required", param=param, code="missing_required_parameter")
    schema = {
        "name": text_format.name,
        "description": text_format.description,
        "schema": text_format.schema_,
        "strict": text_format.strict,
    }
    return {"type": "json_schema", "json_schema": schema}


async def render_prompt(context: ServerContext, body: ResponsesRequest, chat: ChatCompletionRequest) -> ChatPrompt:
    """Like :func:`~dovetail.server.prompts.render.render_chat`. With ``truncation: auto``, the oldest messages that do
    not fit the context are dropped.

    Raises:
        ApiError: as there.
    """
    if body.truncation != "auto":
        return await render_chat(context, chat)
    room = context.engine.max_model_len - max(body.max_output_tokens or 1, 1)
    turns = chat.messages
    head = next((i for i, turn in enumerate(turns) if turn.role not in SYSTEM), len(turns))
    starts = [head, *(i for i, turn in enumerate(turns) if turn.role == "user" and i > head)]

    async def since(start: int) -> ChatPrompt | None:
        """The prompt from a user message on; None if it is too long."""
        try:
            shorter = chat.model_copy(update={"messages": [*turns[:head], *turns[start:]]})
            prompt = await render_chat(context, shorter)
        except ApiError as error:
            if error.code != CONTEXT_LENGTH_EXCEEDED or start == starts[-1]:
                raise
            return None
        return prompt if len(prompt.ids) <= room or start == starts[-1] else None

    if (complete := await since(starts[0])) is not None:
        return complete
    # What is left out makes it shorter, so that few of the places have to be tried.
    low, high = 1, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if await since(starts[middle]) is None:
            low = middle + 1
        else:
            high = middle
    found = await since(starts[low])
    assert found is not None
    return found
