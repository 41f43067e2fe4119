"""Kimi K2: an id that contains the name, and a JSON object, between their own markers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dovetail.api import CallFormat, Tool
from dovetail.api.parsing import NamedToolParser


class KimiK2(NamedToolParser):
    """See :class:`dovetail.api.ToolParser`."""

    section_markers = ("<|tool_calls_section_begin|>",)
    call_start = "<|tool_call_begin|>"
    header_pattern = re.compile(r"\s*(?:functions\.)?(?P<name>[^\s:<>|]+)(?::\d+)?\s*<\|tool_call_argument_begin\|>")
    end_markers = ("<|tool_call_end|>", "<|tool_calls_section_end|>")

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        heads = (f"{cls.call_start}{cls.call_id(0, tool['name'])}<|tool_call_argument_begin|>" for tool in tools)
        calls = tuple((head, "<|tool_call_end|>") for head in heads)
        return CallFormat(calls, before=cls.section_markers[0], after="<|tool_calls_section_end|>")

    @classmethod
    def call_id(cls, index: int, name: str) -> str:
        return f"functions.{name}:{index}"
