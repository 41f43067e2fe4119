"""DeepSeek V3, R1 and V3.1: a name, a separator, a JSON object, between marks of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dovetail.api import CallFrame, Tool
from dovetail.api.parsing import NamedCalls


class DeepSeekV3(NamedCalls):
    """V3 and R1, with the object in a Markdown fence. See :class:`dovetail.api.ToolParser`."""

    sections = ("<｜tool▁calls▁begin｜>",)
    call = "<｜tool▁call▁begin｜>"
    header = re.compile(r"(?:function)?<｜tool▁sep｜>(?P<name>[^\s<`{]+)\s*```(?:json)?\n")
    ends = ("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        head = f"{cls.call}function<｜tool▁sep｜>"
        calls = tuple((f"{head}{tool['name']}\n```json\n", "\n```<｜tool▁call▁end｜>") for tool in tools)
        return CallFrame(calls, before=cls.sections[0], separator="\n", after="<｜tool▁calls▁end｜>")


class DeepSeekV31(NamedCalls):
    """V3.1. See :class:`dovetail.api.ToolParser`."""

    sections = DeepSeekV3.sections
    call = DeepSeekV3.call
    header = re.compile(r"(?P<name>[^\s<`{]+)\s*<｜tool▁sep｜>")
    ends = ("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = tuple((f"{cls.call}{tool['name']}<｜tool▁sep｜>", "<｜tool▁call▁end｜>") for tool in tools)
        return CallFrame(calls, before=cls.sections[0], after="<｜tool▁calls▁end｜>")
