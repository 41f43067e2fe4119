"""The packings: named interchange forms of weights, which formats convert to and kernels take.

Each is exact for the formats that offer it. Letters: N rows, K columns, G groups in a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TwoLevelScales:
    """Scales ``[N, G]`` in two levels, as in K-quants: small integers, multiplied by one float per group of
    neighbours in a row.

    It supports slicing by rows, ``to`` and ``float``, as a tensor does. Formats with small groups store their scales
    this way, which takes a quarter of the memory of float32.

    Attributes:
        units: float16 or float32 ``[N, S]``, S a divisor of G.
        codes: uint8 or int8 ``[N, G]``.
    """

    units: Tensor
    codes: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        return self.units.nbytes + self.codes.nbytes

    def __getitem__(self, rows: slice) -> TwoLevelScales:
        return TwoLevelScales(self.units[rows], self.codes[rows])

    def to(self, device: torch.device) -> TwoLevelScales:
        return TwoLevelScales(self.units.to(device), self.codes.to(device))

    def float(self) -> Tensor:
        """float32 ``[N, G]``; exact for float16 units."""
        codes = self.codes.float().unflatten(-1, (self.units.shape[-1], -1))  # [N, S, G/S]
        return codes.mul_(self.units.float()[..., None]).flatten(-2)


@dataclass(frozen=True)
class AffineWeight:
    """The packing ``affine``: ``w[n, order[k]] = scales[n, k // group] * codes[n, k] + mins[n, k // group]``.

    Most integer formats can be converted to it exactly, so one kernel serves all of them.

    Attributes:
        codes: uint8 or int8 ``[N, K]``, one code an element.
        scales: ``[N, G]``, float32 or float16, or in two levels.
        mins: ``[N, G]`` likewise, or None for zero.
        bits: the codes fit in this many bits: unsigned if uint8, two's complement if int8.
        group: columns that share a scale; ``G * group == K``.
        order: int64 ``[K]``, the columns of the weight in the order in which they are stored, so that those of a group
            are neighbours (``desc_act``); None if that is their own order.
    """

    codes: Tensor
    scales: Tensor | TwoLevelScales
    mins: Tensor | TwoLevelScales | None
    bits: int
    group: int
    order: Tensor | None = None


@dataclass(frozen=True)
class ScaledFloatWeight:
    """The packing ``scaled_float``: ``w[n, k] = values[n, k] * scales[n // block[0], k // block[1]]``.

    Attributes:
        values: an 8-bit floating-point dtype ``[N, K]``.
        scales: float32 ``[ceil(N / block[0]), ceil(K / block[1])]``.
        block: rows and columns that share a scale: ``(N, K)`` for one scale in all, ``(1, K)`` for one a row.
        input_scale: float32, one for all activations; None if they are scaled as they come.
    """

    values: Tensor
    scales: Tensor
    block: tuple[int, int]
    input_scale: Tensor | None = None


@dataclass(frozen=True)
class CodebookWeight:
    """The packing ``codebook``: ``w[n, k] = scales[n, k // group] * codebook[codes[n, k]]``.

    NF4 and FP4 (Dettmers et al., 2023), and any format with up to 8 bits whose levels are not evenly spaced.

    Attributes:
        codes: uint8 ``[N, K]``.
        codebook: float32 ``[2 ** bits]``.
        scales: float32 or float16 ``[N, G]``.
        bits: of a code.
        group: columns that share a scale; ``G * group == K``.
    """

    codes: Tensor
    codebook: Tensor
    scales: Tensor
    bits: int
    group: int


E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of 4-bit floats with 2 bits of exponent and 1 of mantissa (OCP Microscaling Formats, 2023); the highest bit
is the sign.
"""


@dataclass(frozen=True)
class Float4Weight:
    """The packing ``float4``: ``w[n, k] = scale * scales[n, k // group] * e2m1(codes[n, k])``, as in OCP's microscaling (groups of
    32, scales that are powers of two) and in the form with two levels of scales (groups of 16, scales in 8-bit floats, one more for the whole matrix).

    Attributes:
        codes: uint8 ``[N, K / 2]``, two an entry; the even column is in the low half.
        scales: float8_e8m0fnu, float8_e4m3fn or float32 ``[N, G]``.
        group: columns that share a scale; ``G * group == K``.
        scale: float32, one for the whole matrix, or one a row ``[N]``; None for 1.
        input_scale: as in :class:`ScaledFloatWeight`.
    """

    codes: Tensor
    scales: Tensor
    group: int
    scale: Tensor | None = None
    input_scale: Tensor | None = None
