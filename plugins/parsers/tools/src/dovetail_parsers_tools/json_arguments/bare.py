"""JSON objects without markers: xLAM, and models whose template shows no call format."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFormat, Tool
from dovetail.api.parsing import JsonToolParser


class BareJson(JsonToolParser):
    """One object, several, or a list, with or without a Markdown fence. See :class:`dovetail.api.ToolParser`."""

    name_keys = ("name", "function")

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        return CallFormat(
            cls.json_call_markers(tools, '{"name": %s, "arguments": ', "}"), before="[", separator=", ", after="]"
        )


class Xlam(BareJson):
    """xLAM 2, by vLLM's template for it: a list. Earlier versions were also trained with the marker."""

    optional_markers = ("<tool_call>",)
    end_markers = ("</tool_call>",)
