"""Kimi K2: an id that holds the name, and a JSON object, between marks of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dovetail.api import CallFrame, Tool
from dovetail.api.parsing import NamedCalls


class KimiK2(NamedCalls):
    """See :class:`dovetail.api.ToolParser`."""

    sections = ("<|tool_calls_section_begin|>",)
    call = "<|tool_call_begin|>"
    header = re.compile(r"\s*(?:functions\.)?(?P<name>[^\s:<>|]+)(?::\d+)?\s*<\|tool_call_argument_begin\|>")
    ends = ("<|tool_call_end|>", "<|tool_calls_section_end|>")

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        heads = (f"{cls.call}{cls.call_id(0, tool['name'])}<|tool_call_argument_begin|>" for tool in tools)
        calls = tuple((head, "<|tool_call_end|>") for head in heads)
        return CallFrame(calls, before=cls.sections[0], after="<|tool_calls_section_end|>")

    @classmethod
    def call_id(cls, index: int, name: str) -> str:
        return f"functions.{name}:{index}"
