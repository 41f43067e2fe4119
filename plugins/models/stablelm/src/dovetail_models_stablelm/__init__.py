"""StableLM: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="stablelm",
            summary="StableLM 3B, StableLM 2 and Stable Code",
            architectures=("StableLmForCausalLM",),
            target="dovetail_models_stablelm.model:StableLmForCausalLM",
            config="dovetail_models_stablelm.config:StableLmConfig",
            naming={"gguf": NamingCard(architectures=("stablelm",), target="dovetail_models_stablelm.gguf:NAMING")},
        ),
        ModelCard(
            name="stablelm-embedding",
            summary="the same without a head",
            architectures=("StableLmModel",),
            target="dovetail_models_stablelm.model:StableLmModel",
            config="dovetail_models_stablelm.config:StableLmConfig",
            tasks=("embed",),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name="stablelm-classifier",
            summary="the same with a head for the labels of a text",
            architectures=("StableLmForSequenceClassification",),
            target="dovetail_models_stablelm.model:StableLmForSequenceClassification",
            config="dovetail_models_stablelm.config:StableLmConfig",
            tasks=("classify",),
            layer_kinds=("linear", "embedding"),
        ),
    ]
