"""``<tool_call>`` around a JSON object: Hermes, Qwen, and many later models."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFormat, Tool
from dovetail.api.parsing import JsonToolParser


class Hermes(JsonToolParser):
    """See :class:`dovetail.api.ToolParser`."""

    start_markers = ("<tool_call>",)
    end_markers = ("</tool_call>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(tools, '<tool_call>\n{"name": %s, "arguments": ', "}\n</tool_call>")
        return CallFormat(calls, separator="\n")
