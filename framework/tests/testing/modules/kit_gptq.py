"""GPTQ (Frantar et al., 2022) as its checkpoints store it: codes packed along the columns, zero-points along the rows,
and with ``desc_act`` groups whose columns are not neighbours.

Letters: N rows, K columns, G groups, P codes in an integer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from kit_quant_configs import GptqConfig
from torch import Tensor

from dovetail.api import LazyTensor
from dovetail.nn import AffineWeight, Axis, Components, Field, QuantFormat, StoredWeight, WeightName, read_tensor


def unpack(packed: Tensor, bits: int) -> Tensor:
    """int32 ``[..., n]`` → uint8 ``[..., n * P]``, lowest bits first."""
    shifts = torch.arange(0, 32, bits, device=packed.device, dtype=torch.int32)
    return ((packed[..., None] >> shifts) & (2**bits - 1)).flatten(-2).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class GptqWeight(StoredWeight):
    """
    Attributes:
        codes: int32 ``[K / P, N]``.
        zeros: int32 ``[G, N / P]``.
        scales: float16 ``[G, N]``.
        groups: int32 ``[K]``, the group of each column; None if neighbours share one.
        offset: added to the stored zero-points: the first version of the format stores them less 1.
    """

    codes: Tensor
    zeros: Tensor
    scales: Tensor
    groups: Tensor | None
    bits: int
    group: int
    offset: int

    def fields(self) -> dict[str, Field]:
        packed = 32 // self.bits
        shared = Axis(0, self.group) if self.groups is None else None
        found = {
            "codes": Field(self.codes, Axis(1), Axis(0, packed)),
            "zeros": Field(self.zeros, Axis(1, packed), shared),
            "scales": Field(self.scales, Axis(1), shared),
        }
        if self.groups is not None:
            found["groups"] = Field(self.groups, columns=Axis(0))
        return found

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        codes, zeros, scales = self._unpacked()
        index = self._index()
        return (scales[:, index] * (codes.float() - zeros[:, index])).to(dtype)

    def pack(self, packing: str) -> AffineWeight | None:
        if packing != "affine":
            return None
        codes, zeros, scales = self._unpacked()
        mins = -scales * zeros
        if self.groups is None:
            return AffineWeight(codes, scales, mins, self.bits, self.group)
        order = self.groups.argsort(stable=True)
        groups = self.groups[order].view(-1, self.group) if len(order) % self.group == 0 else self.groups[:, None].T
        if bool((groups != groups[:, :1]).any()):
            return None  # a part of the columns, with more of one group than of another
        return AffineWeight(
            codes[:, order], scales[:, groups[:, 0]], mins[:, groups[:, 0]], self.bits, self.group, order
        )

    def _unpacked(self) -> tuple[Tensor, Tensor, Tensor]:
        """Codes uint8 ``[N, K]``, zero-points and scales float32 ``[N, G]``."""
        codes = unpack(self.codes.t(), self.bits)
        zeros = unpack(self.zeros, self.bits).t().float() + self.offset
        return codes, zeros, self.scales.t().float()

    def _index(self) -> Tensor:
        if self.groups is not None:
            return self.groups
        return torch.arange(self.shape[1], device=self.codes.device) // self.group


class GptqFormat(QuantFormat):
    config: GptqConfig

    def components(self, weight: WeightName) -> Components:
        return Components((".qweight", ".qzeros", ".scales"), (".g_idx",))

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        k, n = tensors[".qweight"].shape
        return n, k * 32 // self.config.bits

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        n, k = self.shape(weight, tensors)
        group = k if self.config.group_size == -1 else self.config.group_size
        count = -(-k // group)
        codes = read_tensor(tensors[".qweight"])
        zeros = read_tensor(tensors[".qzeros"], (count, n * self.config.bits // 32), dtypes=(torch.int32,))
        scales = read_tensor(tensors[".scales"], (count, n), finite=True)
        groups = None
        if ".g_idx" in tensors:
            groups = read_tensor(tensors[".g_idx"], (k,), dtypes=(torch.int32,), below=count)
        if groups is not None and torch.equal(groups, torch.arange(k, dtype=groups.dtype) // group):
            groups = None
        offset = 1 if self.config.checkpoint_format == "gptq" else 0
        moved = (codes.to(device), zeros.to(device), scales.to(device), None if groups is None else groups.to(device))
        return GptqWeight((n, k), tensors[".qweight"].type, *moved, self.config.bits, group, offset)
