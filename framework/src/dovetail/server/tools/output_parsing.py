"""Reads what a model writes in its turn: reasoning, then the answer, and calls of tools amid it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from dovetail.api import (
    CallArguments,
    CallBegin,
    Content,
    Reasoning,
    ReasoningEvent,
    ReasoningParser,
    ToolEvent,
    ToolParser,
)
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.parsers import recognise
from dovetail.server.engine_protocol import ServedPlan
from dovetail.server.tools.forced_calls import ForcedCalls
from dovetail.server.tools.tool_choice import Offer
from dovetail.server.tools.tool_prompts import knows_tools


@dataclass(frozen=True, slots=True)
class Call:
    """A call begins.

    Attributes:
        index: among the calls of its turn.
    """

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A piece of the arguments of a call, as JSON."""

    index: int
    text: str


TurnEvent = Reasoning | Content | Call | Arguments


@dataclass(frozen=True)
class Reading:
    """How the turns of one answer are read.

    Attributes:
        reasoning, tools: the parsers, None where the text stays as it is.
        offer: the tools that may be called.
        prompt: its end.
        shows_reasoning: whether thoughts are handed out, or dropped.
        special_tokens: parts of the notations that may be special tokens.
    """

    reasoning: type[ReasoningParser] | None = None
    tools: type[ToolParser] | None = None
    offer: Offer = field(default_factory=Offer)
    prompt: str = ""
    shows_reasoning: bool = True
    special_tokens: tuple[str, ...] = ()

    @cached_property
    def plain(self) -> bool:
        """Whether the text is the answer as it stands."""
        return self.reasoning is None and self.tools is None

    def turn(self) -> Turn:
        """A reader of one completion."""
        return Turn(self)


class Turn:
    """Reads one completion, in pieces.

    Attributes:
        calls: how many calls were handed out.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._reasoning = reading.reasoning(reading.prompt) if reading.reasoning else None
        self._tools = reading.tools(reading.offer.callable) if reading.tools else None
        self._dropping = False
        self.calls = 0

    def feed(self, text: str) -> list[TurnEvent]:
        """What has become certain with this piece."""
        if self._reasoning is None:
            return self._read_content(text, last=False)
        return self._shown(self._part(self._reasoning.feed(text), last=False))

    def finish(self) -> list[TurnEvent]:
        """What was held back, when no more will come."""
        if self._reasoning is None:
            return self._read_content("", last=True)
        return self._shown(self._part(self._reasoning.finish(), last=True))

    def _shown(self, events: list[TurnEvent]) -> list[TurnEvent]:
        if self._reading.shows_reasoning:
            return events
        return [event for event in events if not isinstance(event, Reasoning)]

    def _part(self, found: Iterable[ReasoningEvent], *, last: bool) -> list[TurnEvent]:
        events: list[TurnEvent] = []
        for event in found:
            if isinstance(event, Reasoning):
                events.append(event)
            else:
                events += self._read_content(event.text, last=False)
        return events + self._read_content("", last=True) if last else events

    def _read_content(self, text: str, *, last: bool) -> list[TurnEvent]:
        if self._tools is None:
            return [Content(text)] if text else []
        events = [*self._tools.feed(text)] if text else []
        if last:
            events += self._tools.finish()
        return [shown for event in events if (shown := self._number(event)) is not None]

    def _number(self, event: ToolEvent) -> TurnEvent | None:
        match event:
            case CallBegin(name):
                self._dropping = self.calls > 0 and not self._reading.offer.parallel
                if self._dropping:
                    return None
                assert self._tools is not None
                self.calls += 1
                return Call(self.calls - 1, self._tools.call_id(self.calls - 1, name), name)
            case CallArguments(text):
                return None if self._dropping else Arguments(self.calls - 1, text)
            case Content():
                return event


@dataclass
class Told:
    """A whole turn.

    Attributes:
        calls: each as its beginning and its arguments.
    """

    reasoning: str = ""
    content: str = ""
    calls: list[tuple[Call, str]] = field(default_factory=list)


def tell(reading: Reading, text: str) -> Told:
    """Read a whole completion."""
    turn = reading.turn()
    return told_of((*turn.feed(text), *turn.finish()))


def told_of(events: Iterable[TurnEvent]) -> Told:
    """The turn that events make."""
    reasoning: list[str] = []
    content: list[str] = []
    calls: list[tuple[Call, list[str]]] = []
    for event in events:
        match event:
            case Reasoning(piece):
                reasoning.append(piece)
            case Content(piece):
                content.append(piece)
            case Call():
                calls.append((event, []))
            case Arguments(index, piece):
                calls[index][1].append(piece)
    return Told("".join(reasoning), "".join(content), [(call, "".join(pieces)) for call, pieces in calls])


def find_reading(plan: ServedPlan, template: str, offer: Offer, shows_reasoning: bool) -> Reading:
    """How turns of a template's conversations are read."""
    reasoning = recognise(plan.reasoning_parsers, template)
    tools = recognise(plan.tool_parsers, template) if offer.callable else None
    parser: type[ToolParser] | None = import_dotted(tools.part.target) if tools else None
    # Without candidates, parsing is off, and only what is forced is read.
    told_in_words = parser is None and bool(plan.tool_parsers and offer.callable) and not knows_tools(template)
    if told_in_words or (offer.forced and (parser is None or parser.frame(offer.callable) is None)):
        parser, tools = ForcedCalls, None
    return Reading(
        reasoning=import_dotted(reasoning.part.target) if reasoning else None,
        tools=parser,
        offer=offer,
        shows_reasoning=shows_reasoning,
        special_tokens=tuple(token for found in (reasoning, tools) if found for token in found.special_tokens),
    )
