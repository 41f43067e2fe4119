"""A marker, and a JSON list of calls: Granite, Phi, InternLM, Command, and others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from dovetail.api import CallBegin, CallFrame, Tool
from dovetail.api.parsing import JsonCalls, Steps, read_object


class Granite(JsonCalls):
    """Granite 3. See :class:`dovetail.api.ToolParser`."""

    starts = ("<|tool_call|>", "<tool_call>")
    ends = ("</tool_call>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, '{"name": %s, "arguments": ', "}")
        return CallFrame(calls, before="<|tool_call|>[", separator=", ", after="]")


class Phi4(JsonCalls):
    """Phi 4 mini: ``functools[…]``; its later template has marks around the list instead."""

    starts = ("functools", "<|tool_call|>")
    ends = ("<|/tool_call|>", "</|tool_call|>")

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, '{"name": %s, "arguments": ', "}")
        return CallFrame(calls, before="functools[", separator=", ", after="]")


class InternLM(JsonCalls):
    """InternLM 2: one object between marks of its own."""

    starts = ("<|action_start|><|plugin|>", "<|action_start|> <|plugin|>")
    ends = ("<|action_end|>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, '<|action_start|><|plugin|>\n{"name": %s, "parameters": ', "}<|action_end|>")
        return CallFrame(calls, separator="\n")


class Command(JsonCalls):
    """Command R7B and A: a list whose members also have ids, which the template numbers."""

    starts = ("<|START_ACTION|>",)
    ends = ("<|END_ACTION|>",)
    name_keys = ("tool_name",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, '{"tool_call_id": "0", "tool_name": %s, "parameters": ', "}")
        return CallFrame(calls, before="<|START_ACTION|>[\n    ", separator=",\n    ", after="\n]<|END_ACTION|>")


class Nemotron(JsonCalls):
    """Nemotron Nano 2."""

    starts = ("<TOOLCALL>",)
    ends = ("</TOOLCALL>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, '{"name": %s, "arguments": ', "}")
        return CallFrame(calls, before="<TOOLCALL>[", separator=", ", after="]</TOOLCALL>")


class Apriel(JsonCalls):
    """``<tool_calls>`` around a list; MiniMax M1 writes objects on lines of their own there."""

    starts = ("<tool_calls>",)
    ends = ("</tool_calls>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, '{"name": %s, "arguments": ', "}")
        return CallFrame(calls, before="<tool_calls>[", separator=", ", after="]</tool_calls>")


class Granite20bFunctionCalling(JsonCalls):
    """Granite 20B for calling functions: one object behind each mark, as vLLM's parser and template for it have it."""

    starts = ("<function_call>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, '<function_call> {"name": %s, "arguments": ', "}")
        return CallFrame(calls, separator="\n")


class LongCat(JsonCalls):
    """LongCat: as Hermes, with marks of its own. The notation is that of vLLM's parser of the same name."""

    starts = ("<longcat_tool_call>",)
    ends = ("</longcat_tool_call>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, '<longcat_tool_call>\n{"name": %s, "arguments": ', "}\n</longcat_tool_call>")
        return CallFrame(calls, separator="\n")


class GigaChat3(JsonCalls):
    """GigaChat 3: a message from a role of its own, by its chat template; and 3.1, which has a mark for calls instead."""

    starts = ("<|message_sep|>\n\nfunction call<|role_sep|>\n", "function call<|role_sep|>\n", "<|function_call|>")
    ends = ("<|message_sep|>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, 'function call<|role_sep|>\n{"name": %s, "arguments": ', "}")
        return CallFrame(calls, before="<|message_sep|>\n\n", separator="<|message_sep|>\n\n")


class GigaChat31(GigaChat3):
    """GigaChat 3.1, where it must call."""

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        return CallFrame(cls.json_frame(tools, '<|function_call|>{"name": %s, "arguments": ', "}"))


class Inkling(JsonCalls):
    """Inkling: a message for each call. The notation is that of vLLM's parser of the same name.

    The reasoning parser of that family takes the marks of the other messages away, and the name that may stand before this mark.
    """

    starts = ("<|content_invoke_tool_json|>", "<|message_model|><|content_invoke_tool_json|>")
    ends = ("<|end_message|>",)
    argument_keys = ("args", *JsonCalls.argument_keys)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        head = "<|content_invoke_tool_json|>"
        calls = cls.json_frame(tools, f'{head}{{"name":%s,"args":', "}<|end_message|>")
        return CallFrame(calls, separator="<|message_model|>")


class Apertus(JsonCalls):
    """Apertus, by its chat template: objects whose one key is the name."""

    starts = ("<|tools_prefix|>",)
    ends = ("<|tools_suffix|>",)
    head: ClassVar[re.Pattern[str]] = re.compile(r'\{\s*"(?P<name>[^"\\]+)"\s*:')

    def read_call(self) -> Steps[bool]:
        reader = self.reader
        if not (head := (yield from reader.match(self.head))):
            return False
        reader.record = None
        yield CallBegin(head["name"])
        yield from read_object(reader)
        if (yield from reader.space()) == "}":
            reader.skip()
        return True

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        calls = cls.json_frame(tools, "{%s: ", "}")
        return CallFrame(calls, before="<|tools_prefix|>[", separator=", ", after="]<|tools_suffix|>")
