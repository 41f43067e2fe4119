"""StableLM: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return decoder_cards(
        "stablelm",
        "StableLM 3B, StableLM 2 and Stable Code",
        "StableLm",
        target="dovetail_models_stablelm.model:StableLm",
        config="dovetail_models_stablelm.config:StableLmConfig",
        naming={"gguf": NamingCard(architectures=("stablelm",), target="dovetail_models_stablelm.gguf:NAMING")},
    )
