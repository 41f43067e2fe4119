"""OLMo 2 and 3: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import AttentionFeature, ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        *_cards("2", "OLMo 2", ()),
        *_cards("3", "OLMo 3, with a sliding window in three of four layers", ("sliding",)),
    ]


def _cards(generation: str, summary: str, attention: tuple[AttentionFeature, ...]) -> list[ModelCard]:
    """One generation as a language model, without a head, and with one for labels."""
    model, config = "dovetail_models_olmo.model", f"dovetail_models_olmo.config:Olmo{generation}Config"
    naming = NamingCard(architectures=("olmo2",), target=f"dovetail_models_olmo.gguf:OLMO{generation}_NAMING")
    return [
        ModelCard(
            name=f"olmo{generation}",
            summary=summary,
            architectures=(f"Olmo{generation}ForCausalLM",),
            target=f"{model}:OlmoForCausalLM",
            config=config,
            attention=attention,
            naming={"gguf": naming},
        ),
        ModelCard(
            name=f"olmo{generation}-embedding",
            summary=f"{summary}, without a head",
            architectures=(f"Olmo{generation}Model",),
            target=f"{model}:OlmoModel",
            config=config,
            tasks=("embed",),
            attention=attention,
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name=f"olmo{generation}-classifier",
            summary=f"{summary}, with a head for the labels of a text",
            architectures=(f"Olmo{generation}ForSequenceClassification",),
            target=f"{model}:OlmoForSequenceClassification",
            config=config,
            tasks=("classify",),
            attention=attention,
            layer_kinds=("linear", "embedding"),
        ),
    ]
