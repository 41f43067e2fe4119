"""Images in messages, for chat templates that take lists of parts and for those that take texts."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail.api.errors import RequestError
from dovetail.engine.templates.chat_template import render_prompt
from dovetail.engine.templates.image_parts import IMAGE_MARK, IMAGE_PART, take_images, write_placeholders
from dovetail.engine.templates.rendered_prompt import RenderedPrompt

TEXTS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}"
    "{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}{% endfor %}"
)


def said(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def test_images_are_taken_out_in_order() -> None:
    image = object()
    text = {"type": "text", "text": "hi"}
    messages = [
        *said({"type": "image_url", "image_url": {"url": "a", "detail": "low"}}, text),
        {"role": "assistant", "content": "yes"},
        *said(text, {"type": "image_pil", "image_pil": image}, {"type": "input_image", "image_url": "b"}),
    ]
    taken, images = take_images(messages)
    assert images == ["a", image, "b"]
    assert [part for message in taken[::2] for part in message["content"]] == [
        IMAGE_PART,
        text,
        text,
        IMAGE_PART,
        IMAGE_PART,
    ]
    assert taken[1] is messages[1]
    assert messages[0]["content"][0]["type"] == "image_url", "the caller's message was changed"


@pytest.mark.parametrize(
    "part", [{"type": "image_url"}, {"type": "image_url", "image_url": {}}, {"type": "image_pil"}, {"type": "image"}]
)
def test_a_part_without_an_image_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"give .*image_url"):
        take_images(said(part))


@pytest.mark.parametrize(("template", "between"), [(TEXTS, "\n"), (PARTS, "")])
def test_placeholders_stand_where_the_images_do(template: str, between: str) -> None:
    taken, _ = take_images(said({"type": "image_url", "image_url": "a"}, {"type": "text", "text": "a <image>?"}))
    prompt = render_prompt(template, taken, control_tokens=("<image>",), add_generation_prompt=False)
    placed = write_placeholders(prompt, "<image>")
    assert placed.text == f"[user]<image>{between}a <image>?"
    assert placed.plain == (placed.text.rindex("<image>"),), "what the user wrote is text"


def test_offsets_follow_placeholders_of_any_length() -> None:
    prompt = RenderedPrompt(f"ab{IMAGE_MARK}cd{IMAGE_MARK}e", (1, 3 + len(IMAGE_MARK)))
    for placeholder in ("<i>", "x" * 40, ""):
        placed = write_placeholders(prompt, placeholder)
        assert placed.text == f"ab{placeholder}cd{placeholder}e"
        assert [placed.text[start] for start in placed.plain] == ["b", "d"]
    assert write_placeholders(RenderedPrompt("ab", (1,)), "<i>") == RenderedPrompt("ab", (1,))
