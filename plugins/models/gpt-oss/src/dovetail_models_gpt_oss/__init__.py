"""gpt-oss: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="gpt-oss",
            summary="gpt-oss: experts, attention sinks, and a sliding window in every second layer",
            architectures=("GptOssForCausalLM",),
            target="dovetail_models_gpt_oss.model:GptOssForCausalLM",
            config="dovetail_models_gpt_oss.config:GptOssConfig",
            attention=("sliding", "sinks"),
            layer_kinds=("linear", "head", "embedding", "experts"),
            naming={"gguf": NamingCard(architectures=("gpt-oss",), target="dovetail_models_gpt_oss.gguf:NAMING")},
        ),
        ModelCard(
            name="gpt-oss-embedding",
            summary="gpt-oss without a head",
            architectures=("GptOssModel",),
            target="dovetail_models_gpt_oss.model:GptOssModel",
            config="dovetail_models_gpt_oss.config:GptOssConfig",
            tasks=("embed",),
            attention=("sliding", "sinks"),
            layer_kinds=("linear", "embedding", "experts"),
        ),
        ModelCard(
            name="gpt-oss-classifier",
            summary="gpt-oss with a head for the labels of a text",
            architectures=("GptOssForSequenceClassification",),
            target="dovetail_models_gpt_oss.model:GptOssForSequenceClassification",
            config="dovetail_models_gpt_oss.config:GptOssConfig",
            tasks=("classify",),
            attention=("sliding", "sinks"),
            layer_kinds=("linear", "embedding", "experts"),
        ),
    ]
