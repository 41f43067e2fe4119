"""Gemma 1 and 2: registration only, nothing heavy."""

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
    ]
