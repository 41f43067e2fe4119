"""PLUGIN_SUMMARY: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import LoaderCard, hookimpl


@hookimpl
def dovetail_register_loaders() -> list[LoaderCard]:
    return [
        LoaderCard(
            name="PLUGIN_NAME",
            summary="PLUGIN_SUMMARY",
            recognises=("*.npz",),
            inspect="PLUGIN_MODULE.inspection:inspect",
            target="PLUGIN_MODULE.loading:load",
        )
    ]
