"""The weights of gpt-oss: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    return [
        QuantFormatCard(
            name="mxfp4",
            summary="4-bit floats with a power of two for 32 columns, as gpt-oss has its experts",
            target="dovetail_quant_mxfp4.format:Mxfp4Format",
            types={"uint8": ("float4",)},
            methods=("mxfp4",),
            kinds=("linear", "experts"),
        )
    ]
