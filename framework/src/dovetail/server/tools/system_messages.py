"""Moves system messages to where the chat template accepts them.

Agents send reminders as system messages inside a conversation. Many templates refuse these, drop them, or let them
replace the first system message; some accept no system message at all. In these cases the text becomes a part of a user
message.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from dovetail.api.errors import RequestError
from dovetail.engine.text.chat_template import render
from dovetail.engine.text.template_messages import read_content_text

Turn = dict[str, Any]
SystemSupport = Literal["anywhere", "first", "nowhere"]

SYSTEM = ("system", "developer")
FIRST, LATER = "the first of the system", "the later of the system"
USER, ASSISTANT = {"role": "user", "content": "of the user"}, {"role": "assistant", "content": "of the assistant"}


@functools.lru_cache(maxsize=32)
def find_system_support(template: str) -> SystemSupport:
    """Find out where a chat template shows system messages completely."""
    first, later = ({"role": "system", "content": text} for text in (FIRST, LATER))
    if not _renders(template, [USER, ASSISTANT, USER]):
        return "anywhere"  # it fails for another reason, which the request's error will say
    if not _renders(template, [first, USER, ASSISTANT, USER]):
        return "nowhere"
    return "anywhere" if _renders(template, [first, USER, later, ASSISTANT, USER]) else "first"


def _renders(template: str, turns: Sequence[Turn]) -> bool:
    try:
        shown = render(template, turns, variables={"bos_token": "", "eos_token": ""})
    except RequestError:
        return False
    return all(turn["content"] in shown for turn in turns)


def place_system_messages(turns: Sequence[Turn], template: str) -> list[Turn]:
    """The messages, with system messages moved to where the template shows them. No text is lost."""
    place = find_system_support(template)
    if place == "anywhere":
        return list(turns)
    begun = (
        next((i for i, turn in enumerate(turns) if turn["role"] not in SYSTEM), len(turns)) if place == "first" else 0
    )
    first = [{**turns[0], "content": _joined(turns[:begun])}] if begun else []
    return [*first, *join_user_turns([_as_user_turn(turn) for turn in turns[begun:]])]


def _as_user_turn(turn: Turn) -> tuple[Turn, bool]:
    said = turn["role"] in SYSTEM
    return ({"role": "user", "content": turn["content"]} if said else turn), said


def join_user_turns(turns: Iterable[tuple[Turn, bool]]) -> list[Turn]:
    """Merge converted user messages with adjacent user messages: some templates refuse two in a row.

    Args:
        turns: each with whether it was converted.
    """
    joined: list[Turn] = []
    last_made = False
    for turn, made in turns:
        if (made or last_made) and joined and joined[-1]["role"] == turn["role"] == "user":
            turn = {**turn, "content": _joined([joined.pop(), turn])}
            made = True
        joined.append(turn)
        last_made = made
    return joined


def _joined(turns: Sequence[Turn]) -> str:
    return "\n\n".join(filter(None, (read_content_text(turn["content"]) for turn in turns)))
