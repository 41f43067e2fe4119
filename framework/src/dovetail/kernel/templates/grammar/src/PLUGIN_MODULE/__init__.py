"""PLUGIN_SUMMARY: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import REFERENCE, GrammarCard, hookimpl


@hookimpl
def dovetail_register_grammars() -> list[GrammarCard]:
    return [
        GrammarCard(
            name="PLUGIN_NAME",
            summary="PLUGIN_SUMMARY",
            target="PLUGIN_MODULE.backend:PLUGIN_CLASSBackend",
            validate_source="PLUGIN_MODULE.validation:validate_source",
            kinds=("choice",),
            # Raise it once the backend does all that others do: `auto` takes the highest that is installed.
            rank=REFERENCE,
        )
    ]
