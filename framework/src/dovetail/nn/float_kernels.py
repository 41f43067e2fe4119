"""Portable kernels for weights in the packings ``scaled_float``, ``codebook`` and ``float4``, from torch operations
alone: weights are kept as they are packed, and a few rows at a time are unpacked and multiplied.

Activations are not quantized, so their scales are not needed.

Letters: N rows, K columns, G groups in a row, T tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from dovetail.api.cards import LayerKind
from dovetail.nn.packings import E2M1, CodebookWeight, Float4Weight, ScaledFloatWeight
from dovetail.nn.stored import StoredWeight
from dovetail.nn.weights import WeightKernel, unpacked_reason

SLICE = 1 << 21
"""Weights unpacked at once, as in :mod:`dovetail.nn.affine`."""


class _SlicedKernel(WeightKernel):
    """A product by a few rows of the weight at a time."""

    packing: ClassVar[str]
    unit = 1
    """Rows that are unpacked together."""

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight, kind: LayerKind) -> str | None:
        return unpacked_reason(weight, cls.packing)

    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None:
        self.n, self.k = weight.shape

    def __call__(self, x: Tensor) -> Tensor:
        out = x.new_empty(*x.shape[:-1], self.n)
        step = self.unit * max(1, SLICE // self.k // self.unit)
        for start in range(0, self.n, step):
            rows = slice(start, min(start + step, self.n))
            out[..., rows] = self.ops.linear(x, self.unpack(rows, x.dtype))
        return out

    @abstractmethod
    def unpack(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """Rows of the matrix ``[n, K]``; the first is a multiple of :attr:`unit`."""


class ScaledFloatKernel(_SlicedKernel):
    """8-bit floats with one scale for all, for each row, or for each block. Rounded once, as the reference."""

    packing = "scaled_float"

    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(weight, kind, device, dtype)
        packed: ScaledFloatWeight | None = weight.pack(self.packing)
        assert packed is not None
        self.values = packed.values.to(device)
        self.scales = packed.scales.to(device)
        self.unit, self.width = (min(size, side) for size, side in zip(packed.block, weight.shape, strict=True))

    def unpack(self, rows: slice, dtype: torch.dtype) -> Tensor:
        values = self.values[rows].float()
        scales = self.scales[rows.start // self.unit : -(-rows.stop // self.unit)]
        if self.unit > 1:
            scales = scales.repeat_interleave(self.unit, 0)[: values.shape[0]]
        if self.k % self.width == 0:
            values.unflatten(1, (-1, self.width)).mul_(scales[..., None])
        else:
            values.mul_(scales.repeat_interleave(self.width, 1)[:, : self.k])
        return values.to(dtype)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes


class _TableKernel(_SlicedKernel):
    """Codes that name the entries of a table, times a scale for each group. Two codes of 4 bits share a byte and are
    looked up together.
    """

    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(weight, kind, device, dtype)
        codes, table, scales, scale, self.group = self.read(weight)
        if codes.shape[1] < self.k:  # the even column is in the low half
            byte = torch.arange(256)
            table = torch.stack((table[byte & 15], table[byte >> 4]), -1)
        self.codes = codes.to(device)
        self.table = table.to(device, dtype)  # [entries] or [256, 2]
        self.scales = scales.to(device)
        self.scale = None if scale is None else scale.float().view(-1, 1).to(device)

    @abstractmethod
    def read(self, weight: StoredWeight) -> tuple[Tensor, Tensor, Tensor, Tensor | None, int]:
        """Codes ``[N, K]`` or two in a byte ``[N, K / 2]``, the table ``[entries]``, scales ``[N, G]``, the scale of
        those (one, or ``[N]``), and the columns of a group.
        """

    def unpack(self, rows: slice, dtype: torch.dtype) -> Tensor:
        codes = self.codes[rows]
        values = self.table.index_select(0, codes.flatten().int()).view(codes.shape[0], self.k)
        scales = self.scales[rows].float()
        if self.scale is not None:
            scales = scales * (self.scale if self.scale.shape[0] == 1 else self.scale[rows])
        values.unflatten(1, (-1, self.group)).mul_(scales.to(dtype)[..., None])
        return values

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes


class CodebookKernel(_TableKernel):
    """Levels that are not evenly spaced, such as NF4's, with codes of up to 8 bits."""

    packing = "codebook"

    def read(self, weight: StoredWeight) -> tuple[Tensor, Tensor, Tensor, Tensor | None, int]:
        packed: CodebookWeight | None = weight.pack(self.packing)
        assert packed is not None
        codes, table = packed.codes, packed.codebook
        if packed.bits <= 4 and self.k % 2 == 0:
            codes = codes[:, ::2] | codes[:, 1::2] << 4
            table = torch.cat((table, table.new_zeros(16 - table.numel())))
        return codes, table, packed.scales, None, packed.group


class Float4Kernel(_TableKernel):
    """4-bit floats with scales by group."""

    packing = "float4"

    def read(self, weight: StoredWeight) -> tuple[Tensor, Tensor, Tensor, Tensor | None, int]:
        packed: Float4Weight | None = weight.pack(self.packing)
        assert packed is not None
        magnitudes = torch.tensor(E2M1)
        return packed.codes, torch.cat((magnitudes, -magnitudes)), packed.scales, packed.scale, packed.group
