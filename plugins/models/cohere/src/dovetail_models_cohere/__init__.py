"""Command R and its relatives: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import AttentionFeature, ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        *_cards("Cohere", "command-r", "Command R, Aya 23 and Aya Expanse", ()),
        *_cards("Cohere2", "cohere2", "Command R7B and A: windows with positions, and layers without", ("sliding",)),
    ]


def _cards(stem: str, gguf: str, summary: str, attention: tuple[AttentionFeature, ...]) -> list[ModelCard]:
    target = f"dovetail_models_cohere.gguf:{stem.upper()}_NAMING"
    return decoder_cards(
        stem.lower(),
        summary,
        stem,
        target="dovetail_models_cohere.model:Cohere",
        config=f"dovetail_models_cohere.config:{stem}Config",
        forms=("ForCausalLM", "Model"),
        attention=attention,
        naming={"gguf": NamingCard(architectures=(gguf,), target=target)},
    )
