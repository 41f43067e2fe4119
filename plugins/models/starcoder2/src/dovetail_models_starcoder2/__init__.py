"""StarCoder2: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="starcoder2",
            summary="StarCoder2 3B, 7B and 15B",
            architectures=("Starcoder2ForCausalLM",),
            target="dovetail_models_starcoder2.model:Starcoder2ForCausalLM",
            config="dovetail_models_starcoder2.config:Starcoder2Config",
            attention=("sliding",),
            naming={"gguf": NamingCard(architectures=("starcoder2",), target="dovetail_models_starcoder2.gguf:NAMING")},
        ),
        ModelCard(
            name="starcoder2-embedding",
            summary="the same without a head",
            architectures=("Starcoder2Model",),
            target="dovetail_models_starcoder2.model:Starcoder2Model",
            config="dovetail_models_starcoder2.config:Starcoder2Config",
            tasks=("embed",),
            attention=("sliding",),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name="starcoder2-classifier",
            summary="the same with a head for the labels of a text",
            architectures=("Starcoder2ForSequenceClassification",),
            target="dovetail_models_starcoder2.model:Starcoder2ForSequenceClassification",
            config="dovetail_models_starcoder2.config:Starcoder2Config",
            tasks=("classify",),
            attention=("sliding",),
            layer_kinds=("linear", "embedding"),
        ),
    ]
