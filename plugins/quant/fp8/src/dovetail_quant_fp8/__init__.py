"""Weights in 8-bit floats: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    blocks = QuantFormatCard(
        name="fp8-blocks",
        summary="8-bit floats with scales by block, or one in all, called weight_scale_inv",
        target="dovetail_quant_fp8.format:Fp8BlockFormat",
        config="dovetail_quant_fp8.config:Fp8Config",
        types={"float8_e4m3fn": ("scaled_float",), "float8_e5m2": ("scaled_float",)},
        methods=("fp8",),
        kinds=("linear", "head", "experts"),
    )
    rows = {
        "name": "fp8",
        "summary": "8-bit floats with a scale by matrix or row",
        "target": "dovetail_quant_fp8.format:Fp8Format",
        "methods": ("fp8", "fbgemm_fp8"),
        "rank": blocks.rank - 1,
    }
    return [blocks, blocks.model_copy(update=rows)]
