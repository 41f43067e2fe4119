"""Parses the model's output: reasoning, then content with tool calls."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property

from dovetail.api import (
    CallArguments,
    CallBegin,
    Content,
    PluginError,
    Reasoning,
    ReasoningEvent,
    ReasoningParser,
    ToolEvent,
    ToolParser,
)
from dovetail.engine.templates.facts import TemplateFacts
from dovetail.kernel.blame import blame, check_class, wrong_answer
from dovetail.kernel.discovery import import_part
from dovetail.kernel.parsers import first_match
from dovetail.kernel.plan_parts import ANY, Part
from dovetail.server.engine_protocol import ServedPlan
from dovetail.server.tools.forced_calls import ForcedCalls
from dovetail.server.tools.tool_choice import ToolSelection


@dataclass(frozen=True, slots=True)
class ToolCallBegin:
    """A call begins.

    Attributes:
        index: among the calls of its output.
    """

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """A piece of the arguments of a call, as JSON."""

    index: int
    text: str


NO_BLAME = nullcontext()
"""For parsers of the framework."""

OutputEvent = Reasoning | Content | ToolCallBegin | ToolCallArguments


@dataclass(frozen=True)
class OutputParsing:
    """How the outputs of one request are parsed.

    Attributes:
        reasoning, tools: the parsers; None if the text is not parsed.
        selection: the tools that may be called.
        prompt: the end of the prompt.
        include_reasoning: whether reasoning is returned or dropped.
        special_tokens: markers of the formats that may be special tokens.
    """

    reasoning: type[ReasoningParser] | None = None
    tools: type[ToolParser] | None = None
    selection: ToolSelection = field(default_factory=ToolSelection)
    prompt: str = ""
    include_reasoning: bool = True
    special_tokens: tuple[str, ...] = ()
    parts: tuple[Part | None, Part | None] = (None, None)
    """Of the parsers of reasoning and of tools, where they are a plugin's."""

    @cached_property
    def is_plain(self) -> bool:
        """Whether the text is the content, unparsed."""
        return self.reasoning is None and self.tools is None

    def new_parser(self) -> OutputParser:
        """A parser for one completion."""
        return OutputParser(self)


class OutputParser:
    """Parses one completion, piece by piece.

    Attributes:
        calls: number of calls emitted so far.
    """

    def __init__(self, parsing: OutputParsing) -> None:
        self._parsing = parsing
        self._reading, self._calling = (
            blame(part, "to parse an output") if part else NO_BLAME for part in parsing.parts
        )
        with self._reading:
            self._reasoning = parsing.reasoning(parsing.prompt) if parsing.reasoning else None
        with self._calling:
            self._tools = parsing.tools(parsing.selection.callable) if parsing.tools else None
        self._skipping_call = False
        self.calls = 0

    def feed(self, text: str) -> list[OutputEvent]:
        """Parse the next piece of text. Returns the events that are complete."""
        if self._reasoning is None:
            return self._read_content(text, last=False)
        with self._reading:
            found = list(self._reasoning.feed(text))
        return self._filter_reasoning(self._read_reasoning(found, last=False))

    def finish(self) -> list[OutputEvent]:
        """Parse what was held back, at the end of the output."""
        if self._reasoning is None:
            return self._read_content("", last=True)
        with self._reading:
            found = list(self._reasoning.finish())
        return self._filter_reasoning(self._read_reasoning(found, last=True))

    def _filter_reasoning(self, events: list[OutputEvent]) -> list[OutputEvent]:
        if self._parsing.include_reasoning:
            return events
        return [event for event in events if not isinstance(event, Reasoning)]

    def _read_reasoning(self, found: Iterable[ReasoningEvent], *, last: bool) -> list[OutputEvent]:
        events: list[OutputEvent] = []
        for event in found:
            if isinstance(event, Reasoning):
                events.append(event)
            elif isinstance(event, Content):
                events += self._read_content(event.text, last=False)
            else:
                raise self._wrong_event(self._parsing.parts[0], event, "Reasoning and Content")
        return events + self._read_content("", last=True) if last else events

    def _read_content(self, text: str, *, last: bool) -> list[OutputEvent]:
        if self._tools is None:
            return [Content(text)] if text else []
        with self._calling:
            events = [*self._tools.feed(text)] if text else []
            if last:
                events += self._tools.finish()
        return [shown for event in events if (shown := self._number_call(event)) is not None]

    def _number_call(self, event: ToolEvent) -> OutputEvent | None:
        match event:
            case CallBegin(name):
                self._skipping_call = self.calls > 0 and not self._parsing.selection.parallel
                if self._skipping_call:
                    return None
                assert self._tools is not None
                self.calls += 1
                with self._calling:
                    call_id = self._tools.call_id(self.calls - 1, name)
                return ToolCallBegin(self.calls - 1, call_id, name)
            case CallArguments(text):
                return None if self._skipping_call else ToolCallArguments(self.calls - 1, text)
            case Content():
                return event
            case _:
                raise self._wrong_event(self._parsing.parts[1], event, "CallBegin, CallArguments and Content")

    @staticmethod
    def _wrong_event(part: Part | None, event: object, wanted: str) -> PluginError:
        assert part is not None, f"a parser of the framework gave {event!r}"
        return wrong_answer(part, "an output", event, f"{wanted} of dovetail.api")


@dataclass
class ParsedOutput:
    """A whole parsed output.

    Attributes:
        calls: each as its beginning and its arguments.
    """

    reasoning: str = ""
    content: str = ""
    calls: list[tuple[ToolCallBegin, str]] = field(default_factory=list)


def parse_output(parsing: OutputParsing, text: str) -> ParsedOutput:
    """Parse a whole completion."""
    parser = parsing.new_parser()
    return join_events((*parser.feed(text), *parser.finish()))


def join_events(events: Iterable[OutputEvent]) -> ParsedOutput:
    """Build the whole output from its events."""
    reasoning: list[str] = []
    content: list[str] = []
    calls: list[tuple[ToolCallBegin, list[str]]] = []
    for event in events:
        match event:
            case Reasoning(piece):
                reasoning.append(piece)
            case Content(piece):
                content.append(piece)
            case ToolCallBegin():
                calls.append((event, []))
            case ToolCallArguments(index, piece):
                calls[index][1].append(piece)
    return ParsedOutput("".join(reasoning), "".join(content), [(call, "".join(pieces)) for call, pieces in calls])


def check_parsers(plan: ServedPlan) -> None:
    """Import the parsers that were chosen by name. Others wait for a chat template that they recognise.

    Raises:
        PluginError: one cannot be imported, or is none; with its plugin.
    """
    for parsers, base in ((plan.tool_parsers, ToolParser), (plan.reasoning_parsers, ReasoningParser)):
        for parser in parsers:
            if parser.recognises == ANY:
                check_class(parser.part, parser.part.target, import_part(parser.part, parser.part.target), base)


def find_output_parsing(
    plan: ServedPlan, facts: TemplateFacts, selection: ToolSelection, include_reasoning: bool
) -> OutputParsing:
    """Find out how outputs of conversations with a template are parsed.

    Args:
        facts: about the template, with the patterns of the plan's parsers.
    """
    reasoning = first_match(plan.reasoning_parsers, facts.matches)
    tools = first_match(plan.tool_parsers, facts.matches) if selection.callable else None
    parser: type[ToolParser] | None = import_part(tools.part, tools.part.target) if tools else None
    # Without candidates, parsing is off, and only what is forced is read.
    calls_as_json = parser is None and bool(plan.tool_parsers and selection.callable) and not facts.shows_tools
    if calls_as_json or (selection.forced and (parser is None or parser.call_format(selection.callable) is None)):
        parser, tools = ForcedCalls, None
    return OutputParsing(
        reasoning=import_part(reasoning.part, reasoning.part.target) if reasoning else None,
        tools=parser,
        selection=selection,
        include_reasoning=include_reasoning,
        special_tokens=tuple(token for found in (reasoning, tools) if found for token in found.special_tokens),
        parts=(reasoning.part if reasoning else None, tools.part if tools else None),
    )
