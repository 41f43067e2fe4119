"""Families that write messages, or channels, one after the other: some are thoughts, the rest is the answer and its calls.

The marks about all of them are taken away, but those of calls, which are the tool parser's.
"""

from __future__ import annotations

import re
from typing import ClassVar

from dovetail.api import Content, Reasoning, ReasoningEvent
from dovetail.api.parsing import ReasoningReader, Steps, Trimmed, markers


class Blocks(ReasoningReader):
    """Blocks with a header that says what they are. White space around them belongs to none; between two of a kind stands an empty line."""

    header: ClassVar[re.Pattern[str]]
    """What stands before a block. Group ``thoughts`` matches where it is one of thoughts; what a group ``kept`` matches is part of the block, as is its end."""
    ends: ClassVar[tuple[str, ...]]
    """What stands behind one."""
    thoughts: ClassVar[str]
    """What opens thoughts, perhaps in the prompt."""
    answers: ClassVar[str]
    """Likewise the answer."""
    between: ClassVar[str]
    """What stands between the two."""
    closed: ClassVar[tuple[str, ...]] = ()
    """The end of a prompt that leaves no thoughts to come."""
    others: ClassVar[tuple[str, ...]]
    """Marks that may stand outside blocks."""

    def read(self) -> Steps[None]:
        reader = self.reader
        self.seen = set[type]()
        """The kinds of which there was text."""
        opened = self._opened()
        if opened:
            # That the prompt opened a block does not keep every model from opening it again.
            yield from reader.word(markers(self.thoughts if opened is Reasoning else self.answers))
            yield from self._read_block(opened, "")
        while header := (yield from reader.match(self.header)):
            kept = header.groupdict().get("kept") or ""
            yield from self._read_block(Reasoning if header["thoughts"] else Content, kept)
        dropped = False
        while (yield from reader.word(markers(*self.others))):
            dropped = True
        if dropped and reader.ended:
            reader.drop()  # a header that the end of the output cut off
        yield from reader.rest(Content)

    def _read_block(self, kind: type[Reasoning] | type[Content], kept: str) -> Steps[None]:
        trimmed = Trimmed(kind)

        def each(text: str) -> ReasoningEvent | None:
            event: ReasoningEvent | None = trimmed(text)
            if event:
                self.seen.add(kind)
            return event

        if kind in self.seen:
            yield kind("\n\n")
        yield kind(kept)
        found = yield from self.reader.until(markers(*self.ends), each, awaited=True)
        if kept:
            yield kind(found)

    def _opened(self) -> type[Reasoning] | type[Content] | None:
        """What the prompt opened."""
        prompt = self.prompt.rstrip()
        if prompt.endswith(self.thoughts):
            return Reasoning
        return Content if prompt.endswith(self.answers) else None

    def frame(self) -> tuple[str, str] | None:
        opened = self._opened()
        if opened is Content or self.prompt.rstrip().endswith(self.closed):
            return None
        return "" if opened else self.thoughts, self.between


class KimiK3(Blocks):
    """Kimi K3, by its chat template."""

    header = re.compile(r"<\|open\|>(?:(?P<thoughts>think)|response|tools)<\|sep\|>")
    ends = ("<|close|>think<|sep|>", "<|close|>response<|sep|>", "<|close|>tools<|sep|>")
    thoughts = "<|open|>think<|sep|>"
    answers = "<|open|>response<|sep|>"
    between = ends[0] + answers
    others = ("<|close|>message<|sep|>", "<|end_of_msg|>")


class Inkling(Blocks):
    """Inkling. The notation is that of vLLM's parser of the same name."""

    header = re.compile(
        r"(?:<\|message_model\|>)?[\w.-]*(?:(?P<kept><\|content_invoke_tool_json\|>)"
        r"|<\|content_(?:(?P<thoughts>thinking)|text|invoke_tool_text|tool_error)\|>)"
    )
    ends = ("<|end_message|>", "<|content_model_end_sampling|>")
    thoughts = "<|content_thinking|>"
    answers = "<|content_text|>"
    between = "<|end_message|><|message_model|><|content_text|>"
    others = ("<|message_model|>", "<|content_model_end_sampling|>")


class SolarOpen(Blocks):
    """Solar Open, by its chat template."""

    header = re.compile(r"(?:<\|begin\|>assistant)?<\|(?:(?P<thoughts>think)|content|tool_calls)\|>")
    ends = ("<|end|>", "<|calls|>")
    thoughts = "<|think|>"
    answers = "<|content|>"
    between = "<|end|><|begin|>assistant<|content|>"
    closed = ("<|think|><|end|><|begin|>assistant",)
    others = ("<|begin|>assistant",)


class MuseGlimmer(Blocks):
    """Muse Glimmer, by its chat template."""

    header = re.compile(r"(?:<\|start\|>assistant)?(?: to=(?:(?P<thoughts>self)|[^\s<>]+))?<\|message\|>")
    ends = ("<|eom|>", "<|eot|>")
    thoughts = " to=self<|message|>"
    answers = " to=user<|message|>"
    between = "<|eom|><|start|>assistant to=user<|message|>"
    others = ("<|start|>assistant",)
