"""JSON objects without any marker: what models write whose template shows no notation of its own."""

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
