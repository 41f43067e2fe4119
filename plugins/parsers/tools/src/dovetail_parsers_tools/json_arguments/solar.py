"""Solar Open: an id, a name and a JSON object, between their own markers, as in its chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dovetail.api import CallFormat, Tool
from dovetail.api.parsing import NamedToolParser


class SolarOpen(NamedToolParser):
    """See :class:`dovetail.api.ToolParser`."""

    section_markers = ("<|begin|>assistant<|tool_calls|>", "<|tool_calls|>")
    call_start = "<|tool_call:begin|>"
    header_pattern = re.compile(r"[^<>]*<\|tool_call:name\|>\s*(?P<name>[^\s<>]+)\s*<\|tool_call:args\|>")
    end_markers = ("<|tool_call:end|>", "<|calls|>")

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        # Where the choice is the model's, so is the id, and a grammar with this one does not hold its call to the schema.
        head = f"{cls.call_start}call_0<|tool_call:name|>"
        calls = tuple((f"{head}{tool['name']}<|tool_call:args|>", "<|tool_call:end|>") for tool in tools)
        return CallFormat(calls, before="<|tool_calls|>", after="<|calls|>")
