"""Post-processing of a parser's events: merges them, and drops white space that only separates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dovetail.api.parsers import CallBegin, Content, ToolEvent


def merge_events(steps: Iterable[Any]) -> list[Any]:
    """The events up to where a parser waits, with adjacent events of one kind merged."""
    events: list[Any] = []
    texts: list[str] = []
    kind: type | None = None
    for step in steps:
        if step is None:
            break
        if type(step) is not kind:
            if texts and kind:
                events.append(kind("".join(texts)))
            texts, kind = [], None
        if isinstance(step, CallBegin):
            events.append(step)
        elif step.text:
            texts.append(step.text)
            kind = type(step)
    if texts and kind:
        events.append(kind("".join(texts)))
    return events


class TrimmedText:
    """Makes events from pieces of a text, without the white space at its start and end."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self.make = make
        self._held: list[str] | None = None
        """White space that belongs to the text if more text follows; None before any text."""

    def __call__(self, text: str) -> Any:
        if self._held is None:
            text = text.lstrip()
        ready = text.rstrip()
        if not ready:
            if self._held is not None:
                self._held.append(text)
            return None
        before, self._held = "".join(self._held or ()), [text[len(ready) :]]
        return self.make(before + ready)


class SpaceFilter:
    """Drops white space that only separates calls from each other, or from the text before or after them.

    Between two texts with calls between them, the white space before the calls is kept; if there is none, that after
    them.
    """

    def __init__(self) -> None:
        self._held: list[str] = []
        self._text_seen = False
        """Whether text was emitted."""
        self._call_seen = False
        """Whether a call came after the last text."""
        self._drop_space = False
        """Whether white space after that call is dropped, even if text follows."""

    def filter_events(self, steps: Iterable[ToolEvent | None]) -> Iterator[ToolEvent]:
        """The events up to where a parser waits."""
        for step in steps:
            if step is None:
                return
            if not isinstance(step, Content):
                if not self._call_seen:
                    self._call_seen, self._drop_space = True, bool(self._held) or not self._text_seen
                    self._held = self._held if self._text_seen else []
                yield step
            elif text := self._text(step.text):
                yield Content(text)

    def finish(self) -> Iterator[Content]:
        """The events of held-back text, at the end."""
        if self._held and not self._call_seen:
            yield Content("".join(self._held))

    def _text(self, text: str) -> str:
        if self._call_seen and self._drop_space:
            text = text.lstrip()
        ready = text.rstrip()
        if not ready:
            if text:
                self._held.append(text)
            return ""
        rest = text[len(ready) :]
        before, self._held = "".join(self._held), [rest] if rest else []
        self._text_seen, self._call_seen = True, False
        return before + ready
