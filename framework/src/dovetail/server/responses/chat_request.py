"""From a request of the Responses API to one of the chat route, which the chat template and the sampler are told of."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from dovetail.server.context import ServerContext
from dovetail.server.http.error_fields import in_own_words
from dovetail.server.http.errors import TOO_LONG, ApiError
from dovetail.server.prompts.prompts import converse
from dovetail.server.protocol.requests import ChatCompletionRequest, Sampling
from dovetail.server.protocol.validation import invalid
from dovetail.server.responses.items import Item, turns_of
from dovetail.server.responses.protocol import ResponsesRequest, TextFormat
from dovetail.server.responses.tools import AllowedFunctions, ChosenFunction, told_name, told_tools
from dovetail.server.tools.output_parsing import Reading

SAME = (*Sampling.model_fields, "chat_template", "chat_template_kwargs", "thinking", "parallel_tool_calls")
"""What both call by one name, and mean by it."""
SYSTEM = ("system", "developer")
NAMES = (
    (re.compile(r"messages.*"), "input"),
    (re.compile(r"max_completion_tokens"), "max_output_tokens"),
    (re.compile(r"response_format(\.json_schema)?"), "text.format"),
    (re.compile(r"reasoning_effort"), "reasoning.effort"),
    (re.compile(r"(tools\[\d+\])\.function"), r"\1"),
)
"""What fields of the chat route are called here."""
Prompt = tuple[list[int], Reading]


def chat_of(body: ResponsesRequest, items: list[Item]) -> ChatCompletionRequest:
    """The same request to the chat route.

    Args:
        items: the whole conversation.

    Raises:
        ApiError: it contradicts itself.
    """
    chat = {name: getattr(body, name) for name in SAME}
    chat["messages"] = _messages(body.instructions, items)
    chat["max_completion_tokens"] = body.max_output_tokens
    if body.wants_logprobs:
        chat |= {"logprobs": True, "top_logprobs": body.top_logprobs}
    elif body.top_logprobs:
        message = 'top_logprobs needs include: ["message.output_text.logprobs"]'
        raise ApiError(400, message, param="top_logprobs", code="invalid_value")
    if body.tools:
        chat["tools"] = list(told_tools(body.tools))
    if body.tool_choice is not None:
        chat["tool_choice"] = _choice(body.tool_choice)
    if body.text is not None:
        chat["verbosity"] = body.text.verbosity
        if body.text.format is not None:
            chat["response_format"] = _form(body.text.format)
    if body.reasoning is not None:
        chat["reasoning_effort"] = "xhigh" if body.reasoning.effort == "max" else body.reasoning.effort
    with in_own_words(NAMES):
        try:
            return ChatCompletionRequest.model_validate(chat)
        except ValidationError as error:
            raise invalid(error) from None


def _messages(instructions: str | None, items: list[Item]) -> list[dict[str, Any]]:
    turns = turns_of(items)
    if instructions is None:
        return turns
    # Most templates take one message of the system's, at the beginning.
    first = next((i for i, turn in enumerate(turns) if turn["role"] not in SYSTEM), len(turns))
    texts = [instructions, *(turn["content"] for turn in turns[:first])]
    return [{"role": "system", "content": "\n\n".join(texts)}, *turns[first:]]


def _choice(choice: str | ChosenFunction | AllowedFunctions) -> Any:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, ChosenFunction):
        return _named(choice)
    allowed = {"mode": choice.mode, "tools": list(map(_named, choice.tools))}
    return {"type": "allowed_tools", "allowed_tools": allowed}


def _named(choice: ChosenFunction) -> dict[str, Any]:
    return {"type": "function", "function": {"name": told_name(choice.name, choice.namespace)}}


def _form(form: TextFormat) -> dict[str, Any]:
    if form.type != "json_schema":
        return {"type": form.type}
    for name, value in (("name", form.name), ("schema", form.schema_)):
        if value is None:
            param = f"text.format.{name}"
            raise ApiError(400, f"{param} is required", param=param, code="missing_required_parameter")
    schema = {"name": form.name, "description": form.description, "schema": form.schema_, "strict": form.strict}
    return {"type": "json_schema", "json_schema": schema}


async def prompt_of(context: ServerContext, body: ResponsesRequest, chat: ChatCompletionRequest) -> Prompt:
    """As :func:`~dovetail.server.prompts.prompts.converse`; with ``truncation: auto`` of so many of the newest turns as the context holds.

    Raises:
        ApiError: as there.
    """
    if body.truncation != "auto":
        return await converse(context, chat)
    room = context.engine.max_model_len - max(body.max_output_tokens or 1, 1)
    turns = chat.messages
    head = next((i for i, turn in enumerate(turns) if turn.role not in SYSTEM), len(turns))
    starts = [head, *(i for i, turn in enumerate(turns) if turn.role == "user" and i > head)]

    async def since(start: int) -> Prompt | None:
        """The prompt without what stands before a user's turn; None if it is too long."""
        try:
            shorter = chat.model_copy(update={"messages": [*turns[:head], *turns[start:]]})
            prompt, reading = await converse(context, shorter)
        except ApiError as error:
            if error.code != TOO_LONG or start == starts[-1]:
                raise
            return None
        return (prompt, reading) if len(prompt) <= room or start == starts[-1] else None

    if (whole := await since(starts[0])) is not None:
        return whole
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
