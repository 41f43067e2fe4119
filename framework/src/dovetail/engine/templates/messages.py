"""Converts messages to the format that a chat template accepts.

In OpenAI's API, contents are texts or lists of parts, and the arguments of calls are JSON text. Templates accept one of
these forms, or both, and not the same for each role. :mod:`dovetail.engine.templates.formats` detects the format of
a template.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dovetail.api.errors import RequestError
from dovetail.api.text import quote_foreign
from dovetail.engine.templates.image_parts import IMAGE_MARK, IMAGE_PART

Message = dict[str, Any]
"""One message as in OpenAI's API: ``role``, ``content``, and optional ``tool_calls``, ``tool_call_id``, ``name``."""

ContentFormat = Literal["string", "openai", "either"]
"""The content format of a template: a string, a list of parts, or either."""
ArgumentsFormat = Literal["object", "text", "either"]
"""The format of calls' arguments in a template: an object, JSON text, or either."""

TEXT_PART_TYPES = ("text", "input_text", "output_text")
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Names of a message's reasoning in templates."""
TEXT_ARGUMENT = "arguments"
"""The name of the argument for a text that is not a JSON object, if a template only accepts objects."""


@dataclass(frozen=True, slots=True)
class MessageFormat:
    """The message format of a template for one role.

    Attributes:
        null_content: the content of a message with only calls can be None. Templates that support this expect it.
    """

    content: ContentFormat
    arguments: ArgumentsFormat = "object"
    null_content: bool = True


def prepare_message(message: Mapping[str, Any], wanted: MessageFormat) -> Message:
    """A copy of a message in the template's format. Reasoning is stored under every name that templates use.

    Raises:
        RequestError: the message has no role, an unreadable content, or a call without a function.
    """
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(f"wanted a message with a role, found {quote_foreign(message)}", param="messages")
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
    """The text of a content. Parts are joined with line breaks. None is an empty text.

    Raises:
        RequestError: it is neither a text nor a list of parts, or a part is not a text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(map(_read_part_text, _check_parts(content)))


def _check_parts(content: Any) -> list[Any]:
    if not isinstance(content, list | tuple):
        raise RequestError(
            f"wanted a message's content as text or a list of parts, found {quote_foreign(content)}", param="messages"
        )
    return list(content)


def _read_part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if _is_text_part(part):
        return str(part["text"])
    if part == IMAGE_PART:
        return IMAGE_MARK
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    found = quote_foreign(kind)
    raise RequestError(f"this model's chat template takes text, found a part of type {found}", param="messages")


def _is_text_part(part: Any) -> bool:
    if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
        return False
    return part.get("type", "text") in TEXT_PART_TYPES


def _normalize_part(part: Any) -> Any:
    return {"type": "text", "text": _read_part_text(part)} if isinstance(part, str) or _is_text_part(part) else part


def _prepare_arguments(calls: Any, wanted: ArgumentsFormat) -> None:
    if not isinstance(calls, list):
        raise RequestError(f"wanted tool_calls as a list, found {quote_foreign(calls)}", param="messages")
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise RequestError(f"wanted a tool call with a function, found {quote_foreign(call)}", param="messages")
        function["arguments"] = _convert_arguments(function.get("arguments"), wanted)


def _convert_arguments(given: Any, wanted: ArgumentsFormat) -> Any:
    """Convert arguments to the template's format. A model may have written something that is not a JSON object; it
    is passed on as text.
    """
    found = _parse_arguments(given)
    if found is None:
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, default=str)
        return {TEXT_ARGUMENT: text} if wanted == "object" else text
    if wanted != "text":
        return found
    return given if isinstance(given, str) and given.strip() else json.dumps(found, ensure_ascii=False)


def _parse_arguments(given: Any) -> dict[str, Any] | None:
    """The arguments as an object; None if they are not a JSON object."""
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else None
        except (ValueError, RecursionError):
            return None
    if given is None:
        return {}
    return given if isinstance(given, dict) else None
