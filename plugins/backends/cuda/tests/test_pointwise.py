"""Norms and gates in Triton. Without a GPU, in its interpreter."""

from __future__ import annotations

import pytest
import torch

from dovetail.nn.ops import REFERENCES
from dovetail.testing.platforms import SAMPLES, check_operation

pytest.importorskip("triton")

from dovetail_backends_cuda.pointwise import OPERATIONS, copy

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_they_do_what_the_references_do(name: str, dtype: torch.dtype) -> None:
    if name == "rms_norm" and dtype == torch.bfloat16 and DEVICE.type == "cpu":
        pytest.skip("Triton's interpreter cuts off what bfloat16 rounds, which the limit of this operation shows")
    for arguments in SAMPLES[name](dtype):
        check_operation(OPERATIONS[name], REFERENCES[name], arguments, DEVICE, name)


def test_views_and_stacks_are_taken() -> None:
    wide = torch.randn(6, 320, generator=torch.Generator().manual_seed(0))
    part, weight = wide[:, 100:180], torch.ones(80)
    check_operation(
        OPERATIONS["add_rms_norm"], REFERENCES["add_rms_norm"], (part, wide[:, :80], weight, 1e-5), DEVICE, "views"
    )
    stack = wide.view(2, 3, 320)
    check_operation(
        OPERATIONS["add_rms_norm"], REFERENCES["add_rms_norm"], (stack, stack, torch.ones(320), 1e-5), DEVICE, "stack"
    )


def test_a_line_with_nan_is_told_and_its_place_is_in_the_vocabulary() -> None:
    scores = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0))
    scores[1, 4500] = scores[2, 0] = float("nan")
    scores[3] = float("nan")
    places, nan = (found.cpu() for found in OPERATIONS["likeliest"](scores.to(DEVICE)))
    assert nan.tolist() == [False, True, True, True]
    assert places[0] == scores[0].argmax()
    assert ((places >= 0) & (places < 5000)).all()
    lowest = torch.full((1, 5000), float("-inf"), device=DEVICE)
    places, nan = OPERATIONS["likeliest"](lowest)
    assert (places.tolist(), nan.tolist()) == ([0], [False])


@pytest.mark.parametrize("count", [1, 1024, 3001])
def test_copies_are_whole(count: int) -> None:
    source = torch.arange(count, device=DEVICE)
    target = torch.zeros(count + 1, dtype=torch.int64, pin_memory=DEVICE.type == "cuda")
    copy(source, target)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    assert torch.equal(target[:-1], source.cpu())
    assert target[-1] == 0
