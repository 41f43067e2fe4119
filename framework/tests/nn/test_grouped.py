"""Packed integers, and weights of integers by group: what formats build on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dovetail.nn import Axis, Codes, Field, GroupedWeight, pack_integers, packed_axis, unpack_integers


def pack(codes: list[int], bits: int) -> list[int]:
    """Codes one after the other, lowest bits first, in signed words: by Python's integers."""
    whole = sum(code << bits * place for place, code in enumerate(codes))
    words = [whole >> 32 * word & 0xFFFFFFFF for word in range(len(codes) * bits // 32)]
    return [word - (1 << 32 if word >= 1 << 31 else 0) for word in words]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", [0, 1])
def test_codes_continue_from_word_to_word(bits: int, dim: int) -> None:
    axis = packed_axis(dim, bits)
    assert axis.unit * bits == axis.entries * 32
    codes = torch.randint(1 << bits, (3, 2 * axis.unit), generator=torch.Generator().manual_seed(bits))
    words = torch.tensor([pack(row, bits) for row in codes.tolist()], dtype=torch.int32)
    assert axis.length(codes.shape[1]) == words.shape[1]
    found = unpack_integers(words if dim else words.t(), bits, dim)
    assert found.dtype == torch.uint8
    assert torch.equal(found if dim else found.t(), codes.to(torch.uint8))
    again = pack_integers(found, bits, dim)
    assert again.dtype == torch.int32
    assert torch.equal(again if dim else again.t(), words)


@dataclass(frozen=True, eq=False, kw_only=True)
class PlainWeight(GroupedWeight):
    codes: Tensor
    scales: Tensor
    zeros: float | Tensor

    def fields(self) -> dict[str, Field]:
        raise NotImplementedError

    def unpack(self) -> Codes:
        return Codes(self.codes, self.scales, self.zeros)


def plain(
    codes: Tensor, scales: Tensor, zeros: float | Tensor, group: int, groups: Tensor | None = None
) -> PlainWeight:
    shape = (codes.shape[0], codes.shape[1])
    return PlainWeight(
        shape=shape, type="x", bits=4, group=group, groups=groups, codes=codes, scales=scales, zeros=zeros
    )


CODES = torch.randint(16, (5, 12), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def unpacked(weight: PlainWeight) -> Tensor:
    packed = weight.pack("affine")
    assert packed is not None
    dense = packed.codes.float().unflatten(1, (-1, packed.group)) * packed.scales.float()[..., None]
    if packed.mins is not None:
        dense += packed.mins[..., None]
    dense = dense.flatten(1)
    return dense if packed.order is None else torch.empty_like(dense).index_copy_(1, packed.order, dense)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("zeros", [0, 3, 8, 8.0, 1.5, "each"])
def test_a_code_less_its_zero_point_times_its_scale(dtype: torch.dtype, zeros: float | str) -> None:
    scales = torch.tensor([0.5, 2.0, 1.0]).expand(5, 3).to(dtype)
    points = torch.tensor([1.0, 15.0, 7.0]).expand(5, 3)
    weight = plain(CODES, scales, points if isinstance(zeros, str) else zeros, 4)
    expected = torch.tensor(
        [
            [
                (int(code) - ([1, 15, 7][k // 4] if isinstance(zeros, str) else zeros)) * [0.5, 2.0, 1.0][k // 4]
                for k, code in enumerate(row)
            ]
            for row in CODES
        ]
    )
    assert torch.equal(weight.dequantize(torch.float32), expected)
    assert torch.equal(unpacked(weight), expected)


def test_zero_points_in_the_middle_become_codes_with_a_sign() -> None:
    packed = plain(CODES, torch.ones(5, 3), 8, 4).pack("affine")
    assert packed is not None
    assert packed.mins is None
    assert torch.equal(packed.codes.int(), CODES.int() - 8)


def test_codes_with_a_sign_of_their_own() -> None:
    signed = (CODES.int() - 8).to(torch.int8)
    weight = plain(signed, torch.full((5, 1), 2.0), 0, 12)
    assert torch.equal(weight.dequantize(torch.float32), signed.float() * 2)
    assert torch.equal(unpacked(weight), signed.float() * 2)


def test_groups_that_do_not_fill_the_rows_share_scales() -> None:
    weight = plain(CODES, torch.tensor([[1.0, 4.0]]).expand(5, 2), 0, 8)
    assert torch.equal(unpacked(weight), weight.dequantize(torch.float32))
    packed = weight.pack("affine")
    assert packed is not None
    assert (packed.group, packed.scales.tolist()[0]) == (4, [1.0, 1.0, 4.0])


def test_columns_of_a_group_that_are_no_neighbours_are_put_together() -> None:
    groups = torch.tensor([2, 0, 1] * 4, dtype=torch.int32)
    weight = plain(CODES, torch.tensor([[1.0, 2.0, 4.0]]).expand(5, 3), 8, 4, groups)
    assert torch.equal(weight.dequantize(torch.float32), (CODES.float() - 8) * torch.tensor([4.0, 1.0, 2.0] * 4))
    assert torch.equal(unpacked(weight), weight.dequantize(torch.float32))


def test_a_part_with_more_columns_of_one_group_than_of_another_has_no_packing() -> None:
    for groups in ([0] * 5 + [1] * 7, [0] * 4 + [1] * 4 + [2] * 3):
        codes = CODES[:, : len(groups)]
        weight = plain(codes, torch.ones(5, 3), 8, 4, torch.tensor(groups, dtype=torch.int32))
        assert weight.pack("affine") is None


def test_one_scale_a_row_is_that_of_all_columns_that_a_cut_leaves() -> None:
    weight = plain(CODES[:, :6], torch.full((5, 1), 3.0), 8, 12)
    assert torch.equal(weight.dequantize(torch.float32), (CODES[:, :6].float() - 8) * 3)


def test_an_axis_of_packed_integers() -> None:
    assert packed_axis(1, 4) == Axis(1, 8, 1)
    assert packed_axis(0, 3) == Axis(0, 32, 3)
