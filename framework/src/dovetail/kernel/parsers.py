"""Candidates for the parsers of tool calls and of reasoning. The chat template decides between them when it is read."""

from __future__ import annotations

import re
from collections.abc import Set
from typing import TypeVar

from dovetail.api.cards import ParserCard
from dovetail.api.errors import PluginError
from dovetail.api.text import one_line
from dovetail.kernel.choose import choose, make_part
from dovetail.kernel.options import AUTO
from dovetail.kernel.plan_parts import ANY, ParserPlan
from dovetail.kernel.registry import Registry
from dovetail.kernel.waiting import wait_for

NONE = "none"
"""The name that turns parsing off."""

C = TypeVar("C", bound=ParserCard)


def find_parsers(
    card: type[C], role: str, explicit: str, registry: Registry, warnings: list[str]
) -> tuple[ParserPlan, ...]:
    """The candidates, best first. The first one that recognises the chat template is used.

    Args:
        explicit: a parser's name, which is used with any template; ``auto``, or ``none``.

    Raises:
        ResolutionError: no installed parser has that name.
        PluginError: a card's ``recognises`` is not a regular expression.
    """
    if explicit == NONE:
        return ()
    if explicit == AUTO:
        offers = registry.offers(card)
    else:
        offers = [choose(role, card, registry, lambda _: None, explicit=explicit, wanted=role, warnings=warnings)[0]]
    found = []
    for offer in offers:
        recognises = offer.card.recognises if explicit == AUTO else ANY
        try:
            for pattern in recognises:
                with wait_for(offer, f"its pattern {one_line(pattern, 100)}"):
                    re.compile(pattern)
        except re.error as error:
            raise PluginError(
                f"the {offer} recognises {pattern!r}, which is no regular expression: {error}", "update the plugin"
            ) from None
        found.append(ParserPlan(part=make_part(offer), recognises=recognises, special_tokens=offer.card.special_tokens))
    return tuple(found)


def all_patterns(*candidates: tuple[ParserPlan, ...]) -> tuple[str, ...]:
    """The patterns of candidates, each once."""
    return tuple(dict.fromkeys(pattern for some in candidates for found in some for pattern in found.recognises))


def first_match(candidates: tuple[ParserPlan, ...], matches: Set[str]) -> ParserPlan | None:
    """The first candidate of which a pattern is among ``matches``, the patterns that were found in a chat template."""
    return next((found for found in candidates if not matches.isdisjoint(found.recognises)), None)
