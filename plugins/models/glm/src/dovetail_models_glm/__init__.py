"""GLM-4 and GLM-4.5: registration only, nothing heavy."""

from __future__ import annotations

from typing import Any

from dovetail.api import LayerKind, ModelCard, NamingCard, hookimpl

EXPERTS: tuple[LayerKind, ...] = ("linear", "head", "embedding", "experts")
HEADLESS: tuple[LayerKind, ...] = ("linear", "embedding")


def make_card(name: str, summary: str, architecture: str, **fields: Any) -> ModelCard:
    """A card whose architecture is named as the model's class."""
    fields.setdefault("config", "dovetail_models_glm.config:GlmConfig")
    target = f"dovetail_models_glm.model:{architecture}"
    return ModelCard(name=name, summary=summary, architectures=(architecture,), target=target, **fields)


def make_naming(architecture: str) -> dict[str, NamingCard]:
    target = f"dovetail_models_glm.gguf:{architecture.upper()}"
    return {"gguf": NamingCard(architectures=(architecture,), target=target)}


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    moe = "dovetail_models_glm.config:GlmMoeConfig"
    embed: dict[str, Any] = {"tasks": ("embed",), "layer_kinds": HEADLESS}
    classify: dict[str, Any] = {"tasks": ("classify",), "layer_kinds": HEADLESS}
    return [
        make_card("glm", "GLM-4 of 2024 and GLM-Edge", "GlmForCausalLM"),
        make_card("glm-embedding", "the same without a head", "GlmModel", **embed),
        make_card("glm-classifier", "the same with a head for labels", "GlmForSequenceClassification", **classify),
        make_card("glm4", "GLM-4-0414 and GLM-Z1", "Glm4ForCausalLM", naming=make_naming("glm4")),
        make_card("glm4-embedding", "the same without a head", "Glm4Model", **embed),
        make_card("glm4-classifier", "the same with a head for labels", "Glm4ForSequenceClassification", **classify),
        make_card(
            "glm4-moe",
            "GLM-4.5, 4.6 and 4.7: experts",
            "Glm4MoeForCausalLM",
            config=moe,
            layer_kinds=EXPERTS,
            naming=make_naming("glm4moe"),
        ),
        make_card(
            "glm4-moe-embedding",
            "the same without a head",
            "Glm4MoeModel",
            config=moe,
            tasks=("embed",),
            layer_kinds=(*HEADLESS, "experts"),
        ),
    ]
