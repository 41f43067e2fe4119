"""Calls that are JSON objects between tags."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFormat, Tool
from dovetail.api.parsing import JsonToolParser


class PLUGIN_CLASSParser(JsonToolParser):
    """See :class:`dovetail.api.ToolParser`."""

    start_markers = ("<PLUGIN_NAME>",)
    end_markers = ("</PLUGIN_NAME>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        before = '<PLUGIN_NAME>\n{"name": %s, "arguments": '
        markers = cls.json_call_markers(tools, before, "}\n</PLUGIN_NAME>")
        return CallFormat(markers, separator="\n")
