"""Solar Open: an id, a name and a JSON object, between marks of their own, as its chat template says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dovetail.api import CallFrame, Tool
from dovetail.api.parsing import NamedCalls


class SolarOpen(NamedCalls):
    """See :class:`dovetail.api.ToolParser`."""

    sections = ("<|begin|>assistant<|tool_calls|>", "<|tool_calls|>")
    call = "<|tool_call:begin|>"
    header = re.compile(r"[^<>]*<\|tool_call:name\|>\s*(?P<name>[^\s<>]+)\s*<\|tool_call:args\|>")
    ends = ("<|tool_call:end|>", "<|calls|>")

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        # Where the choice is the model's, so is the id, and a grammar with this one does not hold its call to the schema.
        head = f"{cls.call}call_0<|tool_call:name|>"
        calls = tuple((f"{head}{tool['name']}<|tool_call:args|>", "<|tool_call:end|>") for tool in tools)
        return CallFrame(calls, before="<|tool_calls|>", after="<|calls|>")
