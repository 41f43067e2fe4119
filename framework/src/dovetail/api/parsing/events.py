"""Events on their way out of a parser: joined, and without the white space that only separates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dovetail.api.parsers import CallBegin, Content, ToolEvent


def merge(steps: Iterable[Any]) -> list[Any]:
    """The events up to where a parser waits; neighbours of one kind are one."""
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


class Trimmed:
    """Makes events of pieces of a text, without the white space at its ends."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self.make = make
        self._held: list[str] | None = None
        """White space that is part of the text if more of it follows; None before any text."""

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


class Spacing:
    """Drops white space that only separates calls from each other, or from the text before or after them.

    Between two texts with calls in their midst, what stands before the calls is kept, or if nothing does, what stands behind.
    """

    def __init__(self) -> None:
        self._held: list[str] = []
        self._spoken = False
        """Whether some text was handed out."""
        self._called = False
        """Whether a call came after the last text."""
        self._enough = False
        """Whether white space behind that call is dropped, even if text follows."""

    def tidy(self, steps: Iterable[ToolEvent | None]) -> Iterator[ToolEvent]:
        """The events up to where a parser waits."""
        for step in steps:
            if step is None:
                return
            if not isinstance(step, Content):
                if not self._called:
                    self._called, self._enough = True, bool(self._held) or not self._spoken
                    self._held = self._held if self._spoken else []
                yield step
            elif text := self._text(step.text):
                yield Content(text)

    def finish(self) -> Iterator[Content]:
        """What was held back, when nothing more comes."""
        if self._held and not self._called:
            yield Content("".join(self._held))

    def _text(self, text: str) -> str:
        if self._called and self._enough:
            text = text.lstrip()
        ready = text.rstrip()
        if not ready:
            if text:
                self._held.append(text)
            return ""
        rest = text[len(ready) :]
        before, self._held = "".join(self._held), [rest] if rest else []
        self._spoken, self._called = True, False
        return before + ready
