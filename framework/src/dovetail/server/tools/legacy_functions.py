"""The chat route's old ``functions`` and ``function_call``, with at most one call in a response.

The request is converted to ``tools``; the response is converted back to ``function_call``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dovetail.server.http.errors import ApiError
from dovetail.server.protocol.requests import (
    ChatCompletionRequest,
    ChatMessage,
    FunctionName,
    NamedTool,
    ToolCall,
    ToolDefinition,
)

FIELD_NAMES = (
    (re.compile(r"tools(\[\d+\])\.function"), r"functions\1"),
    (re.compile(r"tool_choice"), "function_call"),
)
"""Names of the new fields in the old API."""


def upgrade_request(body: ChatCompletionRequest) -> ChatCompletionRequest:
    """Convert the request's functions, earlier calls and their results to ``tools``.

    Raises:
        ApiError: it mixes old and new fields, or has a ``function_call`` without functions.
    """
    _check(body)
    changed: dict[str, Any] = {}
    if any(message.function_call or message.role == "function" for message in body.messages):
        changed["messages"] = _messages(body.messages)
    if body.functions:
        changed["tools"] = [ToolDefinition(type="function", function=function) for function in body.functions]
        changed["tool_choice"] = _tool_choice(body.function_call)
        changed["parallel_tool_calls"] = False
    return body.model_copy(update=changed) if changed else body


def to_legacy_message(shown: dict[str, Any]) -> dict[str, Any]:
    """Convert an output message, or a delta of one, to ``function_call``."""
    if "tool_calls" not in shown:
        return shown
    (call,) = shown["tool_calls"]
    remaining = {name: value for name, value in shown.items() if name != "tool_calls"}
    return {**remaining, "function_call": call["function"]}


def legacy_finish_reason(body: ChatCompletionRequest) -> str:
    """The ``finish_reason`` of a message with a call. OpenAI's API has ``stop`` where the call was forced."""
    return "stop" if isinstance(body.function_call, FunctionName) else "function_call"


def _check(body: ChatCompletionRequest) -> None:
    if not (body.functions or body.function_call):
        return
    given = "functions" if body.functions else "function_call"
    if other := next((name for name in ("tools", "tool_choice") if getattr(body, name)), None):
        message = f"{given} is of the older form of tools, and {other} of the newer; give tools and tool_choice, or functions and function_call"
        raise ApiError(400, message, param=given, code="invalid_value")
    if not body.functions and isinstance(body.function_call, FunctionName):
        message = "function_call asks for a call, but the request has no functions"
        raise ApiError(400, message, param="function_call", code="invalid_value")
    if body.functions and body.parallel_tool_calls:
        message = "parallel_tool_calls: of functions, an answer calls one at most; give tools, or leave it out"
        raise ApiError(400, message, param="parallel_tool_calls", code="invalid_value")


def _tool_choice(choice: str | FunctionName | None) -> Any:
    return NamedTool(type="function", function=choice) if isinstance(choice, FunctionName) else choice


def _messages(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The messages, with ids that connect calls and results: a result belongs to the last call with its name."""
    ids: dict[str, str] = {}
    upgraded = []
    for index, message in enumerate(messages):
        # Some templates require nine letters and digits.
        shown = _message(message, index, f"call{index:05}", ids)
        ids |= {call.function.name: call.id for call in shown.tool_calls or () if call.id is not None}
        upgraded.append(shown)
    return upgraded


def _message(message: ChatMessage, index: int, id: str, ids: dict[str, str]) -> ChatMessage:
    """Convert one message.

    Args:
        id: a new call id.
        ids: function name → id of its last call.
    """
    name, call = message.name, message.function_call
    if message.role == "function":
        if name is None:
            param = f"messages[{index}].name"
            raise ApiError(400, f"{param} is required", param=param, code="missing_required_parameter")
        answered = {"tool_call_id": ids.get(name, id), "content": message.content or ""}
        return message.model_copy(update={"role": "tool", **answered})
    if call is None:
        return message
    if message.tool_calls:
        param = f"messages[{index}].function_call"
        problem = f"{param} is the older form of tool_calls; give one of them"
        raise ApiError(400, problem, param=param, code="invalid_value")
    called = ToolCall(id=id, type="function", function=call)
    return message.model_copy(update={"function_call": None, "tool_calls": [called]})
