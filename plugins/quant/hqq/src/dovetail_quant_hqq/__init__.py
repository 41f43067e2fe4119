"""HQQ's weights: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    return [
        QuantFormatCard(
            name="hqq",
            summary="HQQ: 1 to 8 bits with a scale and a zero-point that is no integer by group",
            target="dovetail_quant_hqq.format:HqqFormat",
            config="dovetail_quant_hqq.config:HqqConfig",
            types={"uint8": ("affine",), "int32": ("affine",)},
            methods=("hqq",),
            kinds=("linear", "head", "experts"),
        )
    ]
