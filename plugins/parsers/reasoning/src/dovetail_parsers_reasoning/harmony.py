"""gpt-oss: messages in channels. The channel ``analysis`` is reasoning.

Calls are left unchanged for the tool parser of that family; the other channels are the answer, without their markers.
"""

from __future__ import annotations

import re

from dovetail.api import Content, Reasoning
from dovetail.api.parsing import EventGenerator, StreamingReasoningParser, TrimmedText, markers

HEADER = re.compile(r"(?:<\|start\|>assistant)?(?:[^<]|<\|(?:channel|constrain)\|>)*<\|message\|>")
ENDS = ("<|end|>", "<|call|>", "<|return|>")
ANALYSIS = "<|channel|>analysis<|message|>"
BEGINNINGS = markers("<|start|>", "<|channel|>")
FINAL = "<|start|>assistant<|channel|>final<|message|>"


class Harmony(StreamingReasoningParser):
    """See :class:`dovetail.api.ReasoningParser`."""

    def read(self) -> EventGenerator[None]:
        reader = self.reader
        before: set[type] = set()
        while header := (yield from reader.match(HEADER)):
            called = " to=" in header[0]
            kind = Reasoning if "analysis" in header[0] and not called else Content
            if called:
                yield Content(header[0])
            elif kind in before:
                yield kind("\n\n")
            found = yield from reader.read_until(markers(*ENDS), Content if called else TrimmedText(kind), awaited=True)
            if called:
                yield Content(found)
            before.add(kind)
        begun = yield from reader.read_marker(BEGINNINGS)
        if begun and reader.ended:
            reader.skip_available()  # a header that the end of the output cut off
        elif begun:
            yield Content(begun)
        yield from reader.read_rest(Content)

    def reasoning_markers(self) -> tuple[str, str]:
        return ANALYSIS, f"<|end|>{FINAL}"
