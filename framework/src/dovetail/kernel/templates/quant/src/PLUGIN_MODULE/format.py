"""Weights in 8 bits with one scale a row: ``w[n, k] = weight_scale[n] * weight[n, k]``.

Letters: N rows, K columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from dovetail.api import LazyTensor
from dovetail.nn import AffineWeight, Axis, Components, Field, QuantFormat, StoredWeight, WeightName, read_tensor
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PLUGIN_CLASSWeight(StoredWeight):
    """A matrix in memory, as it is on disk.

    Attributes:
        codes: int8 ``[N, K]``.
        scales: float32 ``[N]``.
    """

    codes: Tensor
    scales: Tensor

    def fields(self) -> dict[str, Field]:
        return {"codes": Field(self.codes, rows=Axis(0), columns=Axis(1)), "scales": Field(self.scales, rows=Axis(0))}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return (self.codes * self.scales[:, None]).to(dtype)

    def pack(self, packing: str) -> AffineWeight | None:
        if packing != "affine":
            return None
        return AffineWeight(self.codes, self.scales[:, None], mins=None, bits=8, group=self.shape[1])


class PLUGIN_CLASSFormat(QuantFormat):
    """Reads a weight from its two tensors."""

    def components(self, weight: WeightName) -> Components:
        return Components((".weight", ".weight_scale"))

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> PLUGIN_CLASSWeight:
        n, k = tensors[".weight"].shape
        codes = read_tensor(tensors[".weight"]).to(device)
        scales = read_tensor(tensors[".weight_scale"], (n,), finite=True).float().to(device)
        return PLUGIN_CLASSWeight((n, k), "int8", codes, scales)
