"""Parsers of tool calls: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import REFERENCE, ToolParserCard, hookimpl

EVERY = ("",)
"""Is found in every template."""


@hookimpl
def dovetail_register_parsers() -> list[ToolParserCard]:
    return [
        ToolParserCard(
            name="hermes",
            summary="<tool_call>{…}</tool_call>: Hermes, Qwen 2.5 and 3",
            target="dovetail_parsers_tools.hermes:Hermes",
            recognises=(r"<tool_call>\\n\{",),
            special_tokens=("<tool_call>", "</tool_call>"),
        ),
        ToolParserCard(
            name="json",
            summary="bare JSON objects that name a tool, for models without a notation of their own",
            target="dovetail_parsers_tools.bare:BareJson",
            recognises=EVERY,
            rank=REFERENCE,
        ),
    ]
