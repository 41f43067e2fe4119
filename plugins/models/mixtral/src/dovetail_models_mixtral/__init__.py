"""Mixtral: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="mixtral",
            summary="Mixtral 8x7B, 8x22B and others of the same block",
            architectures=("MixtralForCausalLM",),
            target="dovetail_models_mixtral.model:MixtralForCausalLM",
            config="dovetail_models_mixtral.config:MixtralConfig",
            attention=("sliding",),
            layer_kinds=("linear", "head", "embedding", "experts"),
            naming={
                "gguf": NamingCard(architectures=("llama",), target="dovetail_models_mixtral.gguf:NAMING"),
                "mistral": NamingCard(architectures=("mixtral",), target="dovetail_models_mixtral.mistral:NAMING"),
            },
        )
    ]
