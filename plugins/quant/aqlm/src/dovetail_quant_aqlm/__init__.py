"""AQLM's weights: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    return [
        QuantFormatCard(
            name="aqlm",
            summary="AQLM: sums of vectors of codebooks, with a scale by row",
            target="dovetail_quant_aqlm.format:AqlmFormat",
            config="dovetail_quant_aqlm.config:AqlmConfig",
            types={"int8": (), "int16": ()},
            methods=("aqlm",),
            kinds=("linear", "head", "experts"),
        )
    ]
