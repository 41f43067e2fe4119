"""AWQ's weights: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    return [
        QuantFormatCard(
            name="awq",
            summary="AWQ: 4 bits with a scale and a zero-point by group, packed for GEMM or for GEMV",
            target="dovetail_quant_awq.format:AwqFormat",
            config="dovetail_quant_awq.config:AwqConfig",
            types={"int32": ("affine",)},
            methods=("awq",),
            config_files=("quant_config.json",),
            kinds=("linear", "head", "experts"),
        )
    ]
