"""Weights of 8-bit numbers with a scale for the matrix, for each row, or for each block: FP8 and INT8 in many formats.

Letters: N rows, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.api.checkpoint import LazyTensor
from dovetail.nn.packings import AffineWeight, ScaledFloatWeight
from dovetail.nn.stored import Axis, Field, StoredWeight
from dovetail.nn.weights import read_tensor

Block = tuple[int, int]
"""Rows and columns that share a scale; 0 for all of them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScaledWeight(StoredWeight):
    """A matrix ``values[n, k] * scales[n // block[0], k // block[1]]``.

    Attributes:
        values: of an 8-bit floating-point dtype, or int8, ``[N, K]``.
        scales: float32 ``[ceil(N / block[0]), ceil(K / block[1])]``, 1 where a side has one scale for all.
        block: rows and columns that share a scale; 0 for all of them.
    """

    values: Tensor
    scales: Tensor
    block: Block

    def fields(self) -> dict[str, Field]:
        rows, columns = (Axis(dim, unit) if unit else None for dim, unit in enumerate(self.block))
        return {
            "values": Field(self.values, rows=Axis(0), columns=Axis(1)),
            "scales": Field(self.scales, rows=rows, columns=columns),
        }

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return (self.values.float() * self._spread(0, self._spread(1, self.scales))).to(dtype)

    def pack(self, packing: str) -> ScaledFloatWeight | AffineWeight | None:
        rows, columns = (unit or size for unit, size in zip(self.block, self.shape, strict=True))
        floating = self.values.is_floating_point()
        if packing == "scaled_float" and floating:
            return ScaledFloatWeight(self.values, self.scales, (rows, columns), self.input_scale)
        if packing == "affine" and not floating and self.shape[1] % columns == 0:
            scales = self._spread(0, self.scales).expand(self.shape[0], -1)
            return AffineWeight(self.values, scales.contiguous(), None, 8, columns)
        return None

    def _spread(self, dim: int, scales: Tensor) -> Tensor:
        """Scales with one for each row or column, where several share one; a single one stays."""
        unit = self.block[dim]
        return scales.repeat_interleave(unit, dim).narrow(dim, 0, self.shape[dim]) if unit > 1 else scales


def read_scales(lazy: LazyTensor, shape: tuple[int, int], block: Block | None = None) -> tuple[Tensor, Block]:
    """Read the scales of a :class:`ScaledWeight`.

    Args:
        shape: ``(N, K)`` of the weight.
        block: that a configuration announces; None for one scale in all or one a row, as the tensor's shape says.

    Returns:
        float32 scales with two dimensions, and the block.

    Raises:
        CheckpointError: they are not finite, or another number of them; names the tensor.
    """
    n, k = shape
    if block is None:
        block = (0, 0) if all(size == 1 for size in lazy.shape) else (1, 0)
    wanted = (-(-n // block[0]) if block[0] else 1, -(-k // block[1]) if block[1] else 1)
    return read_tensor(lazy, wanted, finite=True).float(), block
