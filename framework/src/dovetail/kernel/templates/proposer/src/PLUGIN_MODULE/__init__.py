"""PLUGIN_SUMMARY: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ProposerCard, hookimpl


@hookimpl
def dovetail_register_proposers() -> list[ProposerCard]:
    return [
        ProposerCard(
            name="PLUGIN_NAME",
            summary="PLUGIN_SUMMARY",
            target="PLUGIN_MODULE.proposer:PLUGIN_CLASSProposer",
            config="PLUGIN_MODULE.config:PLUGIN_CLASSConfig",
        )
    ]
