"""OLMo 2 and 3: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import AttentionFeature, ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        *_cards("2", "OLMo 2", ()),
        *_cards("3", "OLMo 3, with a sliding window in three of four layers", ("sliding",)),
    ]


def _cards(generation: str, summary: str, attention: tuple[AttentionFeature, ...]) -> list[ModelCard]:
    target = f"dovetail_models_olmo.gguf:OLMO{generation}_NAMING"
    return decoder_cards(
        f"olmo{generation}",
        summary,
        f"Olmo{generation}",
        target="dovetail_models_olmo.model:Olmo",
        config=f"dovetail_models_olmo.config:Olmo{generation}Config",
        attention=attention,
        naming={"gguf": NamingCard(architectures=("olmo2",), target=target)},
    )
