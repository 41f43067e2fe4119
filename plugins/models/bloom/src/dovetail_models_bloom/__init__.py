"""Bloom: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return decoder_cards(
        "bloom",
        "Bloom and BloomZ",
        "Bloom",
        target="dovetail_models_bloom.model:Bloom",
        config="dovetail_models_bloom.config:BloomConfig",
        attention=("alibi",),
        naming={"gguf": NamingCard(architectures=("bloom",), target="dovetail_models_bloom.gguf:NAMING")},
    )
