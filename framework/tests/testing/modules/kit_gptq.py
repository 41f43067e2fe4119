"""GPTQ (Frantar et al., 2022) as its checkpoints store it: codes packed along the columns, zero-points along the rows,
and with ``desc_act`` groups whose columns are not neighbours.

Letters: N rows, K columns, G groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from kit_quant_configs import GptqConfig
from torch import Tensor

from dovetail.api import LazyTensor
from dovetail.nn import (
    Axis,
    Codes,
    Components,
    Field,
    GroupedWeight,
    QuantFormat,
    WeightName,
    packed_axis,
    read_tensor,
    unpack_integers,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class GptqWeight(GroupedWeight):
    """
    Attributes:
        codes: int32 ``[K * bits / 32, N]``.
        zeros: int32 ``[G, N * bits / 32]``.
        scales: float16 ``[G, N]``.
        offset: added to the stored zero-points: the first version of the format stores them less 1.
    """

    codes: Tensor
    zeros: Tensor
    scales: Tensor
    offset: int

    def fields(self) -> dict[str, Field]:
        shared = Axis(0, self.group) if self.groups is None and len(self.scales) > 1 else None
        found = {
            "codes": Field(self.codes, Axis(1), packed_axis(0, self.bits)),
            "zeros": Field(self.zeros, packed_axis(1, self.bits), shared),
            "scales": Field(self.scales, Axis(1), shared),
        }
        if self.groups is not None:
            found["groups"] = Field(self.groups, columns=Axis(0))
        return found

    def unpack(self) -> Codes:
        zeros = unpack_integers(self.zeros, self.bits, 1).t().float() + self.offset
        return Codes(unpack_integers(self.codes, self.bits, 0).t(), self.scales.t(), zeros)


class GptqFormat(QuantFormat):
    config: GptqConfig

    def components(self, weight: WeightName) -> Components:
        return Components((".qweight", ".qzeros", ".scales"), (".g_idx",))

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        k, n = tensors[".qweight"].shape
        return n, k * 32 // self.config.bits

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> GptqWeight:
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
        return GptqWeight(
            shape=(n, k),
            type=tensors[".qweight"].type,
            bits=self.config.bits,
            group=group,
            codes=codes.to(device),
            zeros=zeros.to(device),
            scales=scales.to(device),
            groups=None if groups is None else groups.to(device),
            offset=offset,
        )
