"""8-bit floats as checkpoints store them: with one scale, one a row, or one for each block of 128 x 128.

Letters: N rows, K columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from kit_quant_configs import Fp8Config
from torch import Tensor

from dovetail.api import LazyTensor
from dovetail.nn import Axis, Components, Field, QuantFormat, ScaledFloatWeight, StoredWeight, WeightName, read_tensor


@dataclass(frozen=True, eq=False)
class Fp8Weight(StoredWeight):
    """
    Attributes:
        values: ``[N, K]``.
        scales: float32, ``[1, 1]``, ``[N, 1]``, or one for each block.
        block: rows and columns that share a scale; 0 for all of them.
    """

    values: Tensor
    scales: Tensor
    block: tuple[int, int]

    def fields(self) -> dict[str, Field]:
        rows, columns = (Axis(dim, unit) if unit else None for dim, unit in enumerate(self.block))
        return {"values": Field(self.values, Axis(0), Axis(1)), "scales": Field(self.scales, rows, columns)}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        scales = self.scales
        for dim, unit in enumerate(self.block):
            if unit > 1:
                scales = scales.repeat_interleave(unit, dim).narrow(dim, 0, self.shape[dim])
        return (self.values.float() * scales).to(dtype)

    def pack(self, packing: str) -> ScaledFloatWeight | None:
        if packing != "scaled_float":
            return None
        block = (self.block[0] or self.shape[0], self.block[1] or self.shape[1])
        return ScaledFloatWeight(self.values, self.scales, block, self.input_scale)


class Fp8Format(QuantFormat):
    config: Fp8Config

    def components(self, weight: WeightName) -> Components | None:
        if weight.name in self.config.ignored_layers:
            return None
        scale = ".weight_scale_inv" if self.config.weight_block_size else ".weight_scale"
        return Components((".weight", scale), (".input_scale",) if self.config.activation_scheme == "static" else ())

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        n, k = tensors[".weight"].shape
        if self.config.weight_block_size:
            block = self.config.weight_block_size
            scales = read_tensor(tensors[".weight_scale_inv"], (-(-n // block[0]), -(-k // block[1])), finite=True)
        else:
            lazy = tensors[".weight_scale"]
            one = all(size == 1 for size in lazy.shape)
            block = (0, 0) if one else (1, 0)
            scales = read_tensor(lazy, (1, 1) if one else (n, 1), finite=True)
        given = tensors.get(".input_scale")
        return Fp8Weight(
            shape=(n, k),
            type=tensors[".weight"].type,
            values=read_tensor(tensors[".weight"]).to(device),
            scales=scales.float().to(device),
            block=block,
            input_scale=None if given is None else read_tensor(given, (1,), finite=True).float().to(device),
        )
