"""Prompt lookup: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ProposerCard, hookimpl


@hookimpl
def dovetail_register_proposers() -> list[ProposerCard]:
    return [
        ProposerCard(
            name="ngram",
            summary="guesses that a sequence goes on as it did after the same tokens before",
            target="dovetail_proposers_ngram.lookup:PromptLookup",
            config="dovetail_proposers_ngram.config:LookupConfig",
            # Where a text is copied, nearly all of them are right; elsewhere the engine soon asks for fewer.
            num_tokens=8,
        )
    ]
