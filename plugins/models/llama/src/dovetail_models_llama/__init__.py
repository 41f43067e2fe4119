"""Llama and its relatives: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="llama",
            summary="LLaMA 1 to 3.x, Mistral, Yi, Granite, SmolLM and others of the same block",
            architectures=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "GraniteForCausalLM"),
            target="dovetail_models_llama.model:LlamaForCausalLM",
            config="dovetail_models_llama.config:LlamaConfig",
            attention=("sliding",),
            naming={
                "gguf": NamingCard(
                    architectures=("llama", "mistral", "granite"), target="dovetail_models_llama.gguf:NAMING"
                )
            },
        )
    ]
