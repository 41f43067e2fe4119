"""Images in the contents of messages: chat templates are told where they are, and never see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dovetail.api.errors import RequestError
from dovetail.api.text import quote_foreign
from dovetail.engine.templates.rendered_prompt import RenderedPrompt

IMAGE_PART = {"type": "image"}
"""What stands for an image in a message for a template that takes lists of parts."""
IMAGE_MARK = "\ufdd1image\ufdd1"
"""What stands for an image in the text for a template that takes texts. U+FDD1 never occurs in Unicode text."""
PART_TYPES = ("image_url", "image_pil", "image", "input_image")
"""Types of content parts with images. Each has its image under a key of the same name; ``input_image`` under ``image_url``."""
PART_FORMS = '{"type": "image_url", "image_url": {"url": …}} or {"type": "image_pil", "image_pil": image}'


def take_images(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Any]]:
    """The messages with :data:`IMAGE_PART` in the place of each image, and the images in order: URLs, or whatever was
    given as one. Messages without images are returned as they are.

    Raises:
        RequestError: a part holds no image.
    """
    taken: list[Any] = []
    changed: list[Mapping[str, Any]] = []
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, list | tuple) and any(map(_is_image, content)):
            parts = []
            for part in content:
                if _is_image(part):
                    taken.append(_read_image(part))
                    part = dict(IMAGE_PART)
                parts.append(part)
            message = {**message, "content": parts}
        changed.append(message)
    return changed, taken


def _is_image(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in PART_TYPES


def _read_image(part: Mapping[str, Any]) -> Any:
    kind = part["type"]
    found = part.get("image_url" if kind == "input_image" else kind)
    if kind in ("image_url", "input_image"):
        found = found.get("url") if isinstance(found, Mapping) else found
        found = found if isinstance(found, str) else None
    if found is None:
        raise RequestError(f"a content part is {quote_foreign(part, 80)}", f"give {PART_FORMS}", param="messages")
    return found


def write_placeholders(prompt: RenderedPrompt, placeholder: str) -> RenderedPrompt:
    """A rendered conversation with placeholders in the places of :data:`IMAGE_MARK`."""
    pieces = prompt.text.split(IMAGE_MARK)
    if len(pieces) == 1:
        return prompt
    ends: list[int] = []  # of the marks, in the text as it was
    position = 0
    for piece in pieces[:-1]:
        position += len(piece) + len(IMAGE_MARK)
        ends.append(position)
    longer = len(placeholder) - len(IMAGE_MARK)
    plain = tuple(start + longer * sum(end <= start for end in ends) for start in prompt.plain)
    return RenderedPrompt(placeholder.join(pieces), plain)
