"""Reasoning between two markers. The prompt may already contain the first one or both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from dovetail.api.parsers import Content, Reasoning, ReasoningEvent, ReasoningParser
from dovetail.api.parsing.events import TrimmedText, merge_events
from dovetail.api.parsing.reader import EventGenerator, Reader, markers


class StreamingReasoningParser(ReasoningParser):
    """A parser whose ``read`` is a generator."""

    def __init__(self, prompt: str) -> None:
        super().__init__(prompt)
        self.reader = Reader()
        self._steps = self.read()

    @abstractmethod
    def read(self) -> EventGenerator[None]:
        """Read all of ``self.reader``. Yields :class:`Reasoning`, :class:`Content`, and None when more text is
        needed.
        """

    def feed(self, text: str) -> Iterable[ReasoningEvent]:
        self.reader.push(text)
        return self._advance()

    def finish(self) -> Iterable[ReasoningEvent]:
        self.reader.ended = True
        return self._advance()

    def _advance(self) -> list[ReasoningEvent]:
        return merge_events(self._steps)


class TaggedReasoningParser(StreamingReasoningParser):
    """Reasoning between markers, then the answer. White space around the reasoning belongs to neither.

    A prompt that ends with the first marker means that the model starts inside its reasoning; one that ends with the
    end marker means that it does not reason. If reasoning is never closed, the whole output is reasoning.

    Attributes:
        start_markers: Markers that open reasoning; :meth:`reasoning_markers` returns the first.
        end_markers: Markers that close it; likewise.
        answer_markers: Markers before and after the answer, which are not part of it.
        interrupt_markers: Markers that end unclosed reasoning, and are content themselves.
        always_reasons: Whether the model reasons even without an opening marker in the output or the prompt.
        after_start: White space that the model writes after the first marker.
        after_end: White space that it writes after the last marker.
    """

    start_markers: ClassVar[tuple[str, ...]] = ("<think>",)
    end_markers: ClassVar[tuple[str, ...]] = ("</think>",)
    answer_markers: ClassVar[tuple[str, str] | None] = None
    interrupt_markers: ClassVar[tuple[str, ...]] = ()
    always_reasons: ClassVar[bool] = False
    after_start: ClassVar[str] = "\n"
    after_end: ClassVar[str] = "\n\n"

    def read(self) -> EventGenerator[None]:
        reader, prompt = self.reader, self.prompt.rstrip()
        if not prompt.endswith(self.end_markers) and (yield from self._read_start(prompt.endswith(self.start_markers))):
            found = yield from reader.read_until(
                markers(*self.end_markers, *self.interrupt_markers), TrimmedText(Reasoning), awaited=True
            )
            if found in self.interrupt_markers:
                yield Content(found)
            elif found:
                yield from reader.skip_space()
        if self.answer_markers:
            yield from self._read_answer(*self.answer_markers)
        yield from reader.read_rest(Content)

    def _read_answer(self, start: str, end: str) -> EventGenerator[None]:
        """Read an answer and the markers around it."""
        reader = self.reader
        reader.record = []
        yield from reader.skip_space()
        found = yield from reader.read_marker(markers(start))
        lead, reader.record = "".join(reader.record), None
        if not found:
            yield Content(lead)
        elif (yield from reader.read_until(markers(end), TrimmedText(Content), awaited=True)):
            yield from reader.skip_space()

    def _read_start(self, opened: bool) -> EventGenerator[bool]:
        """Read up to the start of the reasoning. If there is none, what was read is content."""
        reader = self.reader
        reader.record = []
        yield from reader.skip_space()
        # That the prompt opened the reasoning does not keep every model from opening it again.
        found = yield from reader.read_marker(markers(*self.start_markers))
        lead, reader.record = "".join(reader.record), None
        if found or opened or self.always_reasons:
            return True
        yield Content(lead)
        return False

    def reasoning_markers(self) -> tuple[str, str] | None:
        prompt = self.prompt.rstrip()
        if prompt.endswith(self.end_markers):
            return None
        before = "" if prompt.endswith(self.start_markers) else self.start_markers[0] + self.after_start
        return before, self.end_markers[0] + self.after_end
