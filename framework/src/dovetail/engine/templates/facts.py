"""Finds out what a chat template does with tools and system messages, by reading it and by rendering with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jinja2
import jinja2.meta

from dovetail.api.errors import RequestError
from dovetail.api.text import one_line
from dovetail.engine.templates.chat_template import parse, render

SystemSupport = Literal["anywhere", "first", "nowhere"]
"""Where a template shows system messages completely."""

FIRST, LATER = "the first of the system", "the later of the system"
USER, ASSISTANT = {"role": "user", "content": "of the user"}, {"role": "assistant", "content": "of the assistant"}


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What the server knows of a chat template.

    Attributes:
        shows_tools: whether it shows tools.
        system: where it shows system messages completely.
        matches: those of the given regular expressions that are found in its source.
    """

    shows_tools: bool
    system: SystemSupport
    matches: frozenset[str] = frozenset()


def find_facts(template: str, patterns: Iterable[str] = ()) -> TemplateFacts:
    """Find the facts about a template.

    Args:
        template: Jinja source.
        patterns: regular expressions to look for in it.

    Raises:
        RequestError: the template is malformed.
    """
    try:
        return TemplateFacts(
            shows_tools=find_tool_support(template),
            system=find_system_support(template),
            matches=frozenset(pattern for pattern in patterns if re.search(pattern, template)),
        )
    except RequestError:
        raise
    except Exception as error:  # the template is foreign code, and may be nested too deeply
        raise RequestError(
            f"the chat template cannot be read: {one_line(f'{type(error).__name__}: {error}')}",
            "correct it, or give another one with --chat-template",
            param="chat_template",
        ) from error


def find_tool_support(template: str) -> bool:
    """Whether a chat template shows tools."""
    try:
        return "tools" in jinja2.meta.find_undeclared_variables(parse(template))
    except jinja2.TemplateSyntaxError:  # a tag of a later time: rendering says what is wrong, if anything is
        return "tools" in template


def find_system_support(template: str) -> SystemSupport:
    """Find out where a chat template shows system messages completely."""
    first, later = ({"role": "system", "content": text} for text in (FIRST, LATER))
    if not _renders(template, [USER, ASSISTANT, USER]):
        return "anywhere"  # it fails for another reason, which the request's error will say
    if not _renders(template, [first, USER, ASSISTANT, USER]):
        return "nowhere"
    return "anywhere" if _renders(template, [first, USER, later, ASSISTANT, USER]) else "first"


def _renders(template: str, turns: Sequence[Mapping[str, Any]]) -> bool:
    try:
        shown = render(template, turns, variables={"bos_token": "", "eos_token": ""})
    except RequestError as error:
        if isinstance(error.__cause__, MemoryError):  # it says nothing about the messages
            raise
        return False
    return all(turn["content"] in shown for turn in turns)
