"""Llama and its relatives: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, decoder_cards, hookimpl


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
                ),
                "mistral": NamingCard(architectures=("mistral",), target="dovetail_models_llama.mistral:NAMING"),
            },
        ),
        ModelCard(
            name="llama-embedding",
            summary="the same without a head, such as e5-mistral",
            architectures=("LlamaModel", "MistralModel"),
            target="dovetail_models_llama.model:LlamaModel",
            config="dovetail_models_llama.config:LlamaConfig",
            tasks=("embed",),
            attention=("sliding",),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name="llama-classifier",
            summary="the same with a head for the labels of a text",
            architectures=("LlamaForSequenceClassification", "MistralForSequenceClassification"),
            target="dovetail_models_llama.model:LlamaForSequenceClassification",
            config="dovetail_models_llama.config:LlamaConfig",
            tasks=("classify",),
            attention=("sliding",),
            layer_kinds=("linear", "embedding"),
        ),
        *decoder_cards(
            "smollm3",
            "SmolLM 3: layers without rotary embeddings between those with them",
            "SmolLM3",
            target="dovetail_models_llama.model:Llama",
            config="dovetail_models_llama.config:SmolLM3Config",
            attention=("sliding",),
            naming={"gguf": NamingCard(architectures=("smollm3",), target="dovetail_models_llama.gguf:NAMING")},
        ),
    ]
