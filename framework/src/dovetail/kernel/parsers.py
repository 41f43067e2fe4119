"""Candidates for the parsers of tool calls and of reasoning. The chat template decides between them when it is read."""

from __future__ import annotations

import functools
import re
from typing import TypeVar

from dovetail.api.cards import ParserCard
from dovetail.api.errors import PluginError
from dovetail.kernel.choose import choose, make_part
from dovetail.kernel.options import AUTO
from dovetail.kernel.plan import ParserPlan
from dovetail.kernel.registry import Registry

NONE = "none"
"""The name that turns parsing off."""
ANY = ("",)
"""A pattern that matches every template."""

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
                re.compile(pattern)
        except re.error as error:
            raise PluginError(
                f"the {offer} recognises {pattern!r}, which is no regular expression: {error}", "update the plugin"
            ) from None
        found.append(ParserPlan(part=make_part(offer), recognises=recognises, special_tokens=offer.card.special_tokens))
    return tuple(found)


def recognise(candidates: tuple[ParserPlan, ...], template: str) -> ParserPlan | None:
    """The first candidate that recognises the format in a chat template."""
    place = _first(tuple(candidate.recognises for candidate in candidates), template)
    return None if place is None else candidates[place]


@functools.lru_cache(maxsize=64)  # every request asks, nearly always about the same template
def _first(recognises: tuple[tuple[str, ...], ...], template: str) -> int | None:
    return next(
        (i for i, patterns in enumerate(recognises) if any(re.search(pattern, template) for pattern in patterns)), None
    )
