"""Reasoning between two markers, of which the prompt may have written the first or both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from dovetail.api.parsers import Content, Reasoning, ReasoningEvent, ReasoningParser
from dovetail.api.parsing.events import Trimmed, merge
from dovetail.api.parsing.reader import Reader, Steps, markers


class ReasoningReader(ReasoningParser):
    """A parser whose ``read`` is a generator."""

    def __init__(self, prompt: str) -> None:
        super().__init__(prompt)
        self.reader = Reader()
        self._steps = self.read()

    @abstractmethod
    def read(self) -> Steps[None]:
        """Read ``self.reader`` to its end; yields :class:`Reasoning`, :class:`Content`, and None where it waits."""

    def feed(self, text: str) -> Iterable[ReasoningEvent]:
        self.reader.push(text)
        return self._advance()

    def finish(self) -> Iterable[ReasoningEvent]:
        self.reader.ended = True
        return self._advance()

    def _advance(self) -> list[ReasoningEvent]:
        return merge(self._steps)


class TaggedReasoning(ReasoningReader):
    """Reasoning first, between markers; then the answer. White space around the reasoning is neither.

    A prompt that ends with the first marker leaves the model within its reasoning; one that ends with the last leaves none to come. Reasoning that is never
    closed is all there is.
    """

    starts: ClassVar[tuple[str, ...]] = ("<think>",)
    """What opens reasoning; the first is the one that :meth:`frame` has."""
    ends: ClassVar[tuple[str, ...]] = ("</think>",)
    """What closes it; likewise."""
    answer: ClassVar[tuple[str, str] | None] = None
    """What may stand before and behind the answer, and is no part of it."""
    until: ClassVar[tuple[str, ...]] = ()
    """What ends reasoning that was not closed, and is content itself."""
    always: ClassVar[bool] = False
    """Whether the model reasons even if neither it nor the prompt says so."""
    after_start: ClassVar[str] = "\n"
    """White space that the model writes behind the first marker."""
    after_end: ClassVar[str] = "\n\n"
    """White space that it writes behind the last."""

    def read(self) -> Steps[None]:
        reader, prompt = self.reader, self.prompt.rstrip()
        if not prompt.endswith(self.ends) and (yield from self._begins(prompt.endswith(self.starts))):
            found = yield from reader.until(markers(*self.ends, *self.until), Trimmed(Reasoning), awaited=True)
            if found in self.until:
                yield Content(found)
            elif found:
                yield from reader.space()
        if self.answer:
            yield from self._answer(*self.answer)
        yield from reader.rest(Content)

    def _answer(self, start: str, end: str) -> Steps[None]:
        """Read an answer and the markers about it."""
        reader = self.reader
        reader.record = []
        yield from reader.space()
        found = yield from reader.word(markers(start))
        lead, reader.record = "".join(reader.record), None
        if not found:
            yield Content(lead)
        elif (yield from reader.until(markers(end), Trimmed(Content), awaited=True)):
            yield from reader.space()

    def _begins(self, opened: bool) -> Steps[bool]:
        """Read to where reasoning begins; if none does, what was read is content."""
        reader = self.reader
        reader.record = []
        yield from reader.space()
        # That the prompt opened the reasoning does not keep every model from opening it again.
        found = yield from reader.word(markers(*self.starts))
        lead, reader.record = "".join(reader.record), None
        if found or opened or self.always:
            return True
        yield Content(lead)
        return False

    def frame(self) -> tuple[str, str] | None:
        prompt = self.prompt.rstrip()
        if prompt.endswith(self.ends):
            return None
        before = "" if prompt.endswith(self.starts) else self.starts[0] + self.after_start
        return before, self.ends[0] + self.after_end
