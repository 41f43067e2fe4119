"""Helpers for the cards of this package."""

from __future__ import annotations

from dovetail.api import PORTABLE, ToolParserCard

TOOL_CALL = ("<tool_call>", "</tool_call>")


def card(
    name: str,
    target: str,
    summary: str,
    recognises: tuple[str, ...],
    special: tuple[str, ...] = (),
    rank: int = PORTABLE,
) -> ToolParserCard:
    """Make a card.

    Args:
        target: inside this package.
    """
    return ToolParserCard(
        name=name,
        summary=summary,
        target=f"dovetail_parsers_tools.{target}",
        recognises=recognises,
        special_tokens=special,
        rank=rank,
    )
