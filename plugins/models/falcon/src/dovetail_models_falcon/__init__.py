"""Falcon: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="falcon",
            summary="Falcon 7B, 40B and 180B, Falcon 2",
            architectures=("FalconForCausalLM",),
            target="dovetail_models_falcon.model:FalconForCausalLM",
            config="dovetail_models_falcon.config:FalconConfig",
            naming={"gguf": NamingCard(architectures=("falcon",), target="dovetail_models_falcon.gguf:NAMING")},
        ),
        ModelCard(
            name="falcon-embedding",
            summary="the same without a head",
            architectures=("FalconModel",),
            target="dovetail_models_falcon.model:FalconModel",
            config="dovetail_models_falcon.config:FalconConfig",
            tasks=("embed",),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name="falcon-classifier",
            summary="the same with a head for the labels of a text",
            architectures=("FalconForSequenceClassification",),
            target="dovetail_models_falcon.model:FalconForSequenceClassification",
            config="dovetail_models_falcon.config:FalconConfig",
            tasks=("classify",),
            layer_kinds=("linear", "embedding"),
        ),
    ]
