"""Weights in 8 bits with one scale a row: ``w[n, k] = weight_scale[n] * weight[n, k]``.

Letters: N rows, K columns, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from dovetail.api import CheckpointError, LazyTensor
from dovetail.nn import AffineWeight, QuantFormat, StoredWeight
from torch import Tensor


class PLUGIN_CLASSWeight(StoredWeight):
    """A matrix in memory, as it is on disk.

    Args:
        codes: int8 ``[N, K]``.
        scales: float32 ``[N]``.
    """

    type = "int8"

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        self.codes = codes
        self.scales = scales
        self.shape = (codes.shape[0], codes.shape[1])

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        return (self.codes[start:stop] * self.scales[start:stop, None]).to(dtype)

    def take(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return (self.codes[ids] * self.scales[ids, None]).to(dtype)

    def reorder(self, order: Tensor) -> PLUGIN_CLASSWeight:
        return PLUGIN_CLASSWeight(self.codes[order], self.scales[order])

    def to(self, device: torch.device) -> PLUGIN_CLASSWeight:
        return PLUGIN_CLASSWeight(self.codes.to(device), self.scales.to(device))

    @classmethod
    def join(cls, parts: Sequence[StoredWeight]) -> PLUGIN_CLASSWeight | None:
        own = [part for part in parts if isinstance(part, PLUGIN_CLASSWeight)]
        if len(own) != len(parts):
            return None
        return cls(torch.cat([part.codes for part in own]), torch.cat([part.scales for part in own]))

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def pack(self, packing: str) -> AffineWeight | None:
        if packing != "affine":
            return None
        return AffineWeight(self.codes, self.scales[:, None], mins=None, bits=8, group=self.shape[1])


class PLUGIN_CLASSFormat(QuantFormat):
    """Reads a weight from its two tensors."""

    components = ("weight", "weight_scale")

    def load(self, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype) -> StoredWeight:
        codes, scales = (self._read(tensors[component]) for component in self.components)
        if scales.numel() != codes.shape[0]:
            problem = f"{tensors['weight_scale'].name} holds {scales.numel()} scales, wanted {codes.shape[0]}"
            raise CheckpointError(problem, "quantize the model again")
        scales = scales.flatten().float()
        return PLUGIN_CLASSWeight(codes.to(device), scales.to(device))

    def _read(self, lazy: LazyTensor) -> Tensor:
        value = lazy.read()
        if tuple(value.shape) != lazy.shape:
            problem = f"{lazy.name} was announced as {list(lazy.shape)}, but reads as {list(value.shape)}"
            raise CheckpointError(problem, "the file is damaged: copy it again")
        return value
