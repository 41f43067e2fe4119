"""JSON objects without any marker: xLAM, and what models write whose template shows no notation of its own."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFrame, Tool
from dovetail.api.parsing import JsonCalls


class BareJson(JsonCalls):
    """An object, several, or a list, alone or in a Markdown fence. See :class:`dovetail.api.ToolParser`."""

    name_keys = ("name", "function")

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        return CallFrame(
            cls.json_frame(tools, '{"name": %s, "arguments": ', "}"), before="[", separator=", ", after="]"
        )


class Xlam(BareJson):
    """xLAM 2, by vLLM's template for it: a list. Earlier ones were taught the mark too."""

    leads = ("<tool_call>",)
    ends = ("</tool_call>",)
