# mypy: allow-untyped-defs
"""Norms and gates as one Triton kernel each, with float32 inside and one rounding at the end.

Letters: T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from dovetail_backends_cuda import launch, operations

LARGEST_NORM = 1 << 15
"""Channels of a norm: a row is in the registers of one block."""
GATE_BLOCK = 1024


@triton.jit
def _add_norm_kernel(
    x, residual, weight, out, total, stride, residual_stride, eps,
    channels: tl.constexpr, block: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, block)
    there = i < channels
    if dependent:
        gdc_launch_dependents()
    scale = tl.load(weight + i, mask=there, other=0.0).to(tl.float32)
    if dependent:
        gdc_wait()
    v = tl.load(x + row * stride + i, mask=there, other=0.0).to(tl.float32)
    v += tl.load(residual + row * residual_stride + i, mask=there, other=0.0).to(tl.float32)
    v = v.to(total.dtype.element_ty)  # the norm is of what the next residual is
    tl.store(total + row * channels + i, v, mask=there)
    v = v.to(tl.float32)
    normed = v * tl.rsqrt(tl.sum(v * v, 0) / channels + eps)
    tl.store(out + row * channels + i, (normed * scale).to(out.dtype.element_ty), mask=there)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Adds and normalises ``[T, C]`` in one kernel of a block for each token, which reads each number once. What is not a plain
    matrix takes torch's two kernels.
    """
    channels = x.shape[-1]
    if x.dim() != 2 or channels > LARGEST_NORM or x.stride(1) != 1 or residual.stride(1) != 1 or not x.shape[0]:
        return operations.add_rms_norm(x, residual, weight, eps)
    out, total = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device),
        torch.empty(x.shape, dtype=x.dtype, device=x.device),
    )
    _add_norm_kernel[(x.shape[0],)](
        x, residual, weight, out, total, x.stride(0), residual.stride(0), eps, channels, triton.next_power_of_2(channels),
        num_warps=8 if channels > 1024 else 4, **launch.options(x.device),
    )  # fmt: skip
    return out, total


@triton.jit
def _silu_mul_kernel(x, out, stride, channels: tl.constexpr, block: tl.constexpr, dependent: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * block + tl.arange(0, block)
    there = i < channels
    if dependent:
        gdc_launch_dependents()
        gdc_wait()
    gate = tl.load(x + row * stride + i, mask=there, other=0.0).to(tl.float32)
    up = tl.load(x + row * stride + channels + i, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * channels + i, (gate / (1 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=there)


def silu_mul(x: Tensor) -> Tensor:
    """``[T, 2 * C]`` → ``[T, C]``. What is not a plain matrix goes the way without Triton."""
    if x.dim() != 2 or x.stride(1) != 1 or not x.shape[0]:
        return operations.silu_mul(x)
    channels = x.shape[1] // 2
    out = torch.empty(x.shape[0], channels, dtype=x.dtype, device=x.device)
    grid = (x.shape[0], triton.cdiv(channels, GATE_BLOCK))
    _silu_mul_kernel[grid](x, out, x.stride(0), channels, GATE_BLOCK, num_warps=4, **launch.options(x.device))
    return out


OPERATIONS: dict[str, Callable[..., Any]] = {"add_rms_norm": add_rms_norm, "silu_mul": silu_mul}
