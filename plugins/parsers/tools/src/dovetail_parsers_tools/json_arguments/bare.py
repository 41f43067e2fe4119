"""JSON objects without any marker: xLAM, and what models write whose template shows no notation of its own."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFormat, Tool
from dovetail.api.parsing import JsonToolParser


class BareJson(JsonToolParser):
    """An object, several, or a list, alone or in a Markdown fence. See :class:`dovetail.api.ToolParser`."""

    name_keys = ("name", "function")

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        return CallFormat(
            cls.json_call_markers(tools, '{"name": %s, "arguments": ', "}"), before="[", separator=", ", after="]"
        )


class Xlam(BareJson):
    """xLAM 2, by vLLM's template for it: a list. Earlier ones were taught the mark too."""

    optional_markers = ("<tool_call>",)
    end_markers = ("</tool_call>",)
