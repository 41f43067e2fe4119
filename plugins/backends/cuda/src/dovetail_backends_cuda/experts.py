# mypy: allow-untyped-defs
"""Mixtures of experts: products of each expert with the tokens that chose it, whose numbers are known on the device alone.

A first kernel lists each expert's assignments. The next two have a block for some rows of each expert's matrix, which reads them once for every few
tokens; experts that no token chose cost next to nothing. The last one adds up each token's results.

Letters: T tokens, C channels, I inner channels of an expert, E experts of this rank, A experts of a token; an assignment ``t * A + a`` is token t's a-th choice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from dovetail.nn import ExpertsKernel, ExpertWeights, StoredWeight, ops
from dovetail_backends_cuda import launch, operations, pointwise

FEW_TOKENS = 128
"""Up to these, an expert has so few that a block takes 16 of them at a time."""


@triton.jit(do_not_specialize=["assignments", "first"])
def _list_kernel(ids, rows, counts, assignments, first, block: tl.constexpr, dependent: tl.constexpr):
    """The assignments of expert ``first + e``, in order, in ``rows[e]``, and their number. Grid ``[E]``."""
    e = tl.program_id(0)
    own = rows + e.to(tl.int64) * assignments
    if dependent:
        gdc_launch_dependents()
        gdc_wait()
    count = e * 0
    for start in range(0, assignments, block):
        i = start + tl.arange(0, block)
        chose = (tl.load(ids + i, mask=i < assignments, other=-1) == first + e).to(tl.int32)
        tl.store(own + count + tl.cumsum(chose, 0) - 1, i, mask=chose > 0)
        count += tl.sum(chose, 0)
    tl.store(counts + e, count)


@triton.jit(do_not_specialize=["assignments"])
def _product_kernel(
    x, weight, out, rows, counts, shares, assignments,
    n: tl.constexpr, k: tl.constexpr, chosen: tl.constexpr, tokens: tl.constexpr, own_rows: tl.constexpr, columns: tl.constexpr,
    stages: tl.constexpr, gated: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Where ``gated``, silu(gate) * up of tokens, ``[assignments, I]``; otherwise products of those times ``shares``, ``[assignments, C]``.
    Grid ``[parts of n, E]``.
    """
    e = tl.program_id(1)
    if dependent:
        gdc_launch_dependents()
        gdc_wait()
    count = tl.load(counts + e)
    j = tl.program_id(0) * own_rows + tl.arange(0, own_rows)
    c = tl.arange(0, columns)
    halves: tl.constexpr = 2 if gated else 1
    w = weight + (e.to(tl.int64) * (halves * n) + tl.minimum(j, n - 1)[None, :]) * k
    for start in range(0, count, tokens):
        m = start + tl.arange(0, tokens)
        row = tl.load(rows + e.to(tl.int64) * assignments + m, mask=m < count, other=0).to(tl.int64)
        source = row // chosen if gated else row
        sums = tl.zeros((tokens, own_rows), tl.float32)
        ups = tl.zeros((tokens, own_rows), tl.float32)
        for at in tl.range(0, k, columns, num_stages=stages):
            there = at + c < k
            a = tl.load(
                x + source[:, None] * k + (at + c)[None, :], mask=(m < count)[:, None] & there[None, :], other=0.0
            )
            b = tl.load(w + (at + c)[:, None], mask=there[:, None], other=0.0)
            sums = tl.dot(a, b, sums, input_precision="ieee")
            if gated:
                u = tl.load(w + n * k + (at + c)[:, None], mask=there[:, None], other=0.0)
                ups = tl.dot(a, u, ups, input_precision="ieee")
        if gated:
            sums = sums / (1 + tl.exp(-sums)) * ups
        else:
            sums *= tl.load(shares + row, mask=m < count, other=0.0)[:, None]
        target = out + row[:, None] * n + j[None, :]
        tl.store(target, sums.to(out.dtype.element_ty), mask=(m < count)[:, None] & (j < n)[None, :])


@triton.jit(do_not_specialize=["first"])
def _add_kernel(
    parts, ids, out, first, experts: tl.constexpr, channels: tl.constexpr, chosen: tl.constexpr, block: tl.constexpr,
    dependent: tl.constexpr,
):  # fmt: skip
    """Each token's results, in the order of its choices. Grid ``[T, parts of C]``."""
    t = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * block + tl.arange(0, block)
    if dependent:
        gdc_launch_dependents()
        gdc_wait()
    total = tl.zeros((block,), tl.float32)
    for a in tl.static_range(chosen):
        e = tl.load(ids + t * chosen + a) - first
        here = (e >= 0) & (e < experts)  # otherwise another rank's, and nobody wrote it
        total += tl.load(parts + (t * chosen + a) * channels + i, mask=(i < channels) & here, other=0.0)
    tl.store(out + t * channels + i, total.to(out.dtype.element_ty), mask=i < channels)


@triton.jit(do_not_specialize=["first"])
def _one_up_kernel(
    x, weight, ids, out, first,
    experts: tl.constexpr, n: tl.constexpr, k: tl.constexpr, own_rows: tl.constexpr, width: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """silu(gate) * up of one token, ``[A, I]``. Grid ``[parts of I, A]``."""
    a = tl.program_id(1)
    if dependent:
        gdc_launch_dependents()
        gdc_wait()
    e = tl.load(ids + a) - first
    if (e >= 0) & (e < experts):
        j = tl.program_id(0) * own_rows + tl.arange(0, own_rows)
        i = tl.arange(0, width)
        w = weight + (e * (2 * n) + tl.minimum(j, n - 1)[:, None]) * k
        sums = tl.zeros((own_rows, width), tl.float32)
        ups = tl.zeros((own_rows, width), tl.float32)
        for at in tl.static_range(0, k, width):
            there = at + i < k
            gate = tl.load(w + (at + i)[None, :], mask=there[None, :], other=0.0, eviction_policy="evict_first")
            up = tl.load(w + n * k + (at + i)[None, :], mask=there[None, :], other=0.0, eviction_policy="evict_first")
            v = tl.load(x + at + i, mask=there, other=0.0).to(tl.float32)[None, :]
            sums += gate.to(tl.float32) * v
            ups += up.to(tl.float32) * v
        y = tl.sum(sums, 1)
        y = y / (1 + tl.exp(-y)) * tl.sum(ups, 1)
        tl.store(out + a * n + j, y.to(out.dtype.element_ty), mask=j < n)


@triton.jit(do_not_specialize=["first"])
def _one_down_kernel(
    x, weight, ids, shares, out, first,
    experts: tl.constexpr, n: tl.constexpr, k: tl.constexpr, chosen: tl.constexpr, own_rows: tl.constexpr, width: tl.constexpr,
    dependent: tl.constexpr,
):  # fmt: skip
    """The token's result from ``[A, I]``, all of its experts added. Grid ``[parts of C]``."""
    j = tl.program_id(0) * own_rows + tl.arange(0, own_rows)
    i = tl.arange(0, width)
    if dependent:
        gdc_launch_dependents()
        gdc_wait()
    sums = tl.zeros((own_rows, width), tl.float32)
    for a in tl.static_range(chosen):
        e = tl.load(ids + a) - first
        here = (e >= 0) & (e < experts)
        w = weight + (e * n + tl.minimum(j, n - 1)[:, None]) * k
        share = tl.load(shares + a)
        for at in tl.static_range(0, k, width):
            there = (at + i < k) & here
            v = tl.load(x + a * k + at + i, mask=there, other=0.0).to(tl.float32) * share
            m = tl.load(w + (at + i)[None, :], mask=there[None, :], other=0.0, eviction_policy="evict_first")
            sums += m.to(tl.float32) * v[None, :]
    tl.store(out + j, tl.sum(sums, 1).to(out.dtype.element_ty), mask=j < n)


class TritonExperts(ExpertsKernel):
    """Full-precision experts with a SiLU gate and without biases."""

    @classmethod
    def unsupported_reason(cls, weights: ExpertWeights) -> str | None:
        if weights.gate_up_bias is not None or weights.down_bias is not None:
            return "the experts have biases"
        if weights.activation not in (ops.REFERENCES["silu_mul"], operations.silu_mul, pointwise.silu_mul):
            return "the experts' activation is not silu"
        return None

    def __init__(self, weights: ExpertWeights, make_kernel: object, device: torch.device, dtype: torch.dtype) -> None:
        def stack(matrices: list[StoredWeight]) -> Tensor:
            made = torch.empty(len(matrices), *matrices[0].shape, dtype=dtype, device=device)
            for place, matrix in zip(made, matrices, strict=True):
                place.copy_(matrix.dense(dtype))
            return made

        both = [matrix for pair in zip(weights.gate, weights.up, strict=True) for matrix in pair]
        self.gate_up = stack(both).flatten(0, 1)  # gate and up of each expert
        self.down = stack(list(weights.down))
        self.first = weights.first

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        tokens, channels = x.shape
        experts, _, inner = self.down.shape
        chosen = ids.shape[1]
        count = tokens * chosen
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        if not tokens:
            return out
        x, ids, weights = x.contiguous(), ids.contiguous(), weights.contiguous()
        if tokens == 1:
            return self._multiply_one(x, ids, weights, out)
        rows = torch.empty(experts, count, dtype=torch.int32, device=x.device)
        counts = torch.empty(experts, dtype=torch.int32, device=x.device)
        between = torch.empty(count, inner, dtype=x.dtype, device=x.device)
        parts = torch.empty(count, channels, dtype=torch.float32, device=x.device)
        options = launch.options(x.device)
        block = min(1024, max(16, triton.next_power_of_2(count)))
        _list_kernel[(experts,)](ids, rows, counts, count, self.first, block, num_warps=4, **options)
        few = tokens <= FEW_TOKENS
        at_once, warps, stages = (16, 4, 4) if few else (128, 8, 3)
        half, whole, columns = (32, 64, 128) if few else (64, 128, 64)
        options = launch.options(x.device, early=False)
        _product_kernel[(triton.cdiv(inner, half), experts)](
            x, self.gate_up, between, rows, counts, weights, count, inner, channels, chosen, at_once, half, columns, stages, True,
            num_warps=warps, **options,
        )  # fmt: skip
        _product_kernel[(triton.cdiv(channels, whole), experts)](
            between, self.down, parts, rows, counts, weights, count, channels, inner, chosen, at_once, whole, columns, stages, False,
            num_warps=warps, **options,
        )  # fmt: skip
        _add_kernel[(tokens, triton.cdiv(channels, 1024))](
            parts, ids, out, self.first, experts, channels, chosen, 1024, num_warps=4, **launch.options(x.device)
        )
        return out

    def _multiply_one(self, x: Tensor, ids: Tensor, weights: Tensor, out: Tensor) -> Tensor:
        """Two kernels, which read each number of the chosen experts once, into registers."""
        experts, channels, inner = self.down.shape
        chosen = ids.shape[1]
        between = torch.empty(chosen, inner, dtype=x.dtype, device=x.device)
        options = launch.options(x.device)
        _one_up_kernel[(triton.cdiv(inner, 4), chosen)](
            x, self.gate_up, ids, between, self.first, experts, inner, channels, 4, min(2048, triton.next_power_of_2(channels)),
            num_warps=4, **options,
        )  # fmt: skip
        _one_down_kernel[(triton.cdiv(channels, 2),)](
            between, self.down, ids, weights, out, self.first, experts, channels, inner, chosen, 2, min(1024, triton.next_power_of_2(inner)),
            num_warps=4, **options,
        )  # fmt: skip
        return out

    @property
    def nbytes(self) -> int:
        return self.gate_up.nbytes + self.down.nbytes
