"""gpt-oss: messages in channels. Messages in ``commentary`` are calls if their recipient is a function.

The reasoning parser of that family leaves them unchanged, and removes the markers of the other channels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dovetail.api import CallFormat, Tool
from dovetail.api.parsing import NamedToolParser


class Harmony(NamedToolParser):
    """See :class:`dovetail.api.ToolParser`."""

    section_markers = ("<|start|>assistant", "<|channel|>commentary", "<|channel|>analysis")
    call_start = "to=functions."
    header_pattern = re.compile(
        r"(?P<name>[^\s<>]+)\s*(?:<\|channel\|>(?:commentary|analysis))?\s*(?:<\|constrain\|>)?\w*\s*<\|message\|>"
    )
    end_markers = ("<|call|>", "<|end|>", "<|return|>")

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        head = "<|channel|>commentary to=functions."
        calls = tuple((f"{head}{tool['name']} <|constrain|>json<|message|>", "<|call|>") for tool in tools)
        return CallFormat(calls, separator="<|start|>assistant")
