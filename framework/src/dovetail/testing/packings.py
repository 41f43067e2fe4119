"""Weights in the framework's own packings, for tests of kernels, and what each packing stands for.

Letters: N rows, K columns, G groups in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dovetail.nn import (
    AffineWeight,
    Axis,
    CodebookWeight,
    Field,
    Float4Weight,
    ScaledFloatWeight,
    StoredWeight,
    TwoLevelScales,
)
from dovetail.nn.dense import DenseWeight
from dovetail.nn.packings import E2M1

NF4 = (
    *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
)
"""Quantiles of a normal distribution (Dettmers et al., 2023)."""


def unpack_affine(packed: AffineWeight) -> Tensor:
    """The matrix ``[N, K]`` of an affine packing, float32. Also checks its codes, which the packing itself does not."""
    codes, mins, group = packed.codes, packed.mins, packed.group
    n, k = codes.shape
    low, high = (
        (0, 2**packed.bits - 1)
        if codes.dtype == torch.uint8
        else (-(2 ** (packed.bits - 1)), 2 ** (packed.bits - 1) - 1)
    )
    assert low <= int(codes.min()) <= int(codes.max()) <= high, f"affine codes do not fit in {packed.bits} bits"
    dense = codes.view(n, -1, group).float() * packed.scales.float()[..., None]  # [N, G, group]
    dense = (dense if mins is None else dense + mins.float()[..., None]).view(n, k)
    if packed.order is None:
        return dense
    order = packed.order
    assert order.sort().values.tolist() == list(range(k)), f"an affine order does not name each of {k} columns once"
    return torch.empty_like(dense).index_copy_(1, order, dense)


def unpack_dense(packed: Tensor) -> Tensor:
    return packed.float()


def unpack_scaled_float(packed: ScaledFloatWeight) -> Tensor:
    """The same of ``scaled_float``."""
    values, scales, (rows, columns) = packed.values, packed.scales, packed.block
    n, k = values.shape
    return values.float() * scales.repeat_interleave(rows, 0)[:n].repeat_interleave(columns, 1)[:, :k]


def unpack_codebook(packed: CodebookWeight) -> Tensor:
    """The same of ``codebook``."""
    codes = packed.codes
    n, k = codes.shape
    assert int(codes.max()) < 2**packed.bits, f"codebook codes do not fit in {packed.bits} bits"
    values = packed.codebook[codes.long()]
    return (values.view(n, -1, packed.group) * packed.scales.float()[..., None]).view(n, k)


def unpack_float4(packed: Float4Weight) -> Tensor:
    """The same of ``float4``."""
    codes, scales = packed.codes, packed.scales.float()
    n, k = codes.shape[0], 2 * codes.shape[1]
    nibbles = torch.stack((codes & 15, codes >> 4), -1).view(n, k).long()
    values = torch.tensor(E2M1, device=codes.device)[nibbles & 7] * (1 - 2 * (nibbles >> 3))
    factors = scales if packed.scale is None else scales * packed.scale.float().view(-1, 1)
    return (values.view(n, -1, packed.group) * factors[..., None]).view(n, k)


UNPACK: dict[str, Callable[[Any], Tensor]] = {
    "affine": unpack_affine,
    "codebook": unpack_codebook,
    "dense": unpack_dense,
    "float4": unpack_float4,
    "scaled_float": unpack_scaled_float,
}
"""Packing → its matrix ``[N, K]``."""


@dataclass(frozen=True, eq=False)
class AffineSample(StoredWeight):
    """Random codes with random scales, for kernels that support the packing ``affine``.

    Attributes:
        scale_units, min_units: of scales in two levels, whose codes are ``scales`` and ``mins``.
        order: of the columns. A weight with one cannot be cut by columns.
    """

    codes: Tensor
    scales: Tensor
    mins: Tensor | None
    scale_units: Tensor | None
    min_units: Tensor | None
    order: Tensor | None
    bits: int
    group: int

    @classmethod
    def of(cls, packed: AffineWeight) -> AffineSample:
        n, k = packed.codes.shape
        (scales, scale_units), (mins, min_units) = _levels(packed.scales), _levels(packed.mins)
        assert scales is not None
        return cls(
            shape=(n, k),
            type="affine",
            codes=packed.codes,
            scales=scales,
            mins=mins,
            scale_units=scale_units,
            min_units=min_units,
            order=packed.order,
            bits=packed.bits,
            group=packed.group,
        )

    @classmethod
    def random(
        cls, n: int, k: int, *, bits: int, group: int, mins: bool, signed: bool, ordered: bool = False
    ) -> AffineSample:
        generator = torch.Generator().manual_seed(n + k + bits)
        low = -(2 ** (bits - 1)) if signed else 0
        codes = torch.randint(low, low + 2**bits, (n, k), generator=generator)
        scales = (0.5 + torch.rand(n, k // group, generator=generator)) / 2**bits
        offsets = -scales * torch.rand(n, k // group, generator=generator) * 2**bits if mins else None
        order = torch.randperm(k, generator=generator) if ordered else None
        dtype = torch.int8 if signed else torch.uint8
        return cls.of(AffineWeight(codes.to(dtype), scales, offsets, bits, group, order))

    def with_two_level_scales(self) -> AffineSample:
        """A similar weight, with scales and minimums that are small integers times a number for each row."""

        def split(values: Tensor) -> TwoLevelScales:
            units = values.abs().amax(-1, keepdim=True) / 63
            return TwoLevelScales(units.half(), (values / units).round().to(torch.int8))

        mins = None if self.mins is None else split(self.mins)
        return AffineSample.of(replace(self.packed, scales=split(self.scales), mins=mins))

    @property
    def packed(self) -> AffineWeight:
        mins = None if self.mins is None else _join_levels(self.mins, self.min_units)
        scales = _join_levels(self.scales, self.scale_units)
        return AffineWeight(self.codes, scales, mins, self.bits, self.group, self.order)

    def fields(self) -> dict[str, Field]:
        k = self.shape[1]
        tensors = {name: getattr(self, name) for name in ("codes", "scales", "mins", "scale_units", "min_units")}
        found = {}
        for name, data in tensors.items():
            if data is not None:
                count = data.shape[1]
                columns = Axis(1, k // count) if self.order is None else Axis(1, k, count)
                found[name] = Field(data, Axis(0), columns)
        if self.order is not None:
            found["order"] = Field(self.order, columns=Axis(0, k, k))
        return found

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return unpack_affine(self.packed).to(dtype)

    def pack(self, packing: str) -> AffineWeight | None:
        return self.packed if packing == "affine" else None


def _levels(values: Tensor | TwoLevelScales | None) -> tuple[Tensor | None, Tensor | None]:
    return (values.codes, values.units) if isinstance(values, TwoLevelScales) else (values, None)


def _join_levels(values: Tensor, units: Tensor | None) -> Tensor | TwoLevelScales:
    return values if units is None else TwoLevelScales(units, values)


@dataclass(frozen=True, eq=False)
class ScaledFloatSample(StoredWeight):
    """Random 8-bit floats, for kernels that support the packing ``scaled_float``.

    Attributes:
        block: as in the packing; (0, 0) for one scale in all, (1, 0) for one a row.
    """

    values: Tensor
    scales: Tensor
    block: tuple[int, int]

    @classmethod
    def random(
        cls,
        n: int,
        k: int,
        *,
        block: tuple[int, int],
        dtype: torch.dtype = torch.float8_e4m3fn,
        input_scale: float | None = None,
    ) -> ScaledFloatSample:
        generator = torch.Generator().manual_seed(n + k)
        rows, columns = block[0] or n, block[1] or k
        values = (8 * torch.randn(n, k, generator=generator)).to(dtype)
        scales = (0.5 + torch.rand(-(-n // rows), -(-k // columns), generator=generator)) / 8
        scale = None if input_scale is None else torch.tensor(input_scale)
        return cls((n, k), "scaled_float", values, scales, block, input_scale=scale)

    def fields(self) -> dict[str, Field]:
        rows, columns = (Axis(dim, unit) if unit else None for dim, unit in enumerate(self.block))
        return {"values": Field(self.values, Axis(0), Axis(1)), "scales": Field(self.scales, rows, columns)}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        packed = self.pack("scaled_float")
        assert packed is not None
        return unpack_scaled_float(packed).to(dtype)

    def pack(self, packing: str) -> ScaledFloatWeight | None:
        if packing != "scaled_float":
            return None
        block = (self.block[0] or self.shape[0], self.block[1] or self.shape[1])
        return ScaledFloatWeight(self.values, self.scales, block, self.input_scale)


@dataclass(frozen=True, eq=False)
class CodebookSample(StoredWeight):
    """Random codes, for kernels that support the packing ``codebook``."""

    codes: Tensor
    codebook: Tensor
    scales: Tensor
    bits: int
    group: int

    @classmethod
    def random(cls, n: int, k: int, *, bits: int, group: int) -> CodebookSample:
        generator = torch.Generator().manual_seed(n + k)
        codes = torch.randint(2**bits, (n, k), generator=generator, dtype=torch.uint8)
        codebook = torch.tensor(NF4) if bits == 4 else torch.randn(2**bits, generator=generator)
        scales = 0.5 + torch.rand(n, k // group, generator=generator)
        return cls((n, k), "codebook", codes, codebook, scales, bits, group)

    def fields(self) -> dict[str, Field]:
        return {
            "codes": Field(self.codes, Axis(0), Axis(1)),
            "codebook": Field(self.codebook),
            "scales": Field(self.scales, Axis(0), Axis(1, self.group)),
        }

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return unpack_codebook(self._packed()).to(dtype)

    def pack(self, packing: str) -> CodebookWeight | None:
        return self._packed() if packing == "codebook" else None

    def _packed(self) -> CodebookWeight:
        return CodebookWeight(self.codes, self.codebook, self.scales, self.bits, self.group)


@dataclass(frozen=True, eq=False)
class Float4Sample(StoredWeight):
    """Random codes, for kernels that support the packing ``float4``."""

    codes: Tensor
    scales: Tensor
    group: int
    scale: Tensor | None

    @classmethod
    def random(cls, n: int, k: int, *, group: int, dtype: torch.dtype, scale: int = 0) -> Float4Sample:
        """
        Args:
            dtype: of the scales of groups.
            scale: numbers in the scale of the matrix: none, 1, or N.
        """
        generator = torch.Generator().manual_seed(n + k)
        codes = torch.randint(256, (n, k // 2), generator=generator, dtype=torch.uint8)
        scales = torch.exp2(torch.randint(-3, 3, (n, k // group), generator=generator).float())
        if dtype != torch.float8_e8m0fnu:
            scales *= 1 + torch.randint(8, scales.shape, generator=generator) / 8
        whole = 0.01 * (1 + torch.rand(scale, generator=generator)) if scale else None
        return cls((n, k), "float4", codes, scales.to(dtype), group, whole)

    def fields(self) -> dict[str, Field]:
        found = {
            "codes": Field(self.codes, Axis(0), Axis(1, 2)),
            "scales": Field(self.scales, Axis(0), Axis(1, self.group)),
        }
        if self.scale is not None:
            found["scale"] = Field(self.scale, Axis(0) if self.scale.numel() > 1 else None)
        return found

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return unpack_float4(self._packed()).to(dtype)

    def pack(self, packing: str) -> Float4Weight | None:
        return self._packed() if packing == "float4" else None

    def _packed(self) -> Float4Weight:
        return Float4Weight(self.codes, self.scales, self.group, self.scale, self.input_scale)


def sample_weights(packing: str) -> list[StoredWeight]:
    """Weights in one of the framework's own packings, in even and odd shapes; empty for other packings."""
    if packing == "affine":
        flat = [
            AffineSample.random(64, 128, bits=4, group=32, mins=False, signed=False),
            AffineSample.random(37, 96, bits=4, group=32, mins=True, signed=False),
            AffineSample.random(33, 80, bits=3, group=16, mins=True, signed=False),
            AffineSample.random(1, 64, bits=8, group=64, mins=False, signed=True),
            AffineSample.random(31, 192, bits=8, group=32, mins=True, signed=False),
        ]
        ordered = [
            AffineSample.random(64, 128, bits=4, group=32, mins=True, signed=False, ordered=True),
            AffineSample.random(29, 96, bits=4, group=32, mins=False, signed=True, ordered=True),
        ]
        return [*flat, *ordered, flat[0].with_two_level_scales(), flat[2].with_two_level_scales()]
    if packing == "scaled_float":
        return [
            ScaledFloatSample.random(64, 128, block=(0, 0), input_scale=0.5),
            ScaledFloatSample.random(37, 96, block=(1, 0)),
            ScaledFloatSample.random(256, 384, block=(128, 128)),
            ScaledFloatSample.random(200, 300, block=(128, 128)),
            ScaledFloatSample.random(9, 33, block=(0, 0), dtype=torch.float8_e5m2),
        ]
    if packing == "codebook":
        return [
            CodebookSample.random(64, 128, bits=4, group=64),
            CodebookSample.random(37, 63, bits=4, group=21),
            CodebookSample.random(5, 32, bits=3, group=32),
            CodebookSample.random(33, 64, bits=8, group=32),
        ]
    if packing == "float4":
        return [
            Float4Sample.random(64, 128, group=32, dtype=torch.float8_e8m0fnu),
            Float4Sample.random(37, 96, group=16, dtype=torch.float8_e4m3fn, scale=1),
            Float4Sample.random(33, 64, group=32, dtype=torch.float32, scale=33),
        ]
    if packing in ("dense", "*"):
        generator = torch.Generator().manual_seed(0)
        shapes = ((64, 128), (37, 96), (1, 33), (129, 7))
        dense = [torch.randn(n, k, generator=generator) for n, k in shapes]
        dense.append(torch.randn(96, 37, generator=generator).t())  # as full-precision checkpoints transpose it
        found: list[StoredWeight] = [DenseWeight.of(data, "float32") for data in dense]
        if packing == "*":
            found += [ScaledFloatSample.random(200, 300, block=(128, 128)), sample_weights("affine")[5]]
        return found
    return []
