"""NF4 as bitsandbytes stores it, and MXFP4 as stacks of experts are stored.

Letters: N rows, K columns, G groups in a row.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.api import LazyTensor
from dovetail.nn import (
    Axis,
    CodebookWeight,
    Components,
    Field,
    MicroscaledWeight,
    QuantFormat,
    StoredWeight,
    WeightName,
    read_microscales,
    read_tensor,
)

STATE = ".weight.quant_state.bitsandbytes__nf4"


@dataclass(frozen=True, eq=False)
class Nf4Weight(StoredWeight):
    """
    Attributes:
        codes: uint8 ``[N, K / 2]``, the even column in the high half.
        scales: float32 ``[N, G]``.
        levels: float32 ``[16]``.
    """

    codes: Tensor
    scales: Tensor
    levels: Tensor
    group: int

    def fields(self) -> dict[str, Field]:
        return {
            "codes": Field(self.codes, Axis(0), Axis(1, 2)),
            "scales": Field(self.scales, Axis(0), Axis(1, self.group)),
            "levels": Field(self.levels),
        }

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        values = self.levels[self._unpacked().int()].unflatten(1, (-1, self.group))
        return (values * self.scales[..., None]).flatten(1).to(dtype)

    def pack(self, packing: str) -> CodebookWeight | None:
        if packing != "codebook":
            return None
        return CodebookWeight(self._unpacked(), self.levels, self.scales, 4, self.group)

    def _unpacked(self) -> Tensor:
        return torch.stack((self.codes >> 4, self.codes & 15), -1).flatten(1)


class Nf4Format(QuantFormat):
    """The codes lie in one long column; a small JSON text among the tensors says what their matrix is."""

    def components(self, weight: WeightName) -> Components:
        return Components((".weight", ".weight.absmax", ".weight.quant_map", STATE))

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        return tuple(self._state(tensors)["shape"])

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        state = self._state(tensors)
        (n, k), group = state["shape"], state["blocksize"]
        codes = read_tensor(tensors[".weight"], (n * k // 2,)).view(n, k // 2).to(device)
        scales = read_tensor(tensors[".weight.absmax"], (n * k // group,), finite=True).view(n, k // group).to(device)
        levels = read_tensor(tensors[".weight.quant_map"], (16,), finite=True).to(device)
        return Nf4Weight((n, k), tensors[".weight"].type, codes, scales, levels, group)

    def _state(self, tensors: Mapping[str, LazyTensor]) -> dict:
        return json.loads(bytes(read_tensor(tensors[STATE], dtypes=(torch.uint8,)).tolist()))


class Mxfp4Format(QuantFormat):
    def components(self, weight: WeightName) -> Components | None:
        return Components(("_blocks", "_scales")) if weight.kind == "experts" else None

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        n, groups, _ = tensors["_blocks"].shape
        return n, 32 * groups

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> MicroscaledWeight:
        n, k = self.shape(weight, tensors)
        blocks = read_tensor(tensors["_blocks"], (n, k // 32, 16)).flatten(1).to(device)
        scales = read_microscales(tensors["_scales"], (n, k // 32)).to(device)
        return MicroscaledWeight(shape=(n, k), type=tensors["_blocks"].type, codes=blocks, scales=scales, group=32)
