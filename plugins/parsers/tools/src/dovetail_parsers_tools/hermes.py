"""``<tool_call>`` around a JSON object: Hermes, Qwen, and many that were trained after them."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFrame, Tool
from dovetail.api.parsing import JsonCalls


class Hermes(JsonCalls):
    """See :class:`dovetail.api.ToolParser`."""

    starts = ("<tool_call>",)
    ends = ("</tool_call>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, '<tool_call>\n{"name": %s, "arguments": ', "}\n</tool_call>")
        return CallFrame(calls, separator="\n")
