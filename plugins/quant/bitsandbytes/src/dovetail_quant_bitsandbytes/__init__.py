"""The weights of bitsandbytes: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    return [
        QuantFormatCard(
            name="bitsandbytes",
            summary="NF4, FP4 and LLM.int8() of bitsandbytes",
            target="dovetail_quant_bitsandbytes.format:BitsAndBytesFormat",
            config="dovetail_quant_bitsandbytes.config:BitsAndBytesConfig",
            types={"uint8": ("codebook",), "int8": ("affine",)},
            methods=("bitsandbytes",),
            kinds=("linear", "head", "experts"),
        )
    ]
