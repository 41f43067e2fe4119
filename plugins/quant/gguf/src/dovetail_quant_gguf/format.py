"""GGUF's quantized tensors as weights: packed bytes in memory, exactly as in the file.

Letters: N rows, K columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.api import CheckpointError, LazyTensor
from dovetail.nn import AffineWeight, Axis, Field, QuantFormat, StoredWeight, TwoLevelScales, WeightName
from dovetail_quant_gguf.types import TYPES, GgmlType

# Weights unpacked at once: enough that the fixed costs of a dozen operations do not show (a quarter as many take half as long again), and
# few enough that what stands between them stays small beside any model.
CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class GgufWeight(StoredWeight):
    """A matrix in one of ggml's quantized types, which is a name in :data:`dovetail_quant_gguf.types.TYPES`.

    Attributes:
        data: uint8 ``[N, bytes of a row]``; may be a view of a mapped file, and is never written to.
    """

    data: Tensor

    @classmethod
    def of(cls, data: Tensor, type: str) -> GgufWeight:
        layout = TYPES[type]
        return cls((data.shape[0], data.shape[1] // layout.bytes * layout.weights), type, data)

    @property
    def layout(self) -> GgmlType:
        return TYPES[self.type]

    def fields(self) -> dict[str, Field]:
        return {"data": Field(self.data, Axis(0), Axis(1, self.layout.weights, self.layout.bytes))}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        n, k, step = self.data.shape[0], self.shape[1], self._step()
        if 0 < n <= step:
            return self.layout.dequantize(self._blocks(self.data)).view(n, k).to(dtype)
        out = torch.empty(n, k, dtype=dtype, device=self.data.device)
        for start in range(0, n, step):
            part = self.data[start : start + step]
            out[start : start + step] = self.layout.dequantize(self._blocks(part)).view(-1, k)
        return out

    def pack(self, packing: str) -> AffineWeight | None:
        if packing != "affine" or self.layout.affine_bits is None:
            return None
        n, k = self.shape
        step = self._step()
        codes: Tensor | None = None
        scales, mins = [], []
        for start in range(0, n, step):
            data = self.data[start : start + step]
            part = self.layout.unpack(self._blocks(data))
            if codes is None:
                codes = part.codes.new_empty(n, k)
            codes[start : start + step] = part.codes.reshape(-1, k)
            scales.append(_by_rows(part.scales, data.shape[0]))
            if part.mins is not None:
                mins.append(_by_rows(part.mins, data.shape[0]))
        assert codes is not None
        joined = _cat(scales)
        return AffineWeight(
            codes=codes,
            scales=joined,
            mins=_cat(mins) if mins else None,
            bits=self.layout.affine_bits,
            group=k // joined.shape[1],
        )

    def _step(self) -> int:
        return max(1, CHUNK // self.shape[1])

    def _blocks(self, data: Tensor) -> Tensor:
        return data.reshape(-1, self.layout.bytes)


class GgufFormat(QuantFormat):
    """Reads quantized tensors of GGUF files."""

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> GgufWeight:
        lazy = tensors[".weight"]
        n, k = self.shape(weight, tensors)
        layout = TYPES[lazy.type]
        wanted = (n, k // layout.weights * layout.bytes)
        data = lazy.read()
        if data.dtype != torch.uint8 or tuple(data.shape) != wanted:
            raise CheckpointError(
                f"tensor {lazy.name} ({lazy.type}, {n} x {k}) should be {wanted[0]} rows of {wanted[1]} bytes, "
                f"but reads as {data.dtype} {list(data.shape)}",
                "the file is damaged or its loader is at fault; download it again or update the loader",
            )
        self._check_scales(data, lazy)
        return GgufWeight.of(data.to(device), lazy.type)

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, int]:
        lazy = tensors[".weight"]
        layout = TYPES.get(lazy.type)
        if layout is None:
            raise CheckpointError(
                f"tensor {lazy.name} is of type {lazy.type}, wanted one of {', '.join(TYPES)}",
                "convert the model to one of these, or install a plugin that reads this type",
            )
        if len(lazy.shape) != 2:
            raise CheckpointError(
                f"tensor {lazy.name} ({lazy.type}) has the shape {list(lazy.shape)}, wanted a matrix",
                "this model needs a format for weights of more dimensions; check for a newer version of the plugin",
            )
        n, k = lazy.shape
        if k % layout.weights:
            raise CheckpointError(
                f"tensor {lazy.name} has {k} columns, which blocks of {layout.weights} weights ({lazy.type}) cannot make up",
                "the file is damaged; download it again",
            )
        return n, k

    def _check_scales(self, data: Tensor, lazy: LazyTensor) -> None:
        layout = TYPES[lazy.type]
        step = max(1, CHUNK // data.shape[1])
        for start in range(0, data.shape[0], step):
            has_bad_scale = layout.has_bad_scale(data[start : start + step].reshape(-1, layout.bytes))
            if has_bad_scale.any():
                row = start + int(has_bad_scale.nonzero()[0]) // (data.shape[1] // layout.bytes)
                raise CheckpointError(
                    f"tensor {lazy.name} ({lazy.type}) holds a scale that is infinite or not a number, in row {row}",
                    "the file is damaged, or the model was broken before it was quantized; download it again",
                )


def _by_rows(values: Tensor | TwoLevelScales, n: int) -> Tensor | TwoLevelScales:
    """Numbers of each block → those of each row."""
    if isinstance(values, TwoLevelScales):
        return TwoLevelScales(values.units.view(n, -1), values.codes.view(n, -1))
    return values.view(n, -1)


def _cat(parts: list[Tensor | TwoLevelScales]) -> Tensor | TwoLevelScales:
    products = [p for p in parts if isinstance(p, TwoLevelScales)]
    if products:
        return TwoLevelScales(torch.cat([p.units for p in products]), torch.cat([p.codes for p in products]))
    return torch.cat([p for p in parts if isinstance(p, Tensor)])
