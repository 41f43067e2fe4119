"""Calls that are JSON objects between tags."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFrame, Tool
from dovetail.api.parsing import JsonCalls


class PLUGIN_CLASSParser(JsonCalls):
    """See :class:`dovetail.api.ToolParser`."""

    starts = ("<PLUGIN_NAME>",)
    ends = ("</PLUGIN_NAME>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        before = '<PLUGIN_NAME>\n{"name": %s, "arguments": '
        return CallFrame(cls.json_frame(tools, before, "}\n</PLUGIN_NAME>"), separator="\n")
