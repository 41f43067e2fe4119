"""A marker and a JSON list of calls: Granite, Phi, InternLM, Command, and others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from dovetail.api import CallBegin, CallFormat, Tool
from dovetail.api.parsing import EventGenerator, JsonToolParser, read_object


class Granite(JsonToolParser):
    """Granite 3. See :class:`dovetail.api.ToolParser`."""

    start_markers = ("<|tool_call|>", "<tool_call>")
    end_markers = ("</tool_call>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(tools, '{"name": %s, "arguments": ', "}")
        return CallFormat(calls, before="<|tool_call|>[", separator=", ", after="]")


class Phi4(JsonToolParser):
    """Phi 4 mini: ``functools[…]``; its later template has markers around the list instead."""

    start_markers = ("functools", "<|tool_call|>")
    end_markers = ("<|/tool_call|>", "</|tool_call|>")

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(tools, '{"name": %s, "arguments": ', "}")
        return CallFormat(calls, before="functools[", separator=", ", after="]")


class InternLM(JsonToolParser):
    """InternLM 2: one object between its own markers."""

    start_markers = ("<|action_start|><|plugin|>", "<|action_start|> <|plugin|>")
    end_markers = ("<|action_end|>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(
            tools, '<|action_start|><|plugin|>\n{"name": %s, "parameters": ', "}<|action_end|>"
        )
        return CallFormat(calls, separator="\n")


class Command(JsonToolParser):
    """Command R7B and A: a list whose members also have ids, numbered by the template."""

    start_markers = ("<|START_ACTION|>",)
    end_markers = ("<|END_ACTION|>",)
    name_keys = ("tool_name",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(tools, '{"tool_call_id": "0", "tool_name": %s, "parameters": ', "}")
        return CallFormat(calls, before="<|START_ACTION|>[\n    ", separator=",\n    ", after="\n]<|END_ACTION|>")


class Nemotron(JsonToolParser):
    """Nemotron Nano 2."""

    start_markers = ("<TOOLCALL>",)
    end_markers = ("</TOOLCALL>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(tools, '{"name": %s, "arguments": ', "}")
        return CallFormat(calls, before="<TOOLCALL>[", separator=", ", after="]</TOOLCALL>")


class Apriel(JsonToolParser):
    """``<tool_calls>`` around a list; MiniMax M1 writes objects on separate lines instead."""

    start_markers = ("<tool_calls>",)
    end_markers = ("</tool_calls>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(tools, '{"name": %s, "arguments": ', "}")
        return CallFormat(calls, before="<tool_calls>[", separator=", ", after="]</tool_calls>")


class Granite20bFunctionCalling(JsonToolParser):
    """Granite 20B for function calling: one object after each marker, as in vLLM's parser and template for it."""

    start_markers = ("<function_call>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(tools, '<function_call> {"name": %s, "arguments": ', "}")
        return CallFormat(calls, separator="\n")


class LongCat(JsonToolParser):
    """LongCat: like Hermes, with its own markers, in the format of vLLM's parser of the same name."""

    start_markers = ("<longcat_tool_call>",)
    end_markers = ("</longcat_tool_call>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(
            tools, '<longcat_tool_call>\n{"name": %s, "arguments": ', "}\n</longcat_tool_call>"
        )
        return CallFormat(calls, separator="\n")


class GigaChat3(JsonToolParser):
    """GigaChat 3: a message with its own role, by its chat template; and 3.1, which has a marker for calls instead."""

    start_markers = (
        "<|message_sep|>\n\nfunction call<|role_sep|>\n",
        "function call<|role_sep|>\n",
        "<|function_call|>",
    )
    end_markers = ("<|message_sep|>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(tools, 'function call<|role_sep|>\n{"name": %s, "arguments": ', "}")
        return CallFormat(calls, before="<|message_sep|>\n\n", separator="<|message_sep|>\n\n")


class GigaChat31(GigaChat3):
    """GigaChat 3.1, if it must call."""

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        return CallFormat(cls.json_call_markers(tools, '<|function_call|>{"name": %s, "arguments": ', "}"))


class Inkling(JsonToolParser):
    """Inkling: a message for each call, in the format of vLLM's parser of the same name.

    The reasoning parser of that family removes the markers of the other messages, and an optional name before this
    marker.
    """

    start_markers = ("<|content_invoke_tool_json|>", "<|message_model|><|content_invoke_tool_json|>")
    end_markers = ("<|end_message|>",)
    argument_keys = ("args", *JsonToolParser.argument_keys)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        head = "<|content_invoke_tool_json|>"
        calls = cls.json_call_markers(tools, f'{head}{{"name":%s,"args":', "}<|end_message|>")
        return CallFormat(calls, separator="<|message_model|>")


class Apertus(JsonToolParser):
    """Apertus, by its chat template: objects whose only key is the name."""

    start_markers = ("<|tools_prefix|>",)
    end_markers = ("<|tools_suffix|>",)
    head: ClassVar[re.Pattern[str]] = re.compile(r'\{\s*"(?P<name>[^"\\]+)"\s*:')

    def read_call(self) -> EventGenerator[bool]:
        reader = self.reader
        if not (head := (yield from reader.match(self.head))):
            return False
        reader.record = None
        yield CallBegin(head["name"])
        yield from read_object(reader)
        if (yield from reader.skip_space()) == "}":
            reader.skip()
        return True

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        calls = cls.json_call_markers(tools, "{%s: ", "}")
        return CallFormat(calls, before="<|tools_prefix|>[", separator=", ", after="]<|tools_suffix|>")
