"""The published chat templates: no control token of a message stays one, wherever it stands, and no other prompt changes."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail.api import RequestError
from dovetail.engine.templates.chat_template import render, render_prompt
from dovetail.engine.templates.rendered_prompt import find_control_tokens

from ..fuzz.conversations import CALL_ID, TEMPLATES, VARIABLES, control_tokens, neutral

LOOKED_FOR: dict[str, set[str]] = {
    "google-gemma-4-31B-it": {"<|channel>", "<channel|>"},  # removes thoughts from earlier answers
}
"""Control tokens that stay control tokens where a template looks for them in a message."""
NAMES = sorted(TEMPLATES.keys() - {"fireworks-ai-llama-3-firefunction-v2"})  # it reads variables that nobody gives it
HARMLESS = ("Hello", "a < b", "<b>bold</b>", "<think>so</think> yes", "[1, 2]", '{"a": "<x>"}', "| a | b |")


def conversations(text: str) -> list[tuple[list[dict[str, Any]], Any]]:
    """Conversations with a text in every place, which templates take or refuse."""
    parts = [{"type": "text", "text": text[: len(text) // 2]}, {"type": "text", "text": text[len(text) // 2 :]}]
    function = {"name": text, "arguments": {text: [text]}}
    call = {
        "role": "assistant",
        "content": text,
        "tool_calls": [{"id": CALL_ID, "type": "function", "function": function}],
    }
    result = {"role": "tool", "tool_call_id": CALL_ID, "name": text, "content": text}
    schema = {"type": "object", "properties": {text: {"type": "string", "description": text}}, "required": []}
    tool = {"type": "function", "function": {"name": text, "description": text, "parameters": schema}}
    user, system = {"role": "user", "content": f"a{text}b"}, {"role": "system", "content": text}
    answer = {"role": "assistant", "content": f"{text} a", "reasoning_content": text}
    return [
        ([system, user, answer, user], None),
        ([user, answer, {"role": "user", "content": parts}], None),
        ([user, call, result], [tool]),
    ]


def left_over(template: str, messages: list[dict[str, Any]], tools: Any) -> tuple[list[str], list[str]] | None:
    """The tokens that stay, and those of the template; None if it refuses the messages."""
    tokens = control_tokens(template)
    try:
        prompt = render_prompt(template, messages, tools=tools, variables=VARIABLES, control_tokens=tokens)
        harmless = render(
            template, neutral(messages, tokens), tools=neutral(tools, tokens) if tools else None, variables=VARIABLES
        )
    except RequestError:
        return None
    found = find_control_tokens(prompt.text, tokens, lambda start, _: start in prompt.plain)
    stay = [prompt.text[start:end] for start, end, plain in found if not plain]
    own = find_control_tokens(harmless, tokens, lambda *_: False)
    return stay, [harmless[start:end] for start, end, _ in own]


@pytest.mark.parametrize("name", NAMES)
def test_no_control_token_of_a_message_stays_one(name: str) -> None:
    tokens, tried, stayed = control_tokens(TEMPLATES[name]), 0, set()
    for token in tokens:
        for messages, tools in conversations(token):
            if (found := left_over(TEMPLATES[name], messages, tools)) is not None:
                tried += 1
                if found[0] != found[1]:
                    stayed.add(token)
    assert tried
    assert stayed <= LOOKED_FOR.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_other_prompts_do_not_change(name: str) -> None:
    template = TEMPLATES[name]
    for text in HARMLESS:
        for messages, tools in conversations(text):
            try:
                prompt = render_prompt(
                    template, messages, tools=tools, variables=VARIABLES, control_tokens=control_tokens(template)
                )
            except RequestError:
                continue
            assert prompt.plain == ()
