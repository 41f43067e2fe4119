"""Weights that are stored in Marlin's order: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    return [
        QuantFormatCard(
            name="marlin",
            summary="4 bits in the order of the Marlin kernel, with a scale by group or row",
            target="dovetail_quant_marlin.format:MarlinFormat",
            config="dovetail_quant_marlin.config:MarlinConfig",
            types={"int32": ("affine",)},
            methods=("marlin", "gptq", "awq"),
            kinds=("linear", "head", "experts"),
        )
    ]
