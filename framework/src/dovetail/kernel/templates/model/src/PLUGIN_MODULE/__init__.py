"""PLUGIN_SUMMARY: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="PLUGIN_NAME",
            summary="PLUGIN_SUMMARY",
            architectures=("PLUGIN_ARCHITECTURE",),
            target="PLUGIN_MODULE.model:PLUGIN_CLASSForCausalLM",
            config="PLUGIN_MODULE.config:PLUGIN_CLASSConfig",
            attention=("sliding",),
        )
    ]
