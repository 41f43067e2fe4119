"""The packings: named interchange forms of weights, which formats convert to and kernels take.

Each is exact for the formats that offer it. Dtypes and shapes are checked when one is made, so that a format which makes
a wrong one is told there, and no kernel has to check; what the codes are is not looked at. Letters: N rows, K columns,
G groups in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HALF_OR_SINGLE = (torch.float16, torch.float32)


@dataclass(frozen=True)
class TwoLevelScales:
    """Scales ``[N, G]`` in two levels, as in K-quants: small integers, multiplied by one float per group of
    neighbours in a row.

    It supports slicing by rows, ``to`` and ``float``, as a tensor does. Formats with small groups store their scales
    this way, which takes a quarter of the memory of float32.

    Attributes:
        units: float16 or float32 ``[N, S]``, S a divisor of G.
        codes: uint8 or int8 ``[N, G]``.

    Raises:
        ValueError: a tensor is of another dtype or shape.
    """

    units: Tensor
    codes: Tensor

    def __post_init__(self) -> None:
        _check_dtype("units of scales", self.units, HALF_OR_SINGLE)
        _check_dtype("codes of scales", self.codes, (torch.uint8, torch.int8))
        n, groups = _matrix("codes of scales", self.codes)
        rows, units = _matrix("units of scales", self.units)
        if rows != n or units < 1 or groups % units:
            raise ValueError(f"units of scales are {[rows, units]}, wanted [{n}, S], S a divisor of {groups}")

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

    Raises:
        ValueError: a tensor is of another dtype or shape, or the groups do not fill the rows.
    """

    codes: Tensor
    scales: Tensor | TwoLevelScales
    mins: Tensor | TwoLevelScales | None
    bits: int
    group: int
    order: Tensor | None = None

    def __post_init__(self) -> None:
        _check_dtype("affine codes", self.codes, (torch.uint8, torch.int8))
        n, k = _matrix("affine codes", self.codes)
        if self.bits not in range(1, 9):
            raise ValueError(f"affine codes are of {self.bits} bits, wanted 1 to 8")
        wanted = _group_shape("affine", n, k, self.group)
        for name, values in (("scales", self.scales), ("mins", self.mins)):
            if values is not None:
                _check_shape(f"affine {name}", values, wanted)
                if isinstance(values, Tensor):
                    _check_dtype(f"affine {name}", values, HALF_OR_SINGLE)
        if self.order is not None:
            _check_dtype("an affine order", self.order, (torch.int64,))
            _check_shape("an affine order", self.order, (k,))


@dataclass(frozen=True)
class ScaledFloatWeight:
    """The packing ``scaled_float``: ``w[n, k] = values[n, k] * scales[n // block[0], k // block[1]]``.

    Attributes:
        values: an 8-bit floating-point dtype ``[N, K]``.
        scales: float32 ``[ceil(N / block[0]), ceil(K / block[1])]``.
        block: rows and columns that share a scale: ``(N, K)`` for one scale in all, ``(1, K)`` for one a row.
        input_scale: float32, one for all activations; None if they are scaled as they come.

    Raises:
        ValueError: a tensor is of another dtype or shape.
    """

    values: Tensor
    scales: Tensor
    block: tuple[int, int]
    input_scale: Tensor | None = None

    def __post_init__(self) -> None:
        n, k = _matrix("scaled_float values", self.values)
        if not self.values.is_floating_point() or self.values.dtype.itemsize != 1:
            raise ValueError(
                f"scaled_float values: the dtype is {_name(self.values)}, wanted an 8-bit floating-point dtype"
            )
        rows, columns = self.block
        if min(rows, columns) < 1:
            raise ValueError(f"a scaled_float block is {rows} x {columns}, wanted at least one row and column")
        _check_dtype("scaled_float scales", self.scales, (torch.float32,))
        _check_shape("scaled_float scales", self.scales, (-(-n // rows), -(-k // columns)))
        _check_input_scale(self.input_scale)


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

    Raises:
        ValueError: a tensor is of another dtype or shape, or the groups do not fill the rows.
    """

    codes: Tensor
    codebook: Tensor
    scales: Tensor
    bits: int
    group: int

    def __post_init__(self) -> None:
        _check_dtype("codebook codes", self.codes, (torch.uint8,))
        n, k = _matrix("codebook codes", self.codes)
        if self.bits not in range(1, 9):
            raise ValueError(f"codebook codes are of {self.bits} bits, wanted 1 to 8")
        _check_dtype("a codebook", self.codebook, (torch.float32,))
        _check_shape("a codebook", self.codebook, (2**self.bits,))
        _check_dtype("codebook scales", self.scales, HALF_OR_SINGLE)
        _check_shape("codebook scales", self.scales, _group_shape("codebook", n, k, self.group))


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

    Raises:
        ValueError: a tensor is of another dtype or shape, or the groups do not fill the rows.
    """

    codes: Tensor
    scales: Tensor
    group: int
    scale: Tensor | None = None
    input_scale: Tensor | None = None

    def __post_init__(self) -> None:
        _check_dtype("float4 codes", self.codes, (torch.uint8,))
        n, half = _matrix("float4 codes", self.codes)
        _check_dtype("float4 scales", self.scales, (torch.float8_e8m0fnu, torch.float8_e4m3fn, torch.float32))
        _check_shape("float4 scales", self.scales, _group_shape("float4", n, 2 * half, self.group))
        if self.scale is not None:
            _check_dtype("the scale of a float4 matrix", self.scale, (torch.float32,))
            if self.scale.numel() not in (1, n):
                raise ValueError(
                    f"the scale of a float4 matrix is {list(self.scale.shape)}, wanted one number or [{n}]"
                )
        _check_input_scale(self.input_scale)


def _name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _check_dtype(what: str, value: Tensor, wanted: Sequence[torch.dtype]) -> None:
    if value.dtype not in wanted:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in wanted)
        raise ValueError(f"{what}: the dtype is {_name(value)}, wanted {names}")


def _check_shape(what: str, value: Tensor | TwoLevelScales, wanted: tuple[int, ...]) -> None:
    if tuple(value.shape) != wanted:
        raise ValueError(f"{what}: the shape is {list(value.shape)}, wanted {list(wanted)}")


def _matrix(what: str, value: Tensor) -> tuple[int, int]:
    """
    Raises:
        ValueError: it has another number of dimensions than two.
    """
    if value.dim() != 2:
        raise ValueError(f"{what}: the shape is {list(value.shape)}, wanted a matrix")
    return value.shape[0], value.shape[1]


def _group_shape(packing: str, n: int, k: int, group: int) -> tuple[int, int]:
    """``(N, G)``.

    Raises:
        ValueError: groups of this size do not fill K columns.
    """
    if group < 1 or k % group:
        raise ValueError(f"{packing}: a group of {group} columns does not divide {k} columns")
    return n, k // group


def _check_input_scale(scale: Tensor | None) -> None:
    if scale is not None:
        _check_dtype("the scale of activations", scale, (torch.float32,))


PACKINGS: dict[str, type] = {
    "affine": AffineWeight,
    "scaled_float": ScaledFloatWeight,
    "codebook": CodebookWeight,
    "float4": Float4Weight,
}
"""Name of a shared packing → its class. Plugins may have packings of their own besides."""
