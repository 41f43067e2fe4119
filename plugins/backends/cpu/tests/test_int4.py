"""The 4-bit kernel over every width of code that it takes."""

from __future__ import annotations

import pytest
import torch
from dovetail_backends_cpu.int4 import Int4Kernel
from dovetail_backends_cpu.probes import int4 as probe
from torch import Tensor

from dovetail.nn import AffineWeight
from dovetail.nn.dense import DenseWeight

pytestmark = pytest.mark.skipif(probe() is not None, reason=str(probe()))


class Packed(DenseWeight):
    """A weight that hands out the packing it was made with."""

    def __init__(self, packed: AffineWeight) -> None:
        self.packed = packed
        n, k = packed.codes.shape
        dense = packed.codes.view(n, -1, packed.group) * packed.scales[..., None]
        super().__init__((dense if packed.mins is None else dense + packed.mins[..., None]).view(n, k), "made-up")

    def pack(self, packing: str) -> AffineWeight:
        return self.packed

    def reorder(self, order: Tensor) -> Packed:
        p = self.packed
        mins = None if p.mins is None else p.mins[order]
        return Packed(AffineWeight(p.codes[order], p.scales[order], mins, p.bits, p.group))


def make(
    rows: int = 64, columns: int = 256, bits: int = 4, group: int = 32, signed: bool = False, mins: bool = True
) -> Packed:
    low = -(2 ** (bits - 1)) if signed else 0
    codes = torch.randint(low, low + 2**bits, (rows, columns)).to(torch.int8 if signed else torch.uint8)
    scales = torch.rand(rows, columns // group) * 0.1
    return Packed(AffineWeight(codes, scales, torch.randn(rows, columns // group) if mins else None, bits, group))


@pytest.mark.parametrize(
    ("bits", "signed", "mins"),
    [
        (2, False, True),
        (4, False, True),
        (4, True, False),
        (5, False, True),
        (6, True, False),
        (7, False, False),
        (8, True, False),
        (8, True, True),
    ],
)
@pytest.mark.parametrize("tokens", [1, 5, 70])
def test_products_are_those_of_the_dequantized_weight(bits: int, signed: bool, mins: bool, tokens: int) -> None:
    torch.manual_seed(bits)
    weight = make(bits=bits, signed=signed, mins=mins)
    assert Int4Kernel.unsupported_reason(weight, "linear") is None
    x = torch.randn(tokens, 256).bfloat16()
    found = Int4Kernel(weight, "linear", torch.device("cpu"), torch.bfloat16)(x).double()
    wanted = x.double() @ weight.data.double().T
    assert (found - wanted).norm() / wanted.norm() < 0.01


def test_a_weight_of_many_rows_is_packed_in_parts() -> None:
    weight = make(rows=4096 + 48, columns=64, mins=False)
    kernel = Int4Kernel(weight, "head", torch.device("cpu"), torch.bfloat16)
    x = torch.randn(2, 64).bfloat16()
    wanted = x.double() @ weight.data.double().T
    assert (kernel(x).double() - wanted).norm() / wanted.norm() < 0.01


@pytest.mark.parametrize(
    ("weight", "reason"),
    [(make(rows=40), "multiple of 16"), (make(group=16), "groups of 16"), (make(bits=8), "do not split")],
    ids=["rows", "group", "unsigned"],
)
def test_what_it_cannot_take_it_declines_with_the_reason(weight: Packed, reason: str) -> None:
    declined = Int4Kernel.unsupported_reason(weight, "linear")
    assert declined is not None
    assert reason in declined
