"""The checkpoints of Model Optimizer: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import QuantFormatCard, hookimpl


@hookimpl
def dovetail_register_quantization() -> list[QuantFormatCard]:
    fp8 = QuantFormatCard(
        name="modelopt",
        summary="FP8 and MXFP8 of Model Optimizer",
        target="dovetail_quant_modelopt.format:Fp8Format",
        config="dovetail_quant_modelopt.config:ModelOptConfig",
        types={"float8_e4m3fn": ("scaled_float",)},
        methods=("modelopt",),
        config_files=("hf_quant_config.json",),
        kinds=("linear", "head", "experts"),
    )
    fp4 = {
        "name": "modelopt-fp4",
        "summary": "NVFP4 of Model Optimizer",
        "target": "dovetail_quant_modelopt.format:Nvfp4Format",
        "types": {"uint8": ("float4",)},
    }
    return [fp8, fp8.model_copy(update=fp4)]
