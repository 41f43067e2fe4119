"""Weights of small integers with a scale for each group of columns: what most integer formats have in common.

Letters: N rows, K columns, G groups in a row.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.nn.packings import HALF_OR_SINGLE, AffineWeight
from dovetail.nn.stored import Axis, Field, StoredWeight

WORD = 32


def unpack_integers(words: Tensor, bits: int, dim: int) -> Tensor:
    """Codes that are packed in 32-bit words along a dimension, lowest bits first; one whose bits do not end where words
    do continues in the next word, so that ``lcm(bits, 32)`` bits are a unit.

    Args:
        words: int32 ``[..., n, ...]``, whole units.
        bits: 1 to 8.
        dim: along which they are packed.

    Returns:
        uint8 ``[..., n * 32 / bits, ...]``.
    """
    unit = math.lcm(bits, WORD)
    mask = (1 << bits) - 1
    apart = words.unflatten(dim, (-1, unit // WORD))
    codes = []
    for start in range(0, unit, bits):
        word, shift = divmod(start, WORD)
        code = apart.select(dim + 1, word) >> shift
        if (left := WORD - shift) < bits:
            # The shift of a negative number repeats its sign.
            code = code & ((1 << left) - 1) | apart.select(dim + 1, word + 1) << left
        codes.append((code & mask).to(torch.uint8))
    return torch.stack(codes, dim + 1).flatten(dim, dim + 1)


def pack_integers(codes: Tensor, bits: int, dim: int) -> Tensor:
    """Pack codes as :func:`unpack_integers` reads them.

    Args:
        codes: uint8 ``[..., n, ...]``, below ``2 ** bits``, whole units.
        bits: 1 to 8.
        dim: along which they are packed.

    Returns:
        int32 ``[..., n * bits / 32, ...]``.
    """
    unit = math.lcm(bits, WORD)
    apart = codes.unflatten(dim, (-1, unit // bits))
    words = [torch.zeros_like(apart.select(dim + 1, 0), dtype=torch.int32) for _ in range(unit // WORD)]
    for place, start in enumerate(range(0, unit, bits)):
        word, shift = divmod(start, WORD)
        code = apart.select(dim + 1, place).int()
        words[word] |= code << shift
        if (left := WORD - shift) < bits:
            words[word + 1] |= code >> left
    return torch.stack(words, dim + 1).flatten(dim, dim + 1)


def packed_axis(dim: int, bits: int) -> Axis:
    """How a tensor of packed integers follows the side of the matrix along which it is packed."""
    unit = math.lcm(bits, WORD)
    return Axis(dim, unit // bits, unit // WORD)


@dataclass(frozen=True)
class Codes:
    """The numbers of a weight, unpacked: ``w[n, k] = (codes[n, k] - zeros[n, g]) * scales[n, g]``, g the group of k.

    Attributes:
        codes: uint8, or int8 with a sign, ``[N, K]``.
        scales: ``[N, G]``.
        zeros: float32 ``[N, G]``; a number for the same in all groups.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | float


@dataclass(frozen=True, eq=False)
class GroupedWeight(StoredWeight):
    """A matrix of integer codes, whose groups of columns have a scale and a zero-point each. A subclass has the tensors,
    says how they follow the matrix, and unpacks them.

    Attributes:
        bits: of a code.
        group: columns that share a scale. If there is one scale in a row, all of its columns do, however many they are
            after a cut.
        groups: int32 ``[K]``, the group of each column, where those of a group are not neighbours (act-order); a
            subclass has it in :meth:`fields`.
    """

    bits: int
    group: int
    groups: Tensor | None = None

    @abstractmethod
    def unpack(self) -> Codes:
        """What the tensors hold."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        found = self.unpack()
        index = self.groups
        if index is None:
            index = torch.arange(self.shape[1], device=found.codes.device) // self._width(found)
        zeros = found.zeros[:, index] if isinstance(found.zeros, Tensor) else found.zeros
        return found.codes.float().sub_(zeros).mul_(found.scales.float()[:, index]).to(dtype)

    def pack(self, packing: str) -> AffineWeight | None:
        if packing != "affine":
            return None
        found = self.unpack()
        k, width = self.shape[1], self._width(found)
        if self.groups is None:
            group = math.gcd(k, width)  # if groups do not fill the rows, smaller ones, some with the same scale
            order = None
            first = torch.arange(0, k, group, device=found.codes.device) // width
        else:
            order = self.groups.argsort(stable=True)
            sorted_groups = self.groups[order].split(width)
            if len(sorted_groups[-1]) != width or any(bool((part != part[0]).any()) for part in sorted_groups):
                return None  # some of the columns, with more of one group than of another
            group, first = width, torch.stack([part[0] for part in sorted_groups])
        codes = found.codes if order is None else found.codes[:, order]
        scales = found.scales[:, first]
        if scales.dtype not in HALF_OR_SINGLE:
            scales = scales.float()
        if isinstance(found.zeros, Tensor):
            return AffineWeight(codes, scales, -scales.float() * found.zeros[:, first], self.bits, group, order)
        if codes.dtype == torch.uint8 and found.zeros == 1 << (self.bits - 1):  # in the middle: codes with a sign
            codes = (codes - int(found.zeros)).view(torch.int8)
            return AffineWeight(codes, scales, None, self.bits, group, order)
        mins = -scales.float() * found.zeros if found.zeros else None
        return AffineWeight(codes, scales, mins, self.bits, group, order)

    def _width(self, found: Codes) -> int:
        return self.shape[1] if found.scales.shape[1] == 1 else self.group


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedWeight(GroupedWeight):
    """A matrix whose codes are packed along the columns.

    Attributes:
        words: the codes, int32 ``[N, K * bits / 32]``.
        scales: ``[N, G]``.
        zeros: the zero-points, of any dtype, ``[N, G]``; None if all are in the middle of the codes.
    """

    words: Tensor
    scales: Tensor
    zeros: Tensor | None

    def fields(self) -> dict[str, Field]:
        shared = Axis(1, self.group) if self.groups is None and self.scales.shape[1] > 1 else None
        found = {
            "words": Field(self.words, rows=Axis(0), columns=packed_axis(1, self.bits)),
            "scales": Field(self.scales, rows=Axis(0), columns=shared),
        }
        if self.zeros is not None:
            found["zeros"] = Field(self.zeros, rows=Axis(0), columns=shared)
        if self.groups is not None:
            found["groups"] = Field(self.groups, columns=Axis(0))
        return found

    def unpack(self) -> Codes:
        zeros = 1 << (self.bits - 1) if self.zeros is None else self.zeros.float()
        return Codes(unpack_integers(self.words, self.bits, 1), self.scales, zeros)
