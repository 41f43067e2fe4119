"""Parsers of a notation that no model has, made from the toolkit."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFrame, Tool
from dovetail.api.parsing import JsonCalls, TaggedReasoning
from dovetail.kernel.plan import ParserPlan, Part


class Calls(JsonCalls):
    """``<call>{"name": …, "arguments": {…}}</call>``."""

    starts, ends = ("<call>",), ("</call>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        begins = (f'<call>{{"name": "{tool["name"]}", "arguments": ' for tool in tools)
        return CallFrame(tuple((begin, "}</call>") for begin in begins), separator="\n")


class LooseCalls(JsonCalls):
    """The same, of which nothing says how it is written."""

    starts, ends = ("<call>",), ("</call>",)


class Thoughts(TaggedReasoning):
    """``<think>…</think>``."""


def plan(target: str, *special: str, recognises: str = "") -> ParserPlan:
    part = Part(name=target.lower(), distribution="fake", version="1", target=f"fake_parsers:{target}")
    return ParserPlan(part=part, recognises=(recognises,), special_tokens=special)
