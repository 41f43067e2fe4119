"""Qwen2.5-VL: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="qwen2.5-vl",
            summary="Qwen2.5-VL: images of any size before a Qwen 2",
            architectures=("Qwen2_5_VLForConditionalGeneration",),
            target="dovetail_models_qwen_vl.model:Qwen2_5VLForConditionalGeneration",
            config="dovetail_models_qwen_vl.config:Qwen2_5VLConfig",
            processor="dovetail_models_qwen_vl.processing:Qwen2VLImageProcessor",
        )
    ]
