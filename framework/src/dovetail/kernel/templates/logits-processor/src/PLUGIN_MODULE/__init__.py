"""PLUGIN_SUMMARY: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import LogitsProcessorCard, hookimpl


@hookimpl
def dovetail_register_logits_processors() -> list[LogitsProcessorCard]:
    return [
        LogitsProcessorCard(
            name="PLUGIN_NAME",
            summary="PLUGIN_SUMMARY",
            target="PLUGIN_MODULE.processor:PLUGIN_CLASSProcessor",
            config="PLUGIN_MODULE.config:PLUGIN_CLASSArguments",
        )
    ]
