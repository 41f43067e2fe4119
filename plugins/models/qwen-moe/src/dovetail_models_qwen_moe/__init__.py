"""Qwen 2 and 3 with experts: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [*_cards("2", "Qwen 1.5 and 2 with experts"), *_cards("3", "Qwen 3 with experts")]


def _cards(generation: str, summary: str) -> list[ModelCard]:
    """One generation as a language model, without a head, and with one for labels."""
    model, config = "dovetail_models_qwen_moe.model", f"dovetail_models_qwen_moe.config:Qwen{generation}MoeConfig"
    naming = NamingCard(
        architectures=(f"qwen{generation}moe",), target=f"dovetail_models_qwen_moe.gguf:QWEN{generation}_NAMING"
    )
    return [
        ModelCard(
            name=f"qwen{generation}-moe",
            summary=summary,
            architectures=(f"Qwen{generation}MoeForCausalLM",),
            target=f"{model}:QwenMoeForCausalLM",
            config=config,
            attention=("sliding",),
            layer_kinds=("linear", "head", "embedding", "experts"),
            naming={"gguf": naming},
        ),
        ModelCard(
            name=f"qwen{generation}-moe-embedding",
            summary=f"{summary}, without a head",
            architectures=(f"Qwen{generation}MoeModel",),
            target=f"{model}:QwenMoeModel",
            config=config,
            tasks=("embed",),
            attention=("sliding",),
            layer_kinds=("linear", "embedding", "experts"),
        ),
        ModelCard(
            name=f"qwen{generation}-moe-classifier",
            summary=f"{summary}, with a head for the labels of a text",
            architectures=(f"Qwen{generation}MoeForSequenceClassification",),
            target=f"{model}:QwenMoeForSequenceClassification",
            config=config,
            tasks=("classify",),
            attention=("sliding",),
            layer_kinds=("linear", "embedding", "experts"),
        ),
    ]
