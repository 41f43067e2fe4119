"""AQLM's weights (Egiazarian et al., 2024): each vector of neighbours in a row is a sum of vectors, one of each codebook.

Letters: N rows, K columns, C codebooks, V columns of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.api import CheckpointError, LazyTensor
from dovetail.nn import Axis, Components, Field, QuantFormat, StoredWeight, WeightName, read_tensor
from dovetail_quant_aqlm.config import AqlmConfig

CODES, CODEBOOKS, SCALES = ".codes", ".codebooks", ".scales"
FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class AdditiveWeight(StoredWeight):
    """``w[n, g * V + v] = scales[n] * sum_c codebooks[c, codes[n, g, c], v]``.

    Attributes:
        codes: int8 or int16 ``[N, K / V, C]``, the lowest bits of which count.
        codebooks: ``[C, 2 ** bits, V]``.
        scales: ``[N]``.
    """

    codes: Tensor
    codebooks: Tensor
    scales: Tensor

    def fields(self) -> dict[str, Field]:
        return {
            "codes": Field(self.codes, rows=Axis(0), columns=Axis(1, self.codebooks.shape[2])),
            "codebooks": Field(self.codebooks),
            "scales": Field(self.scales, rows=Axis(0)),
        }

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        levels = self.codebooks.shape[1]
        whole = torch.zeros(self.shape, device=self.codes.device)
        for codebook, codes in zip(self.codebooks, self.codes.unbind(-1), strict=True):
            whole += codebook[codes.int() & levels - 1].flatten(1).float()
        return whole.mul_(self.scales.float()[:, None]).to(dtype)


class AqlmFormat(QuantFormat):
    """Reads AQLM's weights with any number of codebooks."""

    config: AqlmConfig

    def components(self, weight: WeightName) -> Components:
        return Components((CODES, CODEBOOKS, SCALES), (".bias",))

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        rows, *vectors = tensors[CODES].shape
        return rows, *(size * self.config.in_group_size for size in vectors[:1])

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> AdditiveWeight:
        config, stored = self.config, tensors[CODES]
        if len(stored.shape) != 3:
            raise CheckpointError(
                f"tensor {stored.name} is {list(stored.shape)}, wanted three dimensions: rows, vectors, and codebooks",
                "the file is damaged, or was written by a version that is not supported; download it again",
            )
        n, vectors, _ = stored.shape
        count, size = config.num_codebooks, config.in_group_size
        kind = torch.int8 if config.nbits_per_codebook <= 8 else torch.int16
        table = (count, 1 << config.nbits_per_codebook, 1, size)
        return AdditiveWeight(
            shape=(n, vectors * size),
            type=stored.type,
            codes=read_tensor(stored, (n, vectors, count), dtypes=(kind,)).to(device),
            codebooks=read_tensor(tensors[CODEBOOKS], table, dtypes=FLOATS, finite=True)[:, :, 0].to(device),
            scales=read_tensor(tensors[SCALES], (n, 1, 1, 1), dtypes=FLOATS, finite=True).view(n).to(device),
        )
