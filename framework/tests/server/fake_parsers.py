"""Parsers of a notation that no model has, made from the toolkit."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api import CallFormat, Tool
from dovetail.api.parsing import JsonToolParser, TaggedReasoningParser
from dovetail.kernel.plan_parts import ParserPlan, Part


class Calls(JsonToolParser):
    """``<call>{"name": …, "arguments": {…}}</call>``."""

    start_markers, end_markers = ("<call>",), ("</call>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        begins = (f'<call>{{"name": "{tool["name"]}", "arguments": ' for tool in tools)
        return CallFormat(tuple((begin, "}</call>") for begin in begins), separator="\n")


class LooseCalls(JsonToolParser):
    """The same, of which nothing says how it is written."""

    start_markers, end_markers = ("<call>",), ("</call>",)


class Thoughts(TaggedReasoningParser):
    """``<think>…</think>``."""


def plan(target: str, *special: str, recognises: str = "") -> ParserPlan:
    part = Part(name=target.lower(), distribution="fake", version="1", target=f"fake_parsers:{target}")
    return ParserPlan(part=part, recognises=(recognises,), special_tokens=special)
