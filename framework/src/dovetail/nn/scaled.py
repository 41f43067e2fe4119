"""Weights of 8-bit numbers with a scale for the matrix, for each row, or for each block, and of 4-bit floats with scales
for groups.

Letters: N rows, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.api.checkpoint import LazyTensor
from dovetail.api.errors import CheckpointError
from dovetail.nn.packings import E2M1, AffineWeight, Float4Weight, ScaledFloatWeight
from dovetail.nn.stored import Axis, Field, StoredWeight
from dovetail.nn.weights import read_tensor

NOT_A_NUMBER = 255
"""Of exponents in bytes."""
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


@dataclass(frozen=True, eq=False, kw_only=True)
class MicroscaledWeight(StoredWeight):
    """A matrix of 4-bit floats (E2M1) whose groups of columns share a small scale: OCP's microscaling, and the form with two
    levels of scales.

    Attributes:
        codes: uint8 ``[N, K / 2]``, two an entry; the even column is in the low half.
        scales: float8_e8m0fnu or float8_e4m3fn ``[N, K / group]``.
        group: columns that share a scale.
        scale: float32 ``[1]``, of the whole matrix; None for 1.
    """

    codes: Tensor
    scales: Tensor
    group: int
    scale: Tensor | None = None

    def fields(self) -> dict[str, Field]:
        found = {
            "codes": Field(self.codes, rows=Axis(0), columns=Axis(1, 2)),
            "scales": Field(self.scales, rows=Axis(0), columns=Axis(1, self.group)),
        }
        return found if self.scale is None else found | {"scale": Field(self.scale)}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        magnitudes = torch.tensor(E2M1, device=self.codes.device)
        levels = torch.cat([magnitudes, -magnitudes])
        both = torch.stack([self.codes & 15, self.codes >> 4], -1).flatten(1)  # [N, K]
        scales = self.scales.float() if self.scale is None else self.scales.float() * self.scale
        return (levels[both.int()].unflatten(1, (-1, self.group)) * scales[..., None]).flatten(1).to(dtype)

    def pack(self, packing: str) -> Float4Weight | None:
        if packing != "float4":
            return None
        return Float4Weight(self.codes, self.scales, self.group, self.scale, self.input_scale)


def read_microscales(lazy: LazyTensor, shape: tuple[int, int]) -> Tensor:
    """Read scales that are powers of two: their exponents plus 127, in bytes.

    Returns:
        float8_e8m0fnu, in the shape.

    Raises:
        CheckpointError: one is not a number, or there is another number of them; names the tensor.
    """
    exponents = read_tensor(lazy, shape, dtypes=(torch.uint8, torch.float8_e8m0fnu)).view(torch.uint8)
    if bool((exponents == NOT_A_NUMBER).any()):
        raise CheckpointError(
            f"tensor {lazy.name} holds a scale that is not a number (NaN)",
            "the file is damaged, or the model was broken before it was quantized; download it again",
        )
    return exponents.view(torch.float8_e8m0fnu)
