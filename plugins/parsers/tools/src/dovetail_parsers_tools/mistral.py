"""Mistral: ``[TOOL_CALLS]`` before a JSON list, or, since tokenizer version 11, before each name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from uuid import uuid4

from dovetail.api import CallBegin, CallFrame, Tool
from dovetail.api.parsing import JsonCalls, Steps, read_object

HEADER = re.compile(r"(?P<name>[^\s\[\]{}<>\"]+)(?:\[CALL_ID\][^\[\]{}\s]*)?(?:\[ARGS\])?\s*(?=\{)")


class Mistral(JsonCalls):
    """See :class:`dovetail.api.ToolParser`."""

    starts = ("[TOOL_CALLS]",)

    def read_calls(self) -> Steps[None]:
        reader = self.reader
        if (yield from reader.space()) in ("[", "{"):
            yield from super().read_calls()
        elif header := (yield from reader.match(HEADER)):
            reader.record = None
            yield CallBegin(header["name"])
            yield from read_object(reader)
        else:
            yield from self.as_it_stands()

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, '{"name": %s, "arguments": ', "}")
        return CallFrame(calls, before="[TOOL_CALLS][", separator=", ", after="]")

    @classmethod
    def call_id(cls, index: int, name: str) -> str:
        # The templates refuse ids of any other form.
        return uuid4().hex[:9]


class NamedMistral(Mistral):
    """Since tokenizer version 11."""

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        return CallFrame(tuple((f"[TOOL_CALLS]{tool['name']}[ARGS]", "") for tool in tools))
