"""Llama 3: one bare object, whose arguments are called parameters. Some write several, or a marker before them."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFrame, Tool
from dovetail.api.parsing import JsonCalls


class Llama3Json(JsonCalls):
    """See :class:`dovetail.api.ToolParser`."""

    leads = ("<|python_tag|>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        return CallFrame(cls.json_frame(tools, '{"name": %s, "parameters": ', "}"), separator="; ")
