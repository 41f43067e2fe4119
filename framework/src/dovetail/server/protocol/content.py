"""The content of a message: a text, or a list of parts, which are texts and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from dovetail.server.http.errors import describe
from dovetail.server.protocol.base import Body, Items

TEXT_TYPES = ("text", "input_text", "output_text")
"""Types of text parts, on the chat route and in the Responses API, whose parts some clients send to the chat route."""


IMAGE_TYPES = ("image_url", "input_image")
"""Types of image parts, there and here."""


class ContentPart(Body):
    """A part of a message's content. All types of text parts are accepted."""

    text: str


class ImagePart(Body):
    """An image in a message's content.

    Attributes:
        url: a data URL, a file's or an address.
    """

    url: str


def _error(what: str) -> PydanticCustomError:
    return PydanticCustomError("wanted", "{what}", {"what": what})


def _read_content(value: Any) -> str | list[ContentPart | ImagePart] | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _error("a text or a list of content parts")
    return list(map(_read_part, value))


def _read_part(part: Any) -> ContentPart | ImagePart:
    if isinstance(part, ContentPart | ImagePart):
        return part
    if isinstance(part, str):
        return ContentPart(text=part)
    if not isinstance(part, dict):
        raise _error('content parts such as {"type": "text", "text": "…"}')
    kind = "text" if part.get("type") in (None, "") else part["type"]
    if kind in IMAGE_TYPES:
        return _read_image(part)
    name = "refusal" if kind == "refusal" else "text"
    if kind not in (*TEXT_TYPES, "refusal"):
        raise _error(f"text and image_url parts (this server does not read parts of type {describe(kind)} yet)")
    # A text of null says nothing, and one that is not there at all is a mistake.
    if name not in part or not (part[name] is None or isinstance(part[name], str)):
        raise _error('content parts such as {"type": "text", "text": "…"}')
    others = {key: value for key, value in part.items() if key not in ("type", name)}
    return ContentPart.model_validate({**others, "text": part[name] or ""})


def _read_image(part: dict[str, Any]) -> ImagePart:
    found = part.get("image_url")
    url = found.get("url") if isinstance(found, dict) else found
    if not isinstance(url, str) or not url:
        raise _error('image parts such as {"type": "image_url", "image_url": {"url": "…"}}')
    others = {key: value for key, value in part.items() if key not in ("type", "image_url", "detail", "url")}
    return ImagePart.model_validate({**others, "url": url})


def content_text(content: str | Sequence[ContentPart | ImagePart] | None) -> str:
    """The text of a content, without its images. Parts are joined with line breaks."""
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content or () if isinstance(part, ContentPart))


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
        {
            "type": "object",
            "properties": {
                "type": {"enum": [*IMAGE_TYPES]},
                "image_url": {
                    "anyOf": [
                        _TEXT,
                        {"type": "object", "properties": {"url": _TEXT}, "required": ["url"]},
                    ]
                },
            },
            "required": ["type", "image_url"],
        },
    ]
}
Content = Annotated[
    str | Items[ContentPart | ImagePart] | None,
    BeforeValidator(_read_content),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _PART}, {"type": "null"}]}),
]
