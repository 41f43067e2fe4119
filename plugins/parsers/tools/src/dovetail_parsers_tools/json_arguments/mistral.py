"""Mistral: ``[TOOL_CALLS]`` before a JSON list, or, since tokenizer version 11, before each name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from uuid import uuid4

from dovetail.api import CallBegin, CallFormat, Tool
from dovetail.api.parsing import EventGenerator, JsonToolParser, read_object

HEADER = re.compile(r"(?P<name>[^\s\[\]{}<>\"]+)(?:\[CALL_ID\][^\[\]{}\s]*)?(?:\[ARGS\])?\s*(?=\{)")


class Mistral(JsonToolParser):
    """See :class:`dovetail.api.ToolParser`."""

    start_markers = ("[TOOL_CALLS]",)

    def read_calls(self) -> EventGenerator[None]:
        reader = self.reader
        if (yield from reader.skip_space()) in ("[", "{"):
            yield from super().read_calls()
        elif header := (yield from reader.match(HEADER)):
            reader.record = None
            yield CallBegin(header["name"])
            yield from read_object(reader)
        else:
            yield from self.recorded_content()

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(tools, '{"name": %s, "arguments": ', "}")
        return CallFormat(calls, before="[TOOL_CALLS][", separator=", ", after="]")

    @classmethod
    def call_id(cls, index: int, name: str) -> str:
        # The templates refuse ids of any other form.
        return uuid4().hex[:9]


class NamedMistral(Mistral):
    """Since tokenizer version 11."""

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        return CallFormat(tuple((f"[TOOL_CALLS]{tool['name']}[ARGS]", "") for tool in tools))
