"""Gemma 1 to 3: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="gemma",
            summary="Gemma 1 and CodeGemma",
            architectures=("GemmaForCausalLM",),
            target="dovetail_models_gemma.model:GemmaForCausalLM",
            config="dovetail_models_gemma.config:GemmaConfig",
        ),
        ModelCard(
            name="gemma2",
            summary="Gemma 2: soft-capped scores and logits, and a sliding window in every second layer",
            architectures=("Gemma2ForCausalLM",),
            target="dovetail_models_gemma.model:GemmaForCausalLM",
            config="dovetail_models_gemma.config:Gemma2Config",
            attention=("sliding", "softcap"),
            naming={"gguf": NamingCard(architectures=("gemma2",), target="dovetail_models_gemma.gguf:NAMING")},
        ),
        ModelCard(
            name="gemma3",
            summary="Gemma 3 for text: norms of queries and keys, and a sliding window in five of six layers",
            architectures=("Gemma3ForCausalLM",),
            target="dovetail_models_gemma.model:GemmaForCausalLM",
            config="dovetail_models_gemma.config:Gemma3Config",
            attention=("sliding",),
            naming={"gguf": NamingCard(architectures=("gemma3",), target="dovetail_models_gemma.gguf:NAMING_3")},
        ),
        ModelCard(
            name="gemma3-text-of-multimodal",
            summary="the language model of Gemma 3 checkpoints that also see images",
            architectures=("Gemma3ForConditionalGeneration",),
            target="dovetail_models_gemma.model:Gemma3ForConditionalGeneration",
            config="dovetail_models_gemma.config:Gemma3Config",
            attention=("sliding",),
        ),
        ModelCard(
            name="gemma3-classifier",
            summary="Gemma 3 with a head for the labels of a text",
            architectures=("Gemma3TextForSequenceClassification",),
            target="dovetail_models_gemma.model:GemmaForSequenceClassification",
            config="dovetail_models_gemma.config:Gemma3Config",
            tasks=("score", "classify"),
            attention=("sliding",),
        ),
    ]
