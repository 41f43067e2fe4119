"""Qwen 2, 2.5 and 3: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [*_cards("2", "Qwen 1.5, 2 and 2.5, and QwQ"), *_cards("3", "Qwen 3")]


def _cards(generation: str, summary: str) -> list[ModelCard]:
    target = f"dovetail_models_qwen.gguf:QWEN{generation}_NAMING"
    return decoder_cards(
        f"qwen{generation}",
        summary,
        f"Qwen{generation}",
        target="dovetail_models_qwen.model:Qwen",
        config=f"dovetail_models_qwen.config:Qwen{generation}Config",
        attention=("sliding",),
        headless={"attention": ("sliding", "bidirectional")},
        naming={"gguf": NamingCard(architectures=(f"qwen{generation}",), target=target)},
    )
