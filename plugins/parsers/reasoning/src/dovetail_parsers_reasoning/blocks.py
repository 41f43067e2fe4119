"""Families that write a sequence of messages or channels: some are reasoning, the others are the answer and its calls.

All markers are removed, except those of calls, which the tool parser reads.
"""

from __future__ import annotations

import re
from typing import ClassVar

from dovetail.api import Content, Reasoning, ReasoningEvent
from dovetail.api.parsing import EventGenerator, StreamingReasoningParser, TrimmedText, markers


class BlockReasoningParser(StreamingReasoningParser):
    """Blocks with a header that names their kind. White space around a block is dropped; two blocks of one kind are
    separated by an empty line.
    """

    header_pattern: ClassVar[re.Pattern[str]]
    """Pattern before a block. Group ``thoughts`` matches if the block is reasoning. What a group ``kept`` matches is
    part of the block, as is its end marker.
    """
    end_markers: ClassVar[tuple[str, ...]]
    """Markers after a block."""
    reasoning_start: ClassVar[str]
    """Markers that open reasoning, possibly in the prompt."""
    answer_start: ClassVar[str]
    """Markers that open the answer, likewise."""
    transition: ClassVar[str]
    """Text between the two."""
    closed_prompts: ClassVar[tuple[str, ...]] = ()
    """End of a prompt after which there is no reasoning."""
    outside_markers: ClassVar[tuple[str, ...]]
    """Markers that may occur outside blocks."""

    def read(self) -> EventGenerator[None]:
        reader = self.reader
        self.seen = set[type]()
        """The kinds with text so far."""
        opened = self._opened_kind()
        if opened:
            # That the prompt opened a block does not keep every model from opening it again.
            yield from reader.read_marker(markers(self.reasoning_start if opened is Reasoning else self.answer_start))
            yield from self._read_block(opened, "")
        while header := (yield from reader.match(self.header_pattern)):
            kept = header.groupdict().get("kept") or ""
            yield from self._read_block(Reasoning if header["thoughts"] else Content, kept)
        dropped = False
        while (yield from reader.read_marker(markers(*self.outside_markers))):
            dropped = True
        if dropped and reader.ended:
            reader.skip_available()  # a header that the end of the output cut off
        yield from reader.read_rest(Content)

    def _read_block(self, kind: type[Reasoning] | type[Content], kept: str) -> EventGenerator[None]:
        trimmed = TrimmedText(kind)

        def emit(text: str) -> ReasoningEvent | None:
            event: ReasoningEvent | None = trimmed(text)
            if event:
                self.seen.add(kind)
            return event

        if kind in self.seen:
            yield kind("\n\n")
        yield kind(kept)
        found = yield from self.reader.read_until(markers(*self.end_markers), emit, awaited=True)
        if kept:
            yield kind(found)

    def _opened_kind(self) -> type[Reasoning] | type[Content] | None:
        """The kind of block that the prompt opened."""
        prompt = self.prompt.rstrip()
        if prompt.endswith(self.reasoning_start):
            return Reasoning
        return Content if prompt.endswith(self.answer_start) else None

    def reasoning_markers(self) -> tuple[str, str] | None:
        opened = self._opened_kind()
        if opened is Content or self.prompt.rstrip().endswith(self.closed_prompts):
            return None
        return "" if opened else self.reasoning_start, self.transition


class KimiK3(BlockReasoningParser):
    """Kimi K3, by its chat template."""

    header_pattern = re.compile(r"<\|open\|>(?:(?P<thoughts>think)|response|tools)<\|sep\|>")
    end_markers = ("<|close|>think<|sep|>", "<|close|>response<|sep|>", "<|close|>tools<|sep|>")
    reasoning_start = "<|open|>think<|sep|>"
    answer_start = "<|open|>response<|sep|>"
    transition = end_markers[0] + answer_start
    outside_markers = ("<|close|>message<|sep|>", "<|end_of_msg|>")


class Inkling(BlockReasoningParser):
    """Inkling, in the format of vLLM's parser of the same name."""

    header_pattern = re.compile(
        r"(?:<\|message_model\|>)?[\w.-]*(?:(?P<kept><\|content_invoke_tool_json\|>)"
        r"|<\|content_(?:(?P<thoughts>thinking)|text|invoke_tool_text|tool_error)\|>)"
    )
    end_markers = ("<|end_message|>", "<|content_model_end_sampling|>")
    reasoning_start = "<|content_thinking|>"
    answer_start = "<|content_text|>"
    transition = "<|end_message|><|message_model|><|content_text|>"
    outside_markers = ("<|message_model|>", "<|content_model_end_sampling|>")


class SolarOpen(BlockReasoningParser):
    """Solar Open, by its chat template."""

    header_pattern = re.compile(r"(?:<\|begin\|>assistant)?<\|(?:(?P<thoughts>think)|content|tool_calls)\|>")
    end_markers = ("<|end|>", "<|calls|>")
    reasoning_start = "<|think|>"
    answer_start = "<|content|>"
    transition = "<|end|><|begin|>assistant<|content|>"
    closed_prompts = ("<|think|><|end|><|begin|>assistant",)
    outside_markers = ("<|begin|>assistant",)


class MuseGlimmer(BlockReasoningParser):
    """Muse Glimmer, by its chat template."""

    header_pattern = re.compile(r"(?:<\|start\|>assistant)?(?: to=(?:(?P<thoughts>self)|[^\s<>]+))?<\|message\|>")
    end_markers = ("<|eom|>", "<|eot|>")
    reasoning_start = " to=self<|message|>"
    answer_start = " to=user<|message|>"
    transition = "<|eom|><|start|>assistant to=user<|message|>"
    outside_markers = ("<|start|>assistant",)
