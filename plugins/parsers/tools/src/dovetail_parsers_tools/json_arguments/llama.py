"""Llama 3: one bare object with its arguments under ``parameters``. Some models write several, or a marker before
them.
"""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFormat, Tool
from dovetail.api.parsing import JsonToolParser


class Llama3Json(JsonToolParser):
    """See :class:`dovetail.api.ToolParser`."""

    optional_markers = ("<|python_tag|>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        return CallFormat(cls.json_call_markers(tools, '{"name": %s, "parameters": ', "}"), separator="; ")
