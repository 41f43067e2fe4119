"""DeepSeek V3, R1 and V3.1: a name, a separator and a JSON object, between their own markers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dovetail.api import CallFormat, Tool
from dovetail.api.parsing import NamedToolParser


class DeepSeekV3(NamedToolParser):
    """V3 and R1, with the object in a Markdown fence. See :class:`dovetail.api.ToolParser`."""

    section_markers = ("<｜tool▁calls▁begin｜>",)
    call_start = "<｜tool▁call▁begin｜>"
    header_pattern = re.compile(r"(?:function)?<｜tool▁sep｜>(?P<name>[^\s<`{]+)\s*```(?:json)?\n")
    end_markers = ("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        head = f"{cls.call_start}function<｜tool▁sep｜>"
        calls = tuple((f"{head}{tool['name']}\n```json\n", "\n```<｜tool▁call▁end｜>") for tool in tools)
        return CallFormat(calls, before=cls.section_markers[0], separator="\n", after="<｜tool▁calls▁end｜>")


class DeepSeekV31(NamedToolParser):
    """V3.1. See :class:`dovetail.api.ToolParser`."""

    section_markers = DeepSeekV3.section_markers
    call_start = DeepSeekV3.call_start
    header_pattern = re.compile(r"(?P<name>[^\s<`{]+)\s*<｜tool▁sep｜>")
    end_markers = ("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = tuple((f"{cls.call_start}{tool['name']}<｜tool▁sep｜>", "<｜tool▁call▁end｜>") for tool in tools)
        return CallFormat(calls, before=cls.section_markers[0], after="<｜tool▁calls▁end｜>")
