# mypy: allow-untyped-defs
"""Norms and gates as one Triton kernel each, with float32 inside and one rounding at the end; and the likeliest token in two.

Letters: T tokens, C channels, L lines, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from dovetail.nn import ops
from dovetail_backends_cuda import launch, operations

LARGEST_NORM = 1 << 15
"""Channels of a norm: a row is in the registers of one block."""
GATE_BLOCK = 2048
MOST_EXPERTS = 1024
"""That are chosen from in one kernel."""


@triton.jit
def _add_norm_kernel(
    x, residual, weight, out, total, stride, residual_stride, eps,
    channels: tl.constexpr, block: tl.constexpr, heads: tl.constexpr, added: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """The norm of x and, where ``added``, of its sum with ``residual``, which is ``total``. Grid ``[T * heads]``: the heads of a token are adjacent."""
    row = tl.program_id(0).to(tl.int64)
    own = row // heads * stride + row % heads * channels
    i = tl.arange(0, block)
    there = i < channels
    if dependent:
        gdc_launch_dependents()
    scale = tl.load(weight + i, mask=there, other=0.0).to(tl.float32)
    if dependent:
        gdc_wait()
    v = tl.load(x + own + i, mask=there, other=0.0).to(tl.float32)
    if added:
        v += tl.load(residual + row * residual_stride + i, mask=there, other=0.0).to(tl.float32)
        sums = v.to(total.dtype.element_ty)  # the norm is of what the next residual is
        tl.store(total + row * channels + i, sums, mask=there)
        v = sums.to(tl.float32)
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
        x, residual, weight, out, total, x.stride(0), residual.stride(0), eps, channels, triton.next_power_of_2(channels), 1, True,
        num_warps=8 if channels > 1024 else 4, **launch.options(x.device),
    )  # fmt: skip
    return out, total


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalises ``[T, C]``, or the heads of ``[T, H, C]``, as :func:`add_rms_norm` does. What has other strides takes torch's kernel."""
    channels = x.shape[-1]
    heads = x.shape[1] if x.dim() == 3 else 1
    plain = x.dim() == 2 or (x.dim() == 3 and (x.stride(1) == channels or heads == 1))
    if not plain or channels > LARGEST_NORM or x.stride(-1) != 1 or not x.numel():
        return operations.rms_norm(x, weight, eps)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _add_norm_kernel[(x.shape[0] * heads,)](
        x, x, weight, out, out, x.stride(0), 0, eps, channels, triton.next_power_of_2(channels), heads, False,
        num_warps=8 if channels > 1024 else 4 if channels > 256 else 1, **launch.options(x.device),
    )  # fmt: skip
    return out


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


@triton.jit
def _best_kernel(scores, tops, places, vocabulary, block: tl.constexpr, dependent: tl.constexpr):
    """The greatest score of each part of a line, NaN if there is one, and its place. Grid ``[L, parts]``."""
    line, part = tl.program_id(0), tl.program_id(1)
    i = part * block + tl.arange(0, block)
    if dependent:
        gdc_launch_dependents()
        gdc_wait()
    x = tl.load(scores + line.to(tl.int64) * vocabulary + i, mask=i < vocabulary, other=float("-inf")).to(tl.float32)
    top, place = tl.max(x, 0, return_indices=True)
    numbers = tl.max((x != x).to(tl.int32), 0) == 0
    at = line * tl.num_programs(1) + part
    tl.store(tops + at, tl.where(numbers, top, float("nan")))
    tl.store(places + at, tl.minimum(part * block + place, vocabulary - 1))


@triton.jit
def _best_of_parts_kernel(tops, places, best, not_numbers, parts, part_block: tl.constexpr, dependent: tl.constexpr):
    line = tl.program_id(0)
    i = tl.arange(0, part_block)
    if dependent:
        gdc_launch_dependents()
        gdc_wait()
    x = tl.load(tops + line * parts + i, mask=i < parts, other=float("-inf"))
    nan = tl.max((x != x).to(tl.int32), 0)
    _, part = tl.max(tl.where(x != x, float("-inf"), x), 0, return_indices=True)
    tl.store(best + line, tl.load(places + line * parts + tl.minimum(part, parts - 1)).to(tl.int64))
    tl.store(not_numbers + line, nan.to(tl.uint8))


def likeliest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Two kernels: parts of the lines, so that few lines keep the device busy, too, and then each line's best part."""
    lines, vocabulary = scores.shape
    if not lines:
        return ops.likeliest(scores)
    block = 1024 if lines <= 8 else 4096
    parts = triton.cdiv(vocabulary, block)
    tops = torch.empty(lines, parts, dtype=torch.float32, device=scores.device)
    places = torch.empty(lines, parts, dtype=torch.int32, device=scores.device)
    best = torch.empty(lines, dtype=torch.int64, device=scores.device)
    not_numbers = torch.empty(lines, dtype=torch.uint8, device=scores.device)
    options = launch.options(scores.device)
    _best_kernel[(lines, parts)](scores, tops, places, vocabulary, block, num_warps=4, **options)
    _best_of_parts_kernel[(lines,)](
        tops, places, best, not_numbers, parts, triton.next_power_of_2(parts), num_warps=4, **options
    )
    return best, not_numbers.view(torch.bool)


@triton.jit
def _decode_inputs_kernel(
    rows, lengths, newest, table, tokens, positions, lengths_out, tables, slots, stride, width,
    block_size: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """Grid ``[R, parts of a row of the table]``. The first one of a request also writes the rest."""
    r = tl.program_id(0)
    row = tl.load(rows + r)
    i = tl.program_id(1) * columns + tl.arange(0, columns)
    own = table + row * stride
    tl.store(tables + r.to(tl.int64) * width + i, tl.load(own + i, mask=i < width, other=0), mask=i < width)
    if tl.program_id(1) == 0:
        length = tl.load(lengths + r)
        position = length - 1
        tl.store(positions + r, position)
        tl.store(lengths_out + r, length.to(tl.int32))
        tl.store(tokens + r, tl.load(newest + row))
        block = tl.load(own + position // block_size).to(tl.int64)
        tl.store(slots + r, block * block_size + position % block_size)


def decode_inputs(
    rows: Tensor, lengths: Tensor, newest: Tensor, table: Tensor, block_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One kernel. It is launched in the ordinary way: what follows it reads its results before it waits."""
    count, width = len(rows), table.shape[1]
    assert table.stride(1) == 1
    tokens, positions, slots = (torch.empty(count, dtype=torch.int64, device=rows.device) for _ in range(3))
    lengths_out = torch.empty(count, dtype=torch.int32, device=rows.device)
    tables = torch.empty(count, width, dtype=torch.int32, device=rows.device)
    columns = min(1024, triton.next_power_of_2(width))
    _decode_inputs_kernel[(count, triton.cdiv(width, columns))](
        rows, lengths, newest, table, tokens, positions, lengths_out, tables, slots, table.stride(0), width, block_size, columns,
        num_warps=4,
    )  # fmt: skip
    return tokens, positions, lengths_out, tables, slots


@triton.jit
def _angles_kernel(positions, inverse, cos, sin, factor, pairs, block: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, block)
    angle = tl.load(positions + t).to(tl.float32) * tl.load(inverse + i, mask=i < pairs, other=0.0)
    tl.store(cos + t * pairs + i, (tl.cos(angle) * factor).to(cos.dtype.element_ty), mask=i < pairs)
    tl.store(sin + t * pairs + i, (tl.sin(angle) * factor).to(sin.dtype.element_ty), mask=i < pairs)


def rope_angles(positions: Tensor, inverse: Tensor, factor: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One kernel, launched in the ordinary way, as :func:`decode_inputs`."""
    tokens, pairs = len(positions), len(inverse)
    if not tokens or dtype == torch.float64:
        return ops.rope_angles(positions, inverse, factor, dtype)
    cos, sin = (torch.empty(tokens, pairs, dtype=dtype, device=positions.device) for _ in range(2))
    _angles_kernel[(tokens,)](positions, inverse, cos, sin, factor, pairs, triton.next_power_of_2(pairs), num_warps=1)
    return cos, sin


@triton.jit
def _route_kernel(
    logits, ids, weights, stride, scale,
    experts: tl.constexpr, block: tl.constexpr, chosen: tl.constexpr, chosen_block: tl.constexpr, sigmoid: tl.constexpr, renormalize: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, block)
    a = tl.arange(0, chosen_block)
    if dependent:
        gdc_launch_dependents()
        gdc_wait()
    x = tl.load(logits + t * stride + i, mask=i < experts, other=float("-inf")).to(tl.float32)
    if sigmoid:
        scores = 1 / (1 + tl.exp(-x))
    else:
        scores = tl.exp(x - tl.max(x, 0))
        scores /= tl.sum(scores, 0)
    left = tl.where(i < experts, scores, -1.0)
    found = tl.zeros_like(a)
    values = tl.zeros(a.shape, tl.float32)
    for place in tl.static_range(chosen):
        best, at = tl.max(left, 0, return_indices=True)
        found = tl.where(a == place, tl.minimum(at, experts - 1), found)
        values = tl.where(a == place, best, values)
        left = tl.where(i == at, -1.0, left)
    if renormalize:
        values /= tl.sum(values, 0) + 1e-20
    tl.store(ids + t * chosen + a, found.to(tl.int64), mask=a < chosen)
    tl.store(weights + t * chosen + a, values * scale, mask=a < chosen)


def route(
    logits: Tensor,
    top_k: int,
    scoring: str = "softmax",
    renormalize: bool = True,
    bias: Tensor | None = None,
    groups: int = 1,
    top_groups: int = 1,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """One kernel where experts are chosen by their scores alone."""
    tokens, experts = logits.shape
    if bias is not None or groups > 1 or experts > MOST_EXPERTS or not tokens or logits.stride(1) != 1:
        return ops.route(logits, top_k, scoring, renormalize, bias, groups, top_groups, scale)
    ids = torch.empty(tokens, top_k, dtype=torch.int64, device=logits.device)
    weights = torch.empty(tokens, top_k, dtype=torch.float32, device=logits.device)
    _route_kernel[(tokens,)](
        logits, ids, weights, logits.stride(0), scale, experts, triton.next_power_of_2(experts), top_k, triton.next_power_of_2(top_k), scoring == "sigmoid", renormalize,
        num_warps=1 if experts <= 256 else 4, **launch.options(logits.device),
    )  # fmt: skip
    return ids, weights


@triton.jit
def _copy_kernel(source, target, count, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(target + i, tl.load(source + i, mask=i < count), mask=i < count)


def copy(source: Tensor, target: Tensor) -> None:
    """Copies contiguous numbers by a kernel, also into the host's pinned memory, where the device's copy engines take 5 µs longer until they
    and the next kernel have begun.
    """
    count = source.numel()
    _copy_kernel[(triton.cdiv(count, 1024),)](source, target, count, 1024, num_warps=4)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "decode_inputs": decode_inputs,
    "rope_angles": rope_angles,
    "rms_norm": rms_norm,
    "add_rms_norm": add_rms_norm,
    "silu_mul": silu_mul,
    "likeliest": likeliest,
    "route": route,
}
