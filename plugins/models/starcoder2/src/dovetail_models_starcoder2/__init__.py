"""StarCoder2: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return decoder_cards(
        "starcoder2",
        "StarCoder2 3B, 7B and 15B",
        "Starcoder2",
        target="dovetail_models_starcoder2.model:Starcoder2",
        config="dovetail_models_starcoder2.config:Starcoder2Config",
        attention=("sliding",),
        naming={"gguf": NamingCard(architectures=("starcoder2",), target="dovetail_models_starcoder2.gguf:NAMING")},
    )
