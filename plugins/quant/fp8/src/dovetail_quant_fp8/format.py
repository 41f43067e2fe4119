"""Weights in 8-bit floats (Micikevicius et al., 2022) with a scale: by block (DeepSeek-AI, 2024), by row, or one in all.

Letters: N rows, K columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from dovetail.api import LazyTensor
from dovetail.nn import Components, QuantFormat, ScaledWeight, WeightName, read_scales, read_tensor
from dovetail_quant_fp8.config import Fp8Config

OF_ACTIVATIONS = (".input_scale", ".activation_scale")
BOUND = ".input_scale_ub"
"""An upper bound of activations that FBGEMM clips to when it quantizes them. Activations are not quantized here."""


class Fp8Format(QuantFormat):
    """Reads the weights of AutoFP8 and FBGEMM."""

    config: Fp8Config
    scale: ClassVar[str] = ".weight_scale"

    def components(self, weight: WeightName) -> Components:
        return Components((".weight", self.scale), (*OF_ACTIVATIONS, BOUND))

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> ScaledWeight:
        values = tensors[".weight"]
        n, k = values.shape
        scales, block = read_scales(tensors[self.scale], (n, k), self.config.weight_block_size)
        if BOUND in tensors:
            read_tensor(tensors[BOUND], (1,), finite=True)
        activations = next((tensors[name] for name in OF_ACTIVATIONS if name in tensors), None)
        return ScaledWeight(
            shape=(n, k),
            type=values.type,
            values=read_tensor(values).to(device),
            scales=scales.to(device),
            block=block,
            input_scale=None if activations is None else read_tensor(activations, (1,), finite=True).float().to(device),
        )


class Fp8BlockFormat(Fp8Format):
    """Reads those of DeepSeek, Qwen and transformers, whose scale has the name of the one that they quantized with."""

    scale = ".weight_scale_inv"
