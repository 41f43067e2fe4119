"""PLUGIN_SUMMARY: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import REFERENCE, PlatformCard, hookimpl


@hookimpl
def dovetail_register_platforms() -> list[PlatformCard]:
    return [
        PlatformCard(
            name="PLUGIN_NAME",
            summary="PLUGIN_SUMMARY",
            device="cpu",
            target="PLUGIN_MODULE.platform:PLUGIN_CLASSPlatform",
            probe="PLUGIN_MODULE.probing:objection",
            default_dtype="float32",
            # Raise it once the device is better than what others bring: `auto` takes the highest that is present.
            rank=REFERENCE,
        )
    ]
