"""Parsers for the kit to judge: a right one of each kind, and ones that are wrong in one way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dovetail.api import CallArguments, CallBegin, CallFormat, Content, Reasoning, Tool, ToolEvent
from dovetail.api.parsing import JsonToolParser, TaggedReasoningParser


class Right(JsonToolParser):
    """``<c>{…}</c>``."""

    start_markers = ("<c>",)
    end_markers = ("</c>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat | None:
        return CallFormat(cls.json_call_markers(tools, '<c>{"name": %s, "arguments": ', "}</c>"))


class Misframed(Right):
    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat | None:
        return CallFormat(cls.json_call_markers(tools, '<c>{"name": %s, "arguments": ', "}"), separator=" and ")


class ShortOfFrames(Right):
    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat | None:
        return CallFormat((("", ""),))


class Hasty(Right):
    """Takes each piece for all there is, like a parser that looks for a whole tag in a piece."""

    def feed(self, text: str) -> Iterable[ToolEvent]:
        fresh = Right(self.tools)
        return [*fresh.feed(text), *fresh.finish()]

    def finish(self) -> Iterable[ToolEvent]:
        return ()


class Completing(Right):
    """Closes what the end of the output left open."""

    def finish(self) -> Iterable[ToolEvent]:
        return [*super().finish(), *([CallArguments("}")] if self.depth else [])]

    def feed(self, text: str) -> Iterable[ToolEvent]:
        events = list(super().feed(text))
        self.depth += sum(event.text.count("{") - event.text.count("}") for event in events if hasattr(event, "text"))
        return events

    depth = 0


class Slow(Right):
    """Looks through all of the text each time."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        super().__init__(tools)
        self.seen: list[str] = []

    def feed(self, text: str) -> Iterable[ToolEvent]:
        self.seen += text
        sum(character == "<" for character in self.seen)
        return super().feed(text)


class Fragile(Right):
    def finish(self) -> Iterable[ToolEvent]:
        events = list(super().finish())
        if any(isinstance(event, Content) for event in events):
            raise ValueError("unfinished")
        return events


class Hollow(Right):
    def feed(self, text: str) -> Iterable[ToolEvent]:
        return [Content(""), *super().feed(text)]


class Headless(Right):
    def feed(self, text: str) -> Iterable[ToolEvent]:
        return [event for event in super().feed(text) if not isinstance(event, CallBegin)]


class RightThoughts(TaggedReasoningParser):
    """``<t>…</t>``."""

    start_markers = ("<t>",)
    end_markers = ("</t>",)


class Blind(RightThoughts):
    """Does not look at the prompt when it says how it will go on."""

    def reasoning_markers(self) -> tuple[str, str] | None:
        return "<t>", "</t>"


class Thoughtless(RightThoughts):
    def feed(self, text: str) -> Iterable[Reasoning | Content]:
        return [Content(event.text) for event in super().feed(text)]
