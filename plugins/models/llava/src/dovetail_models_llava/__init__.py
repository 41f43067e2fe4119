"""LLaVA: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="llava",
            summary="LLaVA 1.5: images of a CLIP tower before a Llama",
            architectures=("LlavaForConditionalGeneration",),
            target="dovetail_models_llava.model:LlavaForConditionalGeneration",
            config="dovetail_models_llava.config:LlavaConfig",
            processor="dovetail_models_llava.processing:LlavaImageProcessor",
        )
    ]
