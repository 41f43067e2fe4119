"""Weights of 8-bit numbers with scales: what several formats build on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dovetail.api import CheckpointError
from dovetail.nn import AffineWeight, ScaledFloatWeight, ScaledWeight, read_scales
from dovetail.testing import lazy_tensors

VALUES = torch.arange(-30, 30).reshape(5, 12)


def weight(values: Tensor, scales: Tensor, block: tuple[int, int]) -> ScaledWeight:
    return ScaledWeight(shape=(5, 12), type="x", values=values, scales=scales, block=block)


def scale(block: tuple[int, int], scales: Tensor) -> Tensor:
    return torch.tensor(
        [
            [
                float(VALUES[n, k]) * float(scales[n // block[0] if block[0] else 0, k // block[1] if block[1] else 0])
                for k in range(12)
            ]
            for n in range(5)
        ]
    )


@pytest.mark.parametrize("block", [(0, 0), (1, 0), (2, 4), (2, 5), (1, 3), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e5m2])
def test_each_block_has_its_scale(block: tuple[int, int], dtype: torch.dtype) -> None:
    shape = [-(-size // unit) if unit else 1 for size, unit in zip((5, 12), block, strict=True)]
    scales = 0.5 * torch.arange(1, 1 + shape[0] * shape[1]).reshape(shape).float()
    values = VALUES.to(dtype)
    found = weight(values, scales, block)
    dense = scale(block, scales) if dtype == torch.int8 else scale(block, scales) / VALUES * values.float()
    dense = torch.where(VALUES == 0, 0.0, dense)
    assert torch.allclose(found.dequantize(torch.float32), dense)
    packed = found.pack("affine" if dtype == torch.int8 else "scaled_float")
    if isinstance(packed, AffineWeight):
        assert packed.mins is None
        unpacked = packed.codes.float().unflatten(1, (-1, packed.group)) * packed.scales.float()[..., None]
        assert torch.allclose(unpacked.flatten(1), dense)
    elif isinstance(packed, ScaledFloatWeight):
        assert packed.block == (block[0] or 5, block[1] or 12)
    else:
        assert (dtype, block) == (torch.int8, (2, 5)), "only groups that do not fill the rows have no packing"
    assert found.pack("scaled_float" if dtype == torch.int8 else "affine") is None


@pytest.mark.parametrize(
    ("shape", "block", "told"),
    [
        ((), None, (0, 0)),
        ((1, 1), None, (0, 0)),
        ((5,), None, (1, 0)),
        ((5, 1), None, (1, 0)),
        ((3, 3), (2, 4), (2, 4)),
    ],
)
def test_the_shape_of_scales_says_what_they_are_of(
    shape: tuple[int, ...], block: tuple[int, int] | None, told: tuple[int, int]
) -> None:
    (lazy,) = lazy_tensors({"scale": torch.ones(shape, dtype=torch.bfloat16)})
    scales, found = read_scales(lazy, (5, 12), block)
    assert (found, scales.dim(), scales.dtype) == (told, 2, torch.float32)


def test_scales_of_another_weight_are_refused() -> None:
    (lazy,) = lazy_tensors({"scale": torch.ones(4)})
    with pytest.raises(CheckpointError, match=r"scale is \[4\], wanted \[5, 1\]"):
        read_scales(lazy, (5, 12))
