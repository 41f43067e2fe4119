"""Command R and its relatives: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import AttentionFeature, ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        *_cards("Cohere", "command-r", "Command R, Aya 23 and Aya Expanse", ()),
        *_cards("Cohere2", "cohere2", "Command R7B and A: windows with positions, and layers without", ("sliding",)),
    ]


def _cards(name: str, gguf: str, summary: str, attention: tuple[AttentionFeature, ...]) -> list[ModelCard]:
    """One generation, with a head and without."""
    package, config = "dovetail_models_cohere", f"dovetail_models_cohere.config:{name}Config"
    naming = NamingCard(architectures=(gguf,), target=f"{package}.gguf:{name.upper()}_NAMING")
    return [
        ModelCard(
            name=name.lower(),
            summary=summary,
            architectures=(f"{name}ForCausalLM",),
            target=f"{package}.model:CohereForCausalLM",
            config=config,
            attention=attention,
            naming={"gguf": naming},
        ),
        ModelCard(
            name=f"{name.lower()}-embedding",
            summary=f"{summary}; without a head",
            architectures=(f"{name}Model",),
            target=f"{package}.model:CohereModel",
            config=config,
            tasks=("embed",),
            attention=attention,
            layer_kinds=("linear", "embedding"),
        ),
    ]
