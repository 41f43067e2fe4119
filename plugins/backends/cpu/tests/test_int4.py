"""The 4-bit kernel over every width of code that it takes."""

from __future__ import annotations

import pytest
import torch
from dovetail_backends_cpu.int4 import Int4Kernel
from dovetail_backends_cpu.probes import int4 as probe

from dovetail.testing import AffineSample

pytestmark = pytest.mark.skipif(probe() is not None, reason=str(probe()))


def make(
    rows: int = 64,
    columns: int = 256,
    bits: int = 4,
    group: int = 32,
    signed: bool = False,
    mins: bool = True,
    ordered: bool = False,
) -> AffineSample:
    return AffineSample.random(rows, columns, bits=bits, group=group, mins=mins, signed=signed, ordered=ordered)


@pytest.mark.parametrize(
    ("bits", "signed", "mins", "ordered"),
    [
        (2, False, True, False),
        (4, False, True, False),
        (4, False, True, True),
        (4, True, False, False),
        (5, False, True, False),
        (6, True, False, False),
        (7, False, False, False),
        (8, True, False, False),
        (8, True, True, True),
    ],
)
@pytest.mark.parametrize("tokens", [1, 5, 70])
def test_products_are_those_of_the_dequantized_weight(
    bits: int, signed: bool, mins: bool, ordered: bool, tokens: int
) -> None:
    torch.manual_seed(0)
    weight = make(bits=bits, signed=signed, mins=mins, ordered=ordered)
    assert Int4Kernel.unsupported_reason(weight, "linear") is None
    x = torch.randn(tokens, 256).bfloat16()
    found = Int4Kernel(weight, "linear", torch.device("cpu"), torch.bfloat16)(x).double()
    wanted = x.double() @ weight.dense(torch.float32).double().T
    assert (found - wanted).norm() / wanted.norm() < 0.01


def test_a_weight_of_many_rows_is_packed_in_parts() -> None:
    weight = make(rows=4096 + 48, columns=64, mins=False)
    kernel = Int4Kernel(weight, "head", torch.device("cpu"), torch.bfloat16)
    x = torch.randn(2, 64).bfloat16()
    wanted = x.double() @ weight.dense(torch.float32).double().T
    assert (kernel(x).double() - wanted).norm() / wanted.norm() < 0.01


@pytest.mark.parametrize(
    ("weight", "reason"),
    [(make(rows=40), "multiple of 16"), (make(group=16), "groups of 16"), (make(bits=8), "do not split")],
    ids=["rows", "group", "unsigned"],
)
def test_what_it_cannot_take_it_declines_with_the_reason(weight: AffineSample, reason: str) -> None:
    declined = Int4Kernel.unsupported_reason(weight, "linear")
    assert declined is not None
    assert reason in declined
