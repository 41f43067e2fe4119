"""PLUGIN_SUMMARY: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ReasoningParserCard, hookimpl


@hookimpl
def dovetail_register_parsers() -> list[ReasoningParserCard]:
    return [
        ReasoningParserCard(
            name="PLUGIN_NAME",
            summary="PLUGIN_SUMMARY",
            target="PLUGIN_MODULE.parser:PLUGIN_CLASSParser",
            # What the chat template of a model that thinks so has in it: `auto` goes by that.
            recognises=("</PLUGIN_NAME>",),
            special_tokens=("<PLUGIN_NAME>", "</PLUGIN_NAME>"),
        )
    ]
