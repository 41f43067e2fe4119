"""The checkpoints of compressed-tensors: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    return [
        QuantFormatCard(
            name="compressed-tensors",
            summary="what LLM Compressor writes: packed integers, INT8, FP8, MXFP8, NVFP4 and MXFP4, by groups of layers",
            target="dovetail_quant_compressed_tensors.format:CompressedTensorsFormat",
            config="dovetail_quant_compressed_tensors.config:CompressedTensorsConfig",
            types={
                "int32": ("affine",),
                "int8": ("affine",),
                "float8_e4m3fn": ("scaled_float",),
                "uint8": ("float4",),
            },
            methods=("compressed-tensors",),
        )
    ]
