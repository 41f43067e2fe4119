"""Weights that describe their tensors are cut, joined and reordered like the matrix that they stand for."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dovetail.api import CheckpointError
from dovetail.nn import Axis, Field, StoredWeight
from dovetail.nn.dense import DenseWeight

SETTINGS = settings(max_examples=60, deadline=None)


@dataclass(frozen=True, eq=False)
class Layered(StoredWeight):
    """Codes of 4 bits, packed along the rows, the columns, or not at all, times scales of blocks.

    Attributes:
        codes: int32 ``[ceil(N / P), K]``, ``[N, ceil(K / P)]`` (P codes in an integer), or uint8 ``[N, K]``.
        scales: ``[ceil(N / block[0]), ceil(K / block[1])]``, turned round if ``turned``; a block of 0 is all.
        packed: the dimension along which codes are packed, or None.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None
    packed: int | None
    block: tuple[int, int]
    turned: bool

    def fields(self) -> dict[str, Field]:
        units = [8 if dim == self.packed else 1 for dim in (0, 1)]
        axes = [Axis(1 - dim if self.turned else dim, unit) if unit else None for dim, unit in enumerate(self.block)]
        found = {
            "codes": Field(self.codes, Axis(0, units[0]), Axis(1, units[1])),
            "scales": Field(self.scales, axes[0], axes[1]),
        }
        return found if self.bias is None else {**found, "bias": Field(self.bias, Axis(0, 4, 3))}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        n, k = self.shape
        values = self.codes
        if self.packed is not None:
            places = (values[..., None] >> torch.arange(0, 32, 4, dtype=torch.int32)) & 15  # [.., 8]
            values = places.flatten(1) if self.packed == 1 else places.transpose(1, 2).flatten(0, 1)
        scales = self.scales.t() if self.turned else self.scales
        for dim, unit in enumerate(self.block):
            if unit:
                scales = scales.repeat_interleave(unit, dim).narrow(dim, 0, self.shape[dim])
        dense = values[:n, :k] * scales
        if self.bias is not None:  # three numbers for four rows
            groups = self.bias.view(-1, 3).sum(1).repeat_interleave(4)[:n]
            dense = dense + groups[:, None]
        return dense.to(dtype)


def pack(codes: Tensor, dim: int) -> Tensor:
    """uint8 → int32 with 8 neighbours along a dimension; the last integer may be incomplete."""
    size = codes.shape[dim]
    padded = torch.zeros(*(math.ceil(s / 8) * 8 if d == dim else s for d, s in enumerate(codes.shape))).long()
    padded.narrow(dim, 0, size).copy_(codes)
    whole = sum(padded.unflatten(dim, (-1, 8)).select(dim + 1, i) << (4 * i) for i in range(8))
    assert isinstance(whole, Tensor)
    return torch.where(whole >= 2**31, whole - 2**32, whole).int()


@st.composite
def weights(draw: st.DrawFn) -> Layered:
    n, k = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    packed = draw(st.sampled_from((None, 0, 1)))
    block = (draw(st.sampled_from((0, 1, 4, 16))), draw(st.sampled_from((0, 1, 4, 16))))
    turned = draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 99)))
    codes = torch.randint(16, (n, k), dtype=torch.uint8)
    # Powers of two and small integers, so that every order of operations gives the same bits.
    sides = [math.ceil(size / unit) if unit else 1 for size, unit in zip((n, k), block, strict=True)]
    scales = 2.0 ** torch.randint(-3, 4, sides)
    bias = torch.randint(-9, 9, (3 * math.ceil(n / 4),)).float() if draw(st.booleans()) else None
    scale = draw(st.sampled_from((None, torch.tensor(0.5), torch.rand(k))))
    return Layered(
        shape=(n, k),
        type="layered",
        codes=codes if packed is None else pack(codes, packed),
        scales=scales.t().contiguous() if turned else scales,
        bias=bias,
        packed=packed,
        block=block,
        turned=turned,
        input_scale=scale,
    )


def unit_of(weight: StoredWeight, dim: int) -> int:
    units = [axis.unit for field in weight.fields().values() if (axis := field.axis(dim)) is not None]
    return math.lcm(*units)


def is_bound(weight: StoredWeight, dim: int, place: int) -> bool:
    return place % unit_of(weight, dim) == 0 or place == weight.shape[dim]


@SETTINGS
@given(weights(), st.data())
def test_a_cut_is_that_of_the_matrix_or_is_refused(weight: Layered, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, 1))
    start = data.draw(st.integers(0, weight.shape[dim] - 1))
    stop = data.draw(st.integers(start + 1, weight.shape[dim]))
    dense = weight.dense(torch.float32)
    if is_bound(weight, dim, start) and is_bound(weight, dim, stop):
        part = weight.narrow(dim, start, stop)
        assert torch.equal(part.dense(torch.float32), dense.narrow(dim, start, stop - start))
        if weight.input_scale is not None:
            wanted = weight.input_scale
            if dim == 1 and wanted.numel() > 1:
                wanted = wanted[start:stop]
            assert torch.equal(part.input_scale, wanted)  # type: ignore[arg-type]
    else:
        side = ("rows", "columns")[dim]
        with pytest.raises(CheckpointError, match=rf"cannot be cut at {side} {start} and {stop} of .* stored together"):
            weight.narrow(dim, start, stop)


@SETTINGS
@given(weights(), st.data())
def test_parts_give_the_whole_back(weight: Layered, data: st.DataObject) -> None:
    unit, n = unit_of(weight, 0), weight.shape[0]
    places = data.draw(st.sets(st.sampled_from(range(0, n + 1, unit)))) | {0, n}
    bounds = sorted(places)
    parts = [weight.narrow(0, a, b).compact() for a, b in itertools.pairwise(bounds)]
    joined = parts[0].join(parts)
    assert joined is not None
    assert torch.equal(joined.dense(torch.float32), weight.dense(torch.float32))
    for part in parts:
        assert all(f.data.untyped_storage().nbytes() == f.data.nbytes for f in part.all_fields().values())


@SETTINGS
@given(weights(), weights())
def test_what_is_joined_is_both(one: Layered, other: Layered) -> None:
    joined = one.join([one, other])
    if joined is not None:
        wanted = torch.cat([one.dense(torch.float32), other.dense(torch.float32)])
        assert torch.equal(joined.dense(torch.float32), wanted)
        assert joined.shape == tuple(wanted.shape)


@SETTINGS
@given(weights(), st.data())
def test_whole_groups_go_into_any_order(weight: Layered, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, 1))
    unit, size = unit_of(weight, dim), weight.shape[dim]
    full, rest = divmod(size, unit)
    groups = data.draw(st.lists(st.integers(0, full - 1), max_size=6)) if full else []
    order = [unit * group + i for group in groups for i in range(unit)]
    if rest and data.draw(st.booleans()):
        order += range(size - rest, size)
    if order:
        index = torch.tensor(order)
        found = weight.reorder(index, dim).dense(torch.float32)
        assert torch.equal(found, weight.dense(torch.float32).index_select(dim, index))


@SETTINGS
@given(weights(), st.data())
def test_an_order_is_that_of_the_matrix_or_is_refused(weight: Layered, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, 1))
    order = torch.tensor(data.draw(st.permutations(range(weight.shape[dim]))))
    try:
        found = weight.reorder(order, dim)
    except CheckpointError as error:
        assert unit_of(weight, dim) > 1
        assert "stored together" in error.problem  # noqa: PT017
    else:
        assert torch.equal(found.dense(torch.float32), weight.dense(torch.float32).index_select(dim, order))


@SETTINGS
@given(weights(), st.data())
def test_rows_and_selections_need_no_bounds(weight: Layered, data: st.DataObject) -> None:
    n = weight.shape[0]
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    dense = weight.dense(torch.float32)
    assert torch.equal(weight.rows(start, stop, torch.float32), dense[start:stop])
    ids = torch.tensor(data.draw(st.lists(st.integers(0, n - 1))), dtype=torch.int64)
    assert torch.equal(weight.take(ids, torch.float32), dense[ids])
    first = weight.first_rows()
    assert first.shape[0] == min(n, weight.row_unit)
    assert torch.equal(first.dense(torch.float32), dense[: first.shape[0]])


def blocks(n: int, k: int, size: int = 128) -> Layered:
    scales = 1 + torch.arange(math.ceil(n / size) * math.ceil(k / size)).view(-1, math.ceil(k / size)).float()
    return Layered((n, k), "layered", torch.ones(n, k).byte(), scales, None, None, (size, size), False)


def test_blocks_with_an_incomplete_last_one() -> None:
    weight = blocks(200, 300)
    part = weight.narrow(0, 128, 200).narrow(1, 256, 300)
    assert part.scales.tolist() == [[6.0]]
    assert torch.equal(part.dense(torch.float32), torch.full((72, 44), 6.0))
    assert weight.join([weight, weight]) is None  # the incomplete block would be in the middle
    joined = weight.join([weight.narrow(0, 0, 128), weight])
    assert joined is not None
    assert joined.scales[:, 0].tolist() == [1.0, 1.0, 4.0]
    with pytest.raises(CheckpointError, match="cannot be cut at rows 0 and 64 of 200: 128 of them are stored together"):
        weight.narrow(0, 0, 64)


def test_one_scale_for_all_stays_and_decides_about_joins() -> None:
    one = Layered((2, 4), "layered", torch.ones(2, 4).byte(), torch.full((1, 1), 2.0), None, None, (0, 0), False)
    other = Layered((2, 4), "layered", torch.ones(2, 4).byte(), torch.full((1, 1), 3.0), None, None, (0, 0), False)
    assert one.narrow(1, 1, 2).dense(torch.float32).tolist() == [[2.0], [2.0]]
    assert one.join([one, one]) is not None
    assert one.join([one, other]) is None


@pytest.mark.parametrize(
    ("a", "b"), [(None, torch.tensor(0.5)), (torch.tensor(0.25), torch.tensor(0.5)), (torch.tensor(0.5), torch.rand(4))]
)
def test_weights_with_other_scales_of_activations_are_not_joined(a: Tensor | None, b: Tensor | None) -> None:
    data = torch.ones(2, 4)
    one, other = (DenseWeight((2, 4), "float32", data, input_scale=scale) for scale in (a, b))
    assert one.join([one, other]) is None
    joined = other.join([other, other])
    assert joined is not None
    assert joined.input_scale is other.input_scale


def test_dtypes_are_not_mixed() -> None:
    one, other = DenseWeight.of(torch.ones(1, 2), "made-up"), DenseWeight.of(torch.ones(1, 2).half(), "made-up")
    assert one.join([one, other]) is None


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e8m0fnu, torch.int32])
def test_tensors_of_the_whole_are_compared_by_their_bits(dtype: torch.dtype) -> None:
    """Eight-bit floats cannot be compared as numbers."""

    def make(scale: float) -> Layered:
        scales = torch.full((1, 1), scale).to(dtype)
        return Layered((1, 4), "layered", torch.ones(1, 4).byte(), scales, None, None, (0, 0), False)

    assert make(2).join([make(2), make(2)]) is not None
    assert make(2).join([make(2), make(4)]) is None


def test_a_view_is_copied_alone() -> None:
    whole = torch.randn(8, 4)
    weight = DenseWeight.of(whole, "float32")
    assert weight.compact() is weight
    part = weight.narrow(0, 2, 4).compact()
    assert part.nbytes == part.data.untyped_storage().nbytes() == 32
    whole.zero_()
    assert part.data.abs().sum() > 0
