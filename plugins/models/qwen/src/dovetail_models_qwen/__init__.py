"""Qwen 2, 2.5 and 3: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [*_cards("2", "Qwen 1.5, 2 and 2.5, and QwQ"), *_cards("3", "Qwen 3")]


def _cards(generation: str, summary: str) -> list[ModelCard]:
    """One generation as a language model, without a head, and with one for labels."""
    model, config = "dovetail_models_qwen.model", f"dovetail_models_qwen.config:Qwen{generation}Config"
    naming = NamingCard(
        architectures=(f"qwen{generation}",), target=f"dovetail_models_qwen.gguf:QWEN{generation}_NAMING"
    )
    return [
        ModelCard(
            name=f"qwen{generation}",
            summary=summary,
            architectures=(f"Qwen{generation}ForCausalLM",),
            target=f"{model}:QwenForCausalLM",
            config=config,
            attention=("sliding",),
            naming={"gguf": naming},
        ),
        ModelCard(
            name=f"qwen{generation}-embedding",
            summary=f"{summary}, without a head",
            architectures=(f"Qwen{generation}Model",),
            target=f"{model}:QwenModel",
            config=config,
            tasks=("embed",),
            attention=("sliding", "bidirectional"),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name=f"qwen{generation}-classifier",
            summary=f"{summary}, with a head for the labels of a text",
            architectures=(f"Qwen{generation}ForSequenceClassification",),
            target=f"{model}:QwenForSequenceClassification",
            config=config,
            tasks=("classify",),
            attention=("sliding", "bidirectional"),
            layer_kinds=("linear", "embedding"),
        ),
    ]
