"""The ``quantization_config`` of Model Optimizer, or its ``hf_quant_config.json``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, model_validator

Algorithm = Literal[
    "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "FP8_PB_WO",
    "MXFP8",
    "NVFP4",
    "W4A16_NVFP4",
    "W4A8_NVFP4_FP8",
]
"""Others, such as those of AWQ, have scales of activations that would have to be multiplied (``pre_quant_scale``)."""


class Layer(BaseModel):
    quant_algo: Algorithm


class ModelOptConfig(BaseModel):
    """Keys that decide how tensors are read. Which layers are left out (``ignore``, ``exclude_modules``), and which of
    several algorithms a layer has, is seen by their tensors.
    """

    quant_algo: Algorithm | Literal["MIXED_PRECISION"]
    quantized_layers: dict[str, Layer] = {}
    """Of ``MIXED_PRECISION``: name → algorithm."""

    @model_validator(mode="before")
    @classmethod
    def _read_file(cls, data: Any) -> Any:
        """The file has everything one level down, and so have older configurations."""
        inner = data.get("quantization") if isinstance(data, dict) else None
        return {**data, **inner} if isinstance(inner, dict) else data

    @property
    def algorithms(self) -> set[str]:
        return {self.quant_algo, *(layer.quant_algo for layer in self.quantized_layers.values())}
