"""A marker, and a JSON list of calls: Granite, Phi, InternLM, Command, and others."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFrame, Tool
from dovetail.api.parsing import JsonCalls


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
