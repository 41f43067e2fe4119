"""The framework's kernels multiply through the platform's operation, so that what a platform promises of its product holds for all of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dovetail.nn import Ops, StoredWeight, WeightKernel
from dovetail.nn.affine import AffineKernel
from dovetail.nn.dense import DenseKernel, DenseWeight, DequantizeKernel
from dovetail.testing import AffineSample

CPU = torch.device("cpu")


def affine(n: int, k: int) -> AffineSample:
    return AffineSample.random(n, k, bits=4, group=32, mins=True, signed=False)


@pytest.mark.parametrize(
    ("cls", "weight", "products"),
    [
        (DenseKernel, DenseWeight.of(torch.randn(48, 64), "float32"), 1),
        (DequantizeKernel, affine(48, 64), 1),
        (DequantizeKernel, affine(1500, 1024), 2),
        (AffineKernel, affine(48, 64), 2),  # codes and minimums
        (AffineKernel, affine(2100, 1024), 4),
    ],
    ids=["dense", "dequantize", "dequantize in slices", "affine", "affine in slices"],
)
def test_kernels_take_the_platform_s_product(cls: type[WeightKernel], weight: StoredWeight, products: int) -> None:
    calls: list[tuple[int, ...]] = []

    def product(x: Tensor, weight: Tensor) -> Tensor:
        calls.append(tuple(weight.shape))
        return x @ weight.T

    kernel = cls(weight, "linear", CPU, torch.float32)
    x = torch.randn(3, weight.shape[1])
    wanted = x.double() @ weight.dense(torch.float32).double().T
    torch.testing.assert_close(kernel(x).double(), wanted, rtol=1e-4, atol=1e-4)
    kernel.ops = Ops({"linear": product})
    torch.testing.assert_close(kernel(x).double(), wanted, rtol=1e-4, atol=1e-4)
    assert len(calls) == products
    assert sum(n for n, k in calls if k == weight.shape[1]) == weight.shape[0]
