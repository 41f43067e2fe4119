"""Weights: rows, selections, joins, the affine packing, and what is refused."""

from __future__ import annotations

import pytest
import torch
from dovetail_quant_gguf import AFFINE_TYPES
from dovetail_quant_gguf.format import CHUNK, GgufFormat, GgufWeight
from dovetail_quant_gguf.types import TYPES

from dovetail.api import CheckpointError
from dovetail.nn import AffineWeight, WeightName
from dovetail.nn.affine import AffineKernel
from dovetail.nn.dense import DequantizeKernel

from .blocks import ENCODED, gaussian_rows, lazy, oracle, random_rows

CPU = torch.device("cpu")
WEIGHT = WeightName("model.layers.0.mlp.up_proj", "linear")


def load(name: str, data: torch.Tensor, shape: tuple[int, ...]) -> GgufWeight:
    return GgufFormat({}).load(WEIGHT, {".weight": lazy(name, data, shape)}, CPU, torch.float32)


@pytest.fixture(params=TYPES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_rows(name: str) -> None:
    data = random_rows(name, 13, 512)
    weight, wanted = load(name, data, (13, 512)), oracle(name, data)
    assert weight.shape == (13, 512)
    assert weight.type == name
    assert weight.nbytes == data.nbytes
    assert weight.data.data_ptr() == data.data_ptr()  # a mapped file stays mapped
    assert torch.equal(weight.dense(torch.float32), wanted)
    assert torch.equal(weight.rows(3, 8, torch.float32), wanted[3:8])
    assert weight.rows(4, 4, torch.float32).shape == (0, 512)
    assert torch.equal(weight.rows(3, 8, torch.bfloat16), wanted[3:8].to(torch.bfloat16))


def test_more_rows_than_are_unpacked_at_once() -> None:
    rows = 2 * CHUNK // 2048 + 3
    data = random_rows("q4_k", rows, 2048)
    weight, wanted = load("q4_k", data, (rows, 2048)), oracle("q4_k", data)
    assert torch.equal(weight.dense(torch.float32), wanted)
    packed = weight.pack("affine")
    assert packed is not None
    assert packed.codes.shape == (rows, 2048)
    assert torch.equal(dense(packed), wanted)


def test_take(name: str) -> None:
    data = random_rows(name, 11, 256)
    weight, wanted = load(name, data, (11, 256)), oracle(name, data)
    ids = torch.tensor([10, 0, 3, 3])
    assert torch.equal(weight.take(ids, torch.float32), wanted[ids])
    assert weight.take(ids[:0], torch.float32).shape == (0, 256)


def test_reordered(name: str) -> None:
    data = random_rows(name, 9, 256)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    got = load(name, data, (9, 256)).reorder(order)
    assert torch.equal(got.dense(torch.float32), oracle(name, data)[order])


def test_join(name: str) -> None:
    parts = [load(name, random_rows(name, n, 256, seed=n), (n, 256)) for n in (3, 1, 4)]
    joined = GgufWeight.join(parts)
    assert joined is not None
    assert joined.shape == (8, 256)
    assert torch.equal(joined.dense(torch.float32), torch.cat([p.dense(torch.float32) for p in parts]))


def test_join_declines() -> None:
    a = load("q4_k", random_rows("q4_k", 2, 256), (2, 256))
    assert GgufWeight.join([a, load("q6_k", random_rows("q6_k", 2, 256), (2, 256))]) is None
    assert GgufWeight.join([a, load("q4_k", random_rows("q4_k", 2, 512), (2, 512))]) is None


def dense(packed: AffineWeight) -> torch.Tensor:
    """float32 ``[N, K]``, by the definition of the packing."""
    groups = packed.codes.float().unflatten(-1, (-1, packed.group))
    groups = packed.scales.float()[..., None] * groups
    if packed.mins is not None:
        groups = groups + packed.mins.float()[..., None]
    return groups.flatten(-2)


def test_affine_exactly(name: str) -> None:
    data = random_rows(name, 7, 512)
    packed = load(name, data, (7, 512)).pack("affine")
    if name not in AFFINE_TYPES:
        assert packed is None
        return
    assert packed is not None
    assert torch.equal(dense(packed), oracle(name, data))
    assert packed.group * packed.scales.shape[1] == 512
    least = 0 if packed.codes.dtype == torch.uint8 else -(2 ** (packed.bits - 1))
    assert least <= int(packed.codes.min())
    assert int(packed.codes.max()) < least + 2**packed.bits


def test_other_packings_are_unknown() -> None:
    assert load("q4_0", random_rows("q4_0", 1, 32), (1, 32)).pack("marlin") is None


@pytest.mark.parametrize("name", AFFINE_TYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 3, 33])
def test_affine_kernel_agrees_with_the_reference(name: str, dtype: torch.dtype, tokens: int) -> None:
    data = (gaussian_rows if name in ENCODED else random_rows)(name, 37, 512)
    weight = load(name, data, (37, 512))
    x = torch.randn(tokens, 512, generator=torch.Generator().manual_seed(2)).to(dtype)
    got = AffineKernel(weight, "linear", CPU, dtype)(x)
    wanted = DequantizeKernel(weight, "linear", CPU, torch.float32)(x.float())
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype]
    assert got.dtype == dtype
    assert got.shape == (tokens, 37)
    assert (got.float() - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_affine_kernel_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dovetail.nn.affine.SLICE", 5 * 256)
    weight = load("q2_k", random_rows("q2_k", 23, 256), (23, 256))
    x = torch.randn(2, 3, 256, generator=torch.Generator().manual_seed(3))
    got = AffineKernel(weight, "linear", CPU, torch.float32)(x)
    wanted = x @ weight.dense(torch.float32).t()
    assert got.shape == (2, 3, 23)
    assert (got - wanted).abs().max() <= 2e-6 * wanted.abs().max()


def test_affine_kernel_with_columns_that_codes_cannot_share() -> None:
    class Odd:
        shape = (4, 33)

        def pack(self, packing: str) -> AffineWeight:
            codes = torch.arange(4 * 33, dtype=torch.uint8).view(4, 33) % 16
            return AffineWeight(codes, torch.ones(4, 3), torch.full((4, 3), 0.5), bits=4, group=11)

    got = AffineKernel(Odd(), "linear", CPU, torch.float32)(torch.eye(33))  # type: ignore[arg-type]
    assert torch.equal(got.t(), Odd().pack("affine").codes + 0.5)


@pytest.mark.parametrize(
    ("name", "limit"), [("q4_0", 1.01), ("q4_1", 1.01), ("q8_0", 1.01), ("q4_k", 1.05), ("q2_k", 1.2)]
)
def test_affine_kernel_stays_near_the_stored_size(name: str, limit: float) -> None:
    weight = load(name, random_rows(name, 16, 512), (16, 512))
    assert AffineKernel(weight, "linear", CPU, torch.float32).nbytes <= limit * weight.nbytes


class TestRefused:
    def test_bytes_that_contradict_the_shape(self) -> None:
        with pytest.raises(CheckpointError, match=r"blk.0.ffn_up.weight \(q4_0, 4 x 64\) should be 4 rows of 36 bytes"):
            load("q4_0", random_rows("q4_0", 4, 32), (4, 64))

    def test_something_that_is_not_bytes(self) -> None:
        with pytest.raises(CheckpointError, match=r"blk.0.ffn_up.weight .* torch.float32"):
            load("q4_0", torch.zeros(4, 18), (4, 32))

    def test_columns_that_are_not_whole_blocks(self) -> None:
        with pytest.raises(CheckpointError, match=r"blk.0.ffn_up.weight has 320 columns, .* blocks of 256"):
            load("q4_k", random_rows("q4_k", 4, 256), (4, 320))

    def test_not_a_matrix(self) -> None:
        with pytest.raises(CheckpointError, match=r"blk.0.ffn_up.weight .* shape \[2, 4, 32\]"):
            load("q4_0", random_rows("q4_0", 8, 32), (2, 4, 32))

    def test_an_unknown_type(self) -> None:
        with pytest.raises(CheckpointError, match=r"blk.0.ffn_up.weight is of type q9_z, wanted one of q4_0"):
            load("q9_z", random_rows("q4_0", 4, 32), (4, 32))

    @pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E01])
    def test_a_scale_that_is_not_finite(self, bits: int) -> None:
        data = random_rows("q4_1", 5, 64)
        data[3, 22], data[3, 23] = bits & 255, bits >> 8  # the second block's minimum
        with pytest.raises(CheckpointError, match=r"blk.0.ffn_up.weight \(q4_1\) holds a scale .* in row 3"):
            load("q4_1", data, (5, 64))
