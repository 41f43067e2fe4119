"""Full-precision weights as a format like any other, and the reference kernel that serves every format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.api.cards import LayerKind
from dovetail.api.checkpoint import LazyTensor
from dovetail.nn.stored import Axis, Field, StoredWeight
from dovetail.nn.weights import QuantFormat, WeightKernel, WeightName, read_tensor

# Of a dequantized slice. Smaller ones would stay in a core's cache, but the fixed costs of the dozen operations that unpack one weigh more: a
# product with one token takes two thirds of the time that it takes with slices of one MiB.
SLICE_BYTES = 4 << 20


@dataclass(frozen=True, eq=False)
class DenseWeight(StoredWeight):
    """A matrix stored as a plain tensor ``[N, K]``."""

    data: Tensor

    @classmethod
    def of(cls, data: Tensor, type: str) -> DenseWeight:
        return cls((data.shape[0], data.shape[1]), type, data)

    def fields(self) -> dict[str, Field]:
        return {"data": Field(self.data, Axis(0), Axis(1))}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return self.data.to(dtype)

    def take(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(ids, self.data).to(dtype)

    def pack(self, packing: str) -> Tensor | None:
        return self.data if packing == "dense" else None


class DenseFormat(QuantFormat):
    """float32, float16, bfloat16 and float64 tensors, converted once to the activations' dtype."""

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> DenseWeight:
        lazy = tensors[".weight"]
        return DenseWeight.of(read_tensor(lazy).to(device=device, dtype=dtype), lazy.type)


class DenseKernel(WeightKernel):
    """One library matrix product with a weight that is already in the activations' dtype."""

    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None:
        self.kind = kind
        self.weight = weight.dense(dtype).to(device)

    def process_after_loading(self) -> None:
        if self.kind != "embedding":
            self.weight = self.ops.lay_out(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        return self.ops.embed(x, self.weight) if self.kind == "embedding" else self.ops.linear(x, self.weight)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes


class DequantizeKernel(WeightKernel):
    """The reference: dequantizes a few rows at a time and multiplies. Any format, any device, never a whole matrix."""

    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None:
        self.weight = weight.to(device)
        self.kind = kind
        self.dtype = dtype
        unit = weight.row_unit
        self.step = unit * max(1, SLICE_BYTES // (weight.shape[1] * dtype.itemsize) // unit)

    def __call__(self, x: Tensor) -> Tensor:
        if self.kind == "embedding":
            return self.weight.take(x, self.dtype)
        n = self.weight.shape[0]
        out = x.new_empty(*x.shape[:-1], n)
        for start in range(0, n, self.step):
            stop = min(start + self.step, n)
            out[..., start:stop] = self.ops.linear(x, self.weight.rows(start, stop, self.dtype))
        return out

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes
