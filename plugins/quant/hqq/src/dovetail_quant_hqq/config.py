"""The ``quantization_config`` of HQQ, as transformers writes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, model_validator

SHARED = "weight_quant_params"
"""Is in ``quant_config`` where that is for all layers; otherwise it has one for each name of layers."""


class LayerConfig(BaseModel):
    """What holds for some layers, as far as it decides whether they can be read. Bits, groups and the axis are in the
    file, beside each weight.
    """

    weight_quant_params: dict[str, Any]
    scale_quant_params: None = None
    """Scales that are quantized too are not saved by HQQ in this form."""
    zero_quant_params: None = None


class HqqConfig(BaseModel):
    """Keys of ``quantization_config``. Which layers are left out (``skip_modules``) is seen by their tensors."""

    quant_config: dict[str, LayerConfig] = {}

    @model_validator(mode="before")
    @classmethod
    def _name_layers(cls, data: Any) -> Any:
        found = data.get("quant_config") if isinstance(data, dict) else None
        return {**data, "quant_config": {"": found}} if isinstance(found, dict) and SHARED in found else data
