"""The weights of Model Optimizer: 8-bit floats with a scale by matrix, row, block or group, and 4-bit ones with two levels.

Letters: N rows, K columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dovetail.api import LazyTensor
from dovetail.nn import (
    Components,
    MicroscaledWeight,
    QuantFormat,
    ScaledWeight,
    WeightName,
    read_microscales,
    read_scales,
    read_tensor,
)
from dovetail_quant_modelopt.config import ModelOptConfig

WEIGHT, SCALE, OUTER_SCALE, INPUT_SCALE = ".weight", ".weight_scale", ".weight_scale_2", ".input_scale"
BLOCK = (128, 128)
"""Rows and columns that share a scale in ``FP8_PB_WO``."""
FP8_GROUP, FP4_GROUP = 32, 16


class Fp8Format(QuantFormat):
    """Reads FP8 and MXFP8."""

    config: ModelOptConfig

    def components(self, weight: WeightName) -> Components:
        return Components((WEIGHT, SCALE), (INPUT_SCALE,))

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> ScaledWeight:
        n, k = tensors[WEIGHT].shape
        stored = tensors[SCALE]
        if stored.type == "uint8":
            block = (1, FP8_GROUP)
            scales = read_microscales(stored, (n, -(-k // FP8_GROUP))).float()
        else:
            blocks = "FP8_PB_WO" in self.config.algorithms and sum(size > 1 for size in stored.shape) > 1
            scales, block = read_scales(stored, (n, k), BLOCK if blocks else None)
        return ScaledWeight(
            shape=(n, k),
            type="float8_e4m3fn",
            values=read_tensor(tensors[WEIGHT]).to(device),
            scales=scales.to(device),
            block=block,
            input_scale=_read_input_scale(tensors, device),
        )


class Nvfp4Format(QuantFormat):
    """Reads NVFP4: two codes in a byte, an FP8 scale for 16 columns, and one more for the matrix."""

    config: ModelOptConfig

    def components(self, weight: WeightName) -> Components:
        return Components((WEIGHT, SCALE, OUTER_SCALE), (INPUT_SCALE,))

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        *rows, columns = tensors[WEIGHT].shape
        return *rows, 2 * columns

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> MicroscaledWeight:
        n, k = self.shape(weight, tensors)
        wanted = (n, k // FP4_GROUP)
        scales = read_tensor(tensors[SCALE], wanted, dtypes=(torch.float8_e4m3fn,), finite=True)
        return MicroscaledWeight(
            shape=(n, k),
            type="uint8",
            codes=read_tensor(tensors[WEIGHT]).to(device),
            scales=scales.to(device),
            group=FP4_GROUP,
            scale=read_tensor(tensors[OUTER_SCALE], (1,), finite=True).float().to(device),
            input_scale=_read_input_scale(tensors, device),
        )


def _read_input_scale(tensors: Mapping[str, LazyTensor], device: torch.device) -> Tensor | None:
    given = tensors.get(INPUT_SCALE)
    return None if given is None else read_tensor(given, (1,), finite=True).float().to(device)
