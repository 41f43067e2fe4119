"""Messages in the form that a chat template takes.

OpenAI's API has contents as texts or as lists of parts, and the arguments of calls as JSON text. Templates take one of these forms, or both, and not
the same for each role; what a template takes is found by :mod:`dovetail.engine.text.template_formats`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dovetail.api.errors import RequestError

Message = dict[str, Any]
"""One message as OpenAI's API has it: ``role``, ``content``, and perhaps ``tool_calls``, ``tool_call_id``, ``name``."""

ContentFormat = Literal["string", "openai", "either"]
"""How a template wants ``content``: as a string, as a list of typed parts, or as whatever the message has."""
ArgumentsFormat = Literal["object", "text", "either"]
"""How a template wants the arguments of calls: as an object, as JSON text, or as either."""

TEXT_PART_TYPES = ("text", "input_text", "output_text")
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Names under which templates look for a message's reasoning."""
TEXT_ARGUMENT = "arguments"
"""The argument that holds what is no JSON object, where a template takes nothing else than an object."""


@dataclass(frozen=True, slots=True)
class MessageFormat:
    """What a template takes in the messages of one role.

    Attributes:
        null_content: of a message that only calls, the content may be none. Templates that know that case want it so.
    """

    content: ContentFormat
    arguments: ArgumentsFormat = "object"
    null_content: bool = True


def prepare_message(message: Mapping[str, Any], wanted: MessageFormat) -> Message:
    """A copy of a message in the form that the template takes. Reasoning stands under every name that templates know.

    Raises:
        RequestError: the message has no role, an unreadable content, or a call of no function.
    """
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(f"wanted a message with a role, found {_shorten(message)}", param="messages")
    prepared: Message = copy.deepcopy(dict(message))
    if calls := prepared.get("tool_calls"):
        _prepare_arguments(calls, wanted.arguments)
    content = prepared.get("content")
    if content is None:
        prepared["content"] = None if calls and wanted.null_content else ""
    elif wanted.content == "string" or isinstance(content, str):
        text = read_content_text(content)
        prepared["content"] = [{"type": "text", "text": text}] if wanted.content == "openai" else text
    else:
        prepared["content"] = list(map(_normalize_part, _check_parts(content)))
    reasoning = next((prepared[name] for name in REASONING_FIELDS if prepared.get(name) is not None), None)
    if reasoning is not None:
        prepared.update(dict.fromkeys(REASONING_FIELDS, reasoning))
    return prepared


def read_content_text(content: Any) -> str:
    """The text of a content, its parts on lines of their own; of None, none.

    Raises:
        RequestError: it is neither a text nor a list of parts, or a part is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(map(_read_part_text, _check_parts(content)))


def _check_parts(content: Any) -> list[Any]:
    if not isinstance(content, list | tuple):
        raise RequestError(
            f"wanted a message's content as text or a list of parts, found {_shorten(content)}", param="messages"
        )
    return list(content)


def _read_part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if _is_text_part(part):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise RequestError(f"this model's chat template takes text, found a part of type {kind!r}", param="messages")


def _is_text_part(part: Any) -> bool:
    if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
        return False
    return part.get("type", "text") in TEXT_PART_TYPES


def _normalize_part(part: Any) -> Any:
    return {"type": "text", "text": _read_part_text(part)} if isinstance(part, str) or _is_text_part(part) else part


def _prepare_arguments(calls: Any, wanted: ArgumentsFormat) -> None:
    if not isinstance(calls, list):
        raise RequestError(f"wanted tool_calls as a list, found {_shorten(calls)}", param="messages")
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise RequestError(f"wanted a tool call with a function, found {_shorten(call)}", param="messages")
        function["arguments"] = _convert_arguments(function.get("arguments"), wanted)


def _convert_arguments(given: Any, wanted: ArgumentsFormat) -> Any:
    """Arguments in the form that the template takes. What is no JSON object was written by a model, and the conversation goes on with it as text."""
    found = _parse_arguments(given)
    if found is None:
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, default=str)
        return {TEXT_ARGUMENT: text} if wanted == "object" else text
    if wanted != "text":
        return found
    return given if isinstance(given, str) and given.strip() else json.dumps(found, ensure_ascii=False)


def _parse_arguments(given: Any) -> dict[str, Any] | None:
    """The object that arguments are; None if they are none."""
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else None
        except (ValueError, RecursionError):
            return None
    if given is None:
        return {}
    return given if isinstance(given, dict) else None


def _shorten(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
