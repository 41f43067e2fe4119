"""GPTQ's weights: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    return [
        QuantFormatCard(
            name="gptq",
            summary="GPTQ: 2, 3, 4 or 8 bits with a scale and a zero-point by group, also in act-order",
            target="dovetail_quant_gptq.format:GptqFormat",
            config="dovetail_quant_gptq.config:GptqConfig",
            types={"int32": ("affine",)},
            methods=("gptq",),
            config_files=("quantize_config.json",),
            kinds=("linear", "head", "experts"),
        )
    ]
