"""The published chat templates: each is told all that anybody says, as text or in parts, and every call, whatever its arguments are."""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from dovetail.api import RequestError
from dovetail.engine.templates.chat_template import find_message_format, render
from dovetail.engine.templates.facts import find_facts, find_system_support
from dovetail.server.protocol.requests import ChatMessage
from dovetail.server.tools.tool_choice import ToolSelection
from dovetail.server.tools.tool_prompts import build_template_messages

FOLDERS = Path(__file__).parents[2].glob("plugins/parsers/*/tests/data")
TEMPLATES = {file.stem: file.read_text(encoding="utf-8") for folder in FOLDERS for file in folder.glob("*.jinja")}
del TEMPLATES["fireworks-ai-llama-3-firefunction-v2"]  # reads variables that nobody gives it
FOR_TOOLS = {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use"}
"""Templates that fail without tools, beside which the model has another."""
SILENT = {"LFM2-8B-A1B", "ibm-granite-granite-3.3-2B-Instruct"}
"""Templates that know tools, and show no calls of an assistant."""
UNSAFE = {"Kimi-K2-Thinking"}
"""Templates that change lists where there are calls, which the sandbox does not let them."""
CALL_ID = "callid000"
TOOL: dict[str, Any] = {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}
VARIABLES = {"bos_token": "", "eos_token": ""}
WORDS = ("Anteater", "Badger", "Cormorant", "Dormouse", "Echidna", "Flamingo", "Gazelle", "Hedgehog")
WRITTEN_PART = re.compile(r"""['"]text['"]\s*:""")
"""What shows that a list of parts was written as Python or JSON has it."""
ARGUMENTS: dict[str, Any] = {
    "an object": {"beast": "Jackal"},
    "JSON": '{"beast": "Jackal"}',
    "cut off": '{"beast": "Jackal',
    "a list": '["Jackal"]',
    "Python's quotes": "{'beast': 'Jackal'}",
    "text": "the Jackal",
}

facts_of = functools.cache(find_facts)
"""Finding them takes longer than anything else here."""


def content(words: tuple[str, ...], *, in_parts: bool) -> Any:
    return [{"type": "text", "text": word} for word in words] if in_parts else " ".join(words)


def told(name: str, turns: list[dict[str, Any]], *, with_tools: bool) -> str:
    """The prompt of a conversation, as the server makes it."""
    template = TEMPLATES[name]
    selection = ToolSelection(in_prompt=[TOOL]) if with_tools else ToolSelection()
    facts = facts_of(template)
    messages = build_template_messages(list(map(ChatMessage.model_validate, turns)), template, facts, selection, None)
    tools = [{"type": "function", "function": TOOL}] if with_tools and facts.shows_tools else None
    return render(template, messages, tools=tools, variables=VARIABLES)


def missing(text: str, words: tuple[str, ...]) -> list[str]:
    return [word for word in words if word not in text]


def test_there_are_templates() -> None:
    assert len(TEMPLATES) > 40


@pytest.mark.parametrize("with_tools", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_no_word_of_anybody_is_lost(name: str, with_tools: bool) -> None:
    for in_parts in itertools.product([False, True], repeat=3):
        said = [content(WORDS[i * 2 : i * 2 + 2], in_parts=part) for i, part in enumerate((*in_parts, in_parts[1]))]
        roles = ("system", "user", "assistant", "user")
        turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
        text = told(name, turns, with_tools=with_tools or name in FOR_TOOLS)
        assert missing(text, WORDS) == []
        assert not WRITTEN_PART.search(text)


@pytest.mark.parametrize("fault", ARGUMENTS)
@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - SILENT - UNSAFE))
def test_a_conversation_with_calls_goes_on_whatever_their_arguments_are(name: str, fault: str) -> None:
    call = {"id": CALL_ID, "type": "function", "function": {"name": "look", "arguments": ARGUMENTS[fault]}}
    for in_parts in (False, True):
        turns = [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": CALL_ID, "content": content(WORDS[:2], in_parts=in_parts)},
        ]
        text = told(name, turns, with_tools=True)
        assert missing(text, (*WORDS[:2], "Jackal")) == []
        assert not WRITTEN_PART.search(text)


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - FOR_TOOLS))
def test_offline_conversations_are_told_in_the_form_that_the_template_takes(name: str, role: str) -> None:
    template = TEMPLATES[name]
    for in_parts in (False, True):
        spoken = {"role": role, "content": content(WORDS[:2], in_parts=in_parts)}
        turns = {"system": [spoken, {"role": "user", "content": "Why?"}], "user": [spoken]}.get(
            role, [{"role": "user", "content": "Why?"}, spoken, {"role": "user", "content": "Why?"}]
        )
        if role == "system" and find_system_support(template) == "nowhere":
            with pytest.raises(RequestError):
                render(template, turns, variables=VARIABLES)
            continue
        text = render(template, turns, variables=VARIABLES)
        assert missing(text, WORDS[:2]) == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_format_can_be_asked_for(name: str) -> None:
    for asked in ("string", "openai"):
        assert find_message_format(TEMPLATES[name], "user", asked).content == asked
