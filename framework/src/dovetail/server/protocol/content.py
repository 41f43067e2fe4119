"""The content of a message: a text, or a list of parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from dovetail.server.http.errors import describe
from dovetail.server.protocol.base import Body, Items

TEXT_TYPES = ("text", "input_text", "output_text")
"""Types of text parts, on the chat route and in the Responses API, whose parts some clients send to the chat route."""


class ContentPart(Body):
    """A part of a message's content. All types of text parts are accepted."""

    text: str


def _error(what: str) -> PydanticCustomError:
    return PydanticCustomError("wanted", "{what}", {"what": what})


def _read_content(value: Any) -> str | list[ContentPart] | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _error("a text or a list of content parts")
    return list(map(_read_part, value))


def _read_part(part: Any) -> ContentPart:
    if isinstance(part, ContentPart):
        return part
    if isinstance(part, str):
        return ContentPart(text=part)
    if not isinstance(part, dict):
        raise _error('content parts such as {"type": "text", "text": "…"}')
    kind = "text" if part.get("type") in (None, "") else part["type"]
    name = "refusal" if kind == "refusal" else "text"
    if kind not in (*TEXT_TYPES, "refusal"):
        raise _error(f"text parts (this server does not read parts of type {describe(kind)} yet)")
    # A text of null says nothing, and one that is not there at all is a mistake.
    if name not in part or not (part[name] is None or isinstance(part[name], str)):
        raise _error('content parts such as {"type": "text", "text": "…"}')
    others = {key: value for key, value in part.items() if key not in ("type", name)}
    return ContentPart.model_validate({**others, "text": part[name] or ""})


def content_text(content: str | Sequence[ContentPart] | None) -> str:
    """The text of a content. Parts are joined with line breaks."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content or ())


_TEXT = {"type": "string"}
_OPTIONAL_TEXT = {"anyOf": [_TEXT, {"type": "null"}]}
_PART = {
    "anyOf": [
        _TEXT,
        {
            "type": "object",
            "properties": {"type": {"enum": [*TEXT_TYPES, "", None]}, "text": _OPTIONAL_TEXT},
            "required": ["text"],
        },
        {
            "type": "object",
            "properties": {"type": {"const": "refusal"}, "refusal": _OPTIONAL_TEXT},
            "required": ["type", "refusal"],
        },
    ]
}
Content = Annotated[
    str | Items[ContentPart] | None,
    BeforeValidator(_read_content),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _PART}, {"type": "null"}]}),
]
