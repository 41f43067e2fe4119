"""Converts a Messages request to a chat completion request."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from dovetail.server.http.errors import ApiError
from dovetail.server.messages.protocol import (
    CountTokensRequest,
    CustomTool,
    MessageParam,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from dovetail.server.protocol.requests import ChatCompletionRequest
from dovetail.server.protocol.validation import validation_error

SHARED_FIELDS = ("max_tokens", "temperature", "top_p", "top_k", "stream", "min_p", "seed", "priority", "cache_salt")
"""Fields with the same name in both APIs."""
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
EFFORTS = {"max": "xhigh"}


def to_chat_request(body: CountTokensRequest) -> ChatCompletionRequest:
    """Convert the request to one of the chat route.

    Raises:
        ApiError: it contradicts itself.
    """
    messages = [{"role": "system", "content": _text(body.system)}] if body.system else []
    for index, message in enumerate(body.messages):
        messages += _chat_messages(message, index)
    chat: dict[str, Any] = {"messages": messages, "chat_template_kwargs": body.chat_template_kwargs}
    if messages[-1]["role"] == "assistant":  # the beginning of the answer, put into the model's mouth
        chat["continue_final_message"] = True
    if body.tools:
        chat["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": _parameters(tool),
                    "strict": tool.strict,
                },
            }
            for tool in body.tools
        ]
    if body.tool_choice is not None:
        chat["tool_choice"] = _tool_choice(body.tool_choice)
        if body.tool_choice.disable_parallel_tool_use:
            chat["parallel_tool_calls"] = False
    if body.thinking is not None:
        chat["thinking"] = body.thinking.type != "disabled"
    if body.output_config is not None and body.output_config.effort is not None:
        chat["reasoning_effort"] = EFFORTS.get(body.output_config.effort, body.output_config.effort)
    requested_format = body.output_format or (body.output_config and body.output_config.format)
    if requested_format:
        chat["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": requested_format.schema_},
        }
    if isinstance(body, MessagesRequest):
        chat |= {name: getattr(body, name) for name in SHARED_FIELDS} | {"stop": body.stop_sequences}
    try:
        return ChatCompletionRequest.model_validate(chat)
    except ValidationError as error:
        raise validation_error(error) from None


def _parameters(tool: CustomTool) -> dict[str, Any]:
    return {**tool.input_schema, "examples": tool.input_examples} if tool.input_examples else tool.input_schema


def _tool_choice(choice: ToolChoice) -> Any:
    if choice.type != "tool":
        return CHOICES[choice.type]
    if choice.name is None:
        raise ApiError(400, "tool_choice.name is required with the type tool", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}


def _chat_messages(message: MessageParam, index: int) -> list[dict[str, Any]]:
    """Convert one message. Tool results become messages of their own, before the text of the message."""
    turns: list[dict[str, Any]] = []
    texts, thoughts, calls = [], [], []
    for place, block in enumerate(message.content):
        match block:
            case TextBlock():
                texts.append(block.text)
            case ToolResultBlock() if message.role == "user":
                content = _text(block.content)
                turns.append(
                    {
                        "role": "tool",
                        "tool_call_id": block.tool_use_id,
                        "content": f"Error: {content}" if block.is_error else content,
                    }
                )
            case ThinkingBlock() if message.role == "assistant":
                thoughts.append(block.thinking)
            case ToolUseBlock() if message.role == "assistant":
                function = {"name": block.name, "arguments": block.input}
                calls.append({"id": block.id, "type": "function", "function": function})
            case _ if block.type != "redacted_thinking":
                where = f"messages[{index}].content[{place}]"
                raise ApiError(400, f"{where}: the role {message.role} has no {block.type}", param=where)
    turn: dict[str, Any] = {"role": message.role, "content": "\n".join(texts)}
    if thoughts:
        turn["reasoning_content"] = "\n".join(thoughts)
    if calls:
        turn["tool_calls"] = calls
        turn["content"] = turn["content"] or None
    return [*turns, turn] if texts or calls or thoughts or not turns else turns


def _text(content: str | list[TextBlock] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(block.text for block in content)
