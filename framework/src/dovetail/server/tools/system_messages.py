"""Moves system messages to where the chat template accepts them.

Agents send reminders as system messages inside a conversation. Many templates refuse these, drop them, or let them
replace the first system message; some accept no system message at all. In these cases the text becomes a part of a user
message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dovetail.engine.templates.facts import SystemSupport
from dovetail.engine.templates.messages import read_content_text

Turn = dict[str, Any]

SYSTEM = ("system", "developer")


def place_system_messages(turns: Sequence[Turn], place: SystemSupport) -> list[Turn]:
    """The messages, with system messages moved to where the template shows them. No text is lost.

    Args:
        place: where it does.
    """
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
    joined: list[list[Turn]] = []
    last_made = False
    for turn, made in turns:
        if (made or last_made) and joined and joined[-1][0]["role"] == turn["role"] == "user":
            joined[-1].append(turn)
            made = True
        else:
            joined.append([turn])
        last_made = made
    return [group[-1] if len(group) == 1 else {**group[-1], "content": _joined(group)} for group in joined]


def _joined(turns: Sequence[Turn]) -> str:
    return "\n\n".join(filter(None, (read_content_text(turn["content"]) for turn in turns)))
