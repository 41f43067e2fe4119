"""Falcon: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return decoder_cards(
        "falcon",
        "Falcon 7B, 40B and 180B, Falcon 2, Falcon-RW",
        "Falcon",
        target="dovetail_models_falcon.model:Falcon",
        config="dovetail_models_falcon.config:FalconConfig",
        attention=("alibi",),
        naming={"gguf": NamingCard(architectures=("falcon",), target="dovetail_models_falcon.gguf:NAMING")},
    )
