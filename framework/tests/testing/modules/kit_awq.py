"""AWQ (Lin et al., 2023) as its checkpoints store it: 8 rows interleaved in an integer.

Letters: N rows, K columns, G groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from kit_quant_configs import AwqConfig
from torch import Tensor

from dovetail.api import LazyTensor
from dovetail.nn import Axis, Codes, Components, Field, GroupedWeight, QuantFormat, WeightName, read_tensor

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Row → its place within the integer, in units of 4 bits."""


def unpack(packed: Tensor) -> Tensor:
    """int32 ``[n, N / 8]`` → uint8 ``[N, n]``."""
    shifts = 4 * torch.tensor(PLACES, device=packed.device, dtype=torch.int32)
    return ((packed[..., None] >> shifts) & 15).flatten(1).t().to(torch.uint8)


@dataclass(frozen=True, eq=False, kw_only=True)
class AwqWeight(GroupedWeight):
    """
    Attributes:
        codes: int32 ``[K, N / 8]``.
        zeros: int32 ``[G, N / 8]``.
        scales: float16 ``[G, N]``.
    """

    codes: Tensor
    zeros: Tensor
    scales: Tensor

    def fields(self) -> dict[str, Field]:
        shared = Axis(0, self.group) if len(self.scales) > 1 else None
        return {
            "codes": Field(self.codes, Axis(1, 8), Axis(0)),
            "zeros": Field(self.zeros, Axis(1, 8), shared),
            "scales": Field(self.scales, Axis(1), shared),
        }

    def unpack(self) -> Codes:
        return Codes(unpack(self.codes), self.scales.t(), unpack(self.zeros).float())


class AwqFormat(QuantFormat):
    config: AwqConfig

    def components(self, weight: WeightName) -> Components | None:
        if any(part in weight.name for part in self.config.modules_to_not_convert):
            return None
        return Components((".qweight", ".qzeros", ".scales"))

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        k, n = tensors[".qweight"].shape
        return 8 * n, k

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> AwqWeight:
        n, k = self.shape(weight, tensors)
        count = k // self.config.group_size
        codes = read_tensor(tensors[".qweight"]).to(device)
        zeros = read_tensor(tensors[".qzeros"], (count, n // 8), dtypes=(torch.int32,)).to(device)
        scales = read_tensor(tensors[".scales"], (count, n), finite=True).to(device)
        return AwqWeight(
            shape=(n, k),
            type=tensors[".qweight"].type,
            bits=4,
            group=self.config.group_size,
            codes=codes,
            zeros=zeros,
            scales=scales,
        )
