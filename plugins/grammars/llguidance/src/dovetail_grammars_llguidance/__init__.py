"""Structured output with llguidance."""

from __future__ import annotations

from dovetail.api import TUNED, GrammarCard, hookimpl


@hookimpl
def dovetail_register_grammars() -> list[GrammarCard]:
    return [
        GrammarCard(
            name="llguidance",
            summary="JSON schemas, regular expressions, choices, Lark and GBNF grammars, structural tags",
            target="dovetail_grammars_llguidance.backend:Backend",
            validate_source="dovetail_grammars_llguidance.validation:validate_source",
            kinds=("json", "json_object", "regex", "choice", "grammar", "structural_tag"),
            rank=TUNED,
        )
    ]
