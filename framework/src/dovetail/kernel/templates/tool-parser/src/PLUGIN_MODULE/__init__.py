"""PLUGIN_SUMMARY: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ToolParserCard, hookimpl


@hookimpl
def dovetail_register_parsers() -> list[ToolParserCard]:
    return [
        ToolParserCard(
            name="PLUGIN_NAME",
            summary="PLUGIN_SUMMARY",
            target="PLUGIN_MODULE.parser:PLUGIN_CLASSParser",
            # What a chat template that teaches this notation has in it: `auto` goes by that.
            recognises=("<PLUGIN_NAME>",),
            special_tokens=("<PLUGIN_NAME>", "</PLUGIN_NAME>"),
        )
    ]
