"""gpt-oss: messages in channels, of which the commentary's are calls if they go to a function.

The reasoning parser of that family leaves them so, and takes the other channels' marks away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dovetail.api import CallFrame, Tool
from dovetail.api.parsing import NamedCalls


class Harmony(NamedCalls):
    """See :class:`dovetail.api.ToolParser`."""

    sections = ("<|start|>assistant", "<|channel|>commentary", "<|channel|>analysis")
    call = "to=functions."
    header = re.compile(
        r"(?P<name>[^\s<>]+)\s*(?:<\|channel\|>(?:commentary|analysis))?\s*(?:<\|constrain\|>)?\w*\s*<\|message\|>"
    )
    ends = ("<|call|>", "<|end|>", "<|return|>")

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        head = "<|channel|>commentary to=functions."
        calls = tuple((f"{head}{tool['name']} <|constrain|>json<|message|>", "<|call|>") for tool in tools)
        return CallFrame(calls, separator="<|start|>assistant")
