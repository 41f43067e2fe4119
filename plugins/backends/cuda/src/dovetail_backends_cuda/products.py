# mypy: allow-untyped-defs
"""Products of a few tokens with a large matrix, which are bound by reading it once.

- Of one token (:func:`multiply_one`): a block has a few rows of the matrix, all of whose numbers it requests at once and keeps in registers.
- Up to 64 (:func:`multiply_some`): tensor cores, with tiles that the tensor memory accelerator (TMA) fetches several stages ahead.
- Above: the library's product.

The first starts to read the matrix before the kernels before it have ended (:mod:`dovetail_backends_cuda.launch`).

Letters: M tokens, N rows, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.tools.tensor_descriptor import TensorDescriptor

from dovetail.api import LayerKind
from dovetail.nn import DeferredNorm, Gate, StoredWeight, WeightKernel
from dovetail_backends_cuda import launch

SOME = 64
"""Most tokens of :func:`multiply_some`."""
MOST_PARTS = 8
"""Parts of a row, each of one load for every row of a block."""
LONGEST_PART = 4096
ALIGNMENT = 8
"""Columns: rows begin at multiples of 16 bytes."""
PREFETCH = 512
"""Columns of a block's rows that are requested from memory at once, into the level-2 cache, before the stages fill one by one."""


@triton.jit
def _load_part(
    weight, rows, columns, count, part: tl.constexpr, k: tl.constexpr, width: tl.constexpr, whole: tl.constexpr
):
    at = part * width + columns
    pointers = weight + rows[:, None] * k + at[None, :]
    if whole:
        return tl.load(pointers, eviction_policy="evict_first")
    return tl.load(pointers, mask=(at < k)[None, :] & (rows < count)[:, None], other=0.0, eviction_policy="evict_first")


@triton.jit
def _multiply_part(
    w, x, scale, squares, columns, part: tl.constexpr, k: tl.constexpr, width: tl.constexpr, normed: tl.constexpr
):
    at = part * width + columns
    v = tl.load(x + at, mask=at < k, other=0.0).to(tl.float32)
    if normed:
        squares += v * v
        v *= tl.load(scale + at, mask=at < k, other=0.0).to(tl.float32)
    return w.to(tl.float32) * v[None, :], squares


@triton.jit
def _one_kernel(
    x, weight, out, scale, residual, count, eps,
    k: tl.constexpr, rows: tl.constexpr, width: tl.constexpr, whole: tl.constexpr, gated: tl.constexpr,
    normed: tl.constexpr, added: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """``count`` rows of ``weight``, or twice as many where ``gated``.

    Args:
        scale, eps: of an RMS norm of x, where ``normed``.
        residual: what is added to the result, where ``added``.
    """
    parts: tl.constexpr = (k + width - 1) // width
    tl.static_assert(parts <= 8)
    n = tl.program_id(0) * rows + tl.arange(0, rows)
    own, last = n.to(tl.int64), count
    if gated:
        # A row of gate, its row of up, the next of gate, and so on.
        both = tl.arange(0, 2 * rows)
        row = tl.program_id(0) * rows + both // 2
        own = tl.where(row < count, row + both % 2 * count, 2 * count).to(tl.int64)
        last = 2 * count
    columns = tl.arange(0, width)
    if dependent:
        gdc_launch_dependents()
    # One variable for each part, because all loads have to be on their way before the first is used.
    w0 = _load_part(weight, own, columns, last, 0, k, width, whole)
    if parts > 1:
        w1 = _load_part(weight, own, columns, last, 1, k, width, whole)
    if parts > 2:
        w2 = _load_part(weight, own, columns, last, 2, k, width, whole)
    if parts > 3:
        w3 = _load_part(weight, own, columns, last, 3, k, width, whole)
    if parts > 4:
        w4 = _load_part(weight, own, columns, last, 4, k, width, whole)
    if parts > 5:
        w5 = _load_part(weight, own, columns, last, 5, k, width, whole)
    if parts > 6:
        w6 = _load_part(weight, own, columns, last, 6, k, width, whole)
    if parts > 7:
        w7 = _load_part(weight, own, columns, last, 7, k, width, whole)
    if dependent:
        gdc_wait()
    squares = tl.zeros((width,), tl.float32)
    sums, squares = _multiply_part(w0, x, scale, squares, columns, 0, k, width, normed)
    if parts > 1:
        more, squares = _multiply_part(w1, x, scale, squares, columns, 1, k, width, normed)
        sums += more
    if parts > 2:
        more, squares = _multiply_part(w2, x, scale, squares, columns, 2, k, width, normed)
        sums += more
    if parts > 3:
        more, squares = _multiply_part(w3, x, scale, squares, columns, 3, k, width, normed)
        sums += more
    if parts > 4:
        more, squares = _multiply_part(w4, x, scale, squares, columns, 4, k, width, normed)
        sums += more
    if parts > 5:
        more, squares = _multiply_part(w5, x, scale, squares, columns, 5, k, width, normed)
        sums += more
    if parts > 6:
        more, squares = _multiply_part(w6, x, scale, squares, columns, 6, k, width, normed)
        sums += more
    if parts > 7:
        more, squares = _multiply_part(w7, x, scale, squares, columns, 7, k, width, normed)
        sums += more
    y = tl.sum(sums, 1)
    if normed:
        y *= tl.rsqrt(tl.sum(squares, 0) / k + eps)
    if gated:
        gate, up = tl.split(tl.reshape(y, (rows, 2)))
        y = gate / (1 + tl.exp(-gate)) * up
    if added:
        y += tl.load(residual + n, mask=n < count, other=0.0).to(tl.float32)
    tl.store(out + n, y.to(out.dtype.element_ty), mask=n < count)


def multiply_one(
    x: Tensor,
    weight: Tensor,
    gated: bool = False,
    *,
    norm: tuple[Tensor, float] | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``x @ weight.T`` with sums in float32, rounded once.

    Args:
        x: ``[1, K]``, contiguous.
        weight: ``[N, K]``, contiguous; K up to ``MOST_PARTS * LONGEST_PART``.
        gated: the result is ``silu(gate) * up``, ``[1, N / 2]``, where gate is the product with the first half of the rows, up that
            with the second. It is rounded once, too.
    """
    k = x.shape[1]
    n = weight.shape[0] // 2 if gated else weight.shape[0]
    rows, width, warps = _divide_one(k, gated)
    out = torch.empty(1, n, dtype=x.dtype, device=x.device)
    scale, eps = (x, 0.0) if norm is None else norm
    _one_kernel[(triton.cdiv(n, rows),)](
        x, weight, out, scale, x if residual is None else residual, n, eps,
        k, rows, width, k % width == 0 and n % rows == 0, gated, norm is not None, residual is not None,
        num_warps=warps, num_stages=1, **launch.options(x.device),
    )  # fmt: skip
    return out


def _divide_one(k: int, gated: bool) -> tuple[int, int, int]:
    """Rows of a block, columns of a part, and warps."""
    width = triton.next_power_of_2(k) if k <= LONGEST_PART else LONGEST_PART // 2
    if triton.cdiv(k, width) > MOST_PARTS:
        width = LONGEST_PART
    rows = 2 if k > 2 * LONGEST_PART else 4 if k > 1024 else 8
    if gated and k > LONGEST_PART:  # as many registers
        rows //= 2
    return rows, width, 4


@dataclass(frozen=True)
class Tiling:
    """How :func:`multiply_some` divides its work.

    Attributes:
        rows: of the matrix, for each block.
        columns: of a stage.
        stages: in flight at once; what they take of a processor's 227 KiB decides how many blocks it runs.
        weight_first: rows of the matrix take the place of rows in the tensor cores' products, so that few tokens waste none.
        warps: of a block.
    """

    rows: int
    columns: int
    stages: int
    weight_first: bool = False
    warps: int = 4


def choose_tiling(tokens: int, n: int, gated: bool) -> Tiling:
    """For ``tokens`` of 16, 32 or 64: what took least time with 16 and 64 in a chain of products of each shape of Llama-3.1-8B in bfloat16 on
    an H200. Beside cuBLAS, in µs:

    ========================  ================  ================
    N x K                     16 tokens         64 tokens
    ========================  ================  ================
    6144 x 4096               15.8, 15.9        16.7, 16.2
    4096 x 4096               9.5, 12.5         11.0, 11.6
    28672 x 4096, gated       55.9, 56.1 + 3.2  59.4, 60.9 + 4.9
    4096 x 14336              28.9, 31.2        32.4, 35.0
    128256 x 4096             238.6, 243.7      250.3, 271.5
    ========================  ================  ================

    (cuBLAS's gate is a kernel of its own.) Long matrices pay for wide tiles, since each block reads all tokens. A gated block divides its rows
    among two products, of which each needs 64 where rows come first.
    """
    if gated or n > 8192:
        return Tiling(128, 128, 5, weight_first=True) if tokens < 64 else Tiling(128, 128, 4)
    return (
        Tiling(64, 256, 5 if tokens == 16 else 4, weight_first=True)
        if tokens < 64
        else Tiling(64, 128, 6, weight_first=True)
    )


@triton.jit
def _add_product(w, x, sums, weight_first: tl.constexpr):
    if weight_first:
        return tl.dot(w, x.T, sums)
    else:  # Triton compiles what follows a return, too
        return tl.dot(x, w.T, sums)


@triton.jit(do_not_specialize=["tokens"])
def _some_kernel(
    x_tiles, weight_tiles, weight, out, tokens, count,
    k: tl.constexpr, block: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, prefetch: tl.constexpr, stages: tl.constexpr,
    weight_first: tl.constexpr, gated: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """``count`` rows of ``weight``, or twice as many where ``gated``."""
    first = tl.program_id(0) * rows
    if dependent:
        gdc_launch_dependents()
        if prefetch > 0:
            own = tl.minimum(first + tl.arange(0, rows), count - 1).to(tl.int64)
            lines = (weight + own[:, None] * k + (tl.arange(0, prefetch // 64) * 64)[None, :]).to(tl.int64)
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [lines], dtype=tl.int32, is_pure=False, pack=1
            )
        gdc_wait()
    if weight_first:
        sums = tl.zeros((rows, block), tl.float32)
        ups = tl.zeros((rows, block), tl.float32)
    else:
        sums = tl.zeros((block, rows), tl.float32)
        ups = tl.zeros((block, rows), tl.float32)
    for at in tl.range(0, k, columns, num_stages=stages):
        x = x_tiles.load([0, at])
        sums = _add_product(weight_tiles.load([first, at]), x, sums, weight_first)
        if gated:
            ups = _add_product(weight_tiles.load([first + count, at]), x, ups, weight_first)
    if gated:
        sums = sums / (1 + tl.exp(-sums)) * ups
    if weight_first:
        sums = sums.T
    m = tl.arange(0, block)
    n = first + tl.arange(0, rows)
    there = (m < tokens)[:, None] & (n < count)[None, :]
    tl.store(out + m[:, None].to(tl.int64) * count + n[None, :], sums.to(out.dtype.element_ty), mask=there)


class TiledMatrix:
    """A matrix ``[N, K]`` with the descriptors of its tiles, which are made once."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._tiles: dict[tuple[int, int], TensorDescriptor] = {}

    def tiles(self, rows: int, columns: int) -> TensorDescriptor:
        if (rows, columns) not in self._tiles:
            self._tiles[rows, columns] = _describe(self.weight, rows, columns)
        return self._tiles[rows, columns]


def _describe(x: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [rows, columns])


def multiply_some(x: Tensor, matrix: TiledMatrix, gated: bool = False, tiling: Tiling | None = None) -> Tensor:
    """``x @ weight.T`` with sums in float32, rounded once.

    Args:
        x: ``[M, K]``, contiguous, 1 to :data:`SOME` tokens; K is a multiple of :data:`ALIGNMENT`.
        gated: as in :func:`multiply_one`.
        tiling: None to choose it. Where ``gated``, a block has half of its rows of gate and of up each.
    """
    tokens, k = x.shape
    n = matrix.weight.shape[0]
    block = max(16, triton.next_power_of_2(tokens))
    tiling = tiling or choose_tiling(block, n, gated)
    rows = tiling.rows
    if gated:
        n, rows = n // 2, rows // 2
    out = torch.empty(tokens, n, dtype=x.dtype, device=x.device)
    _some_kernel[(triton.cdiv(n, rows),)](
        _describe(x, block, tiling.columns), matrix.tiles(rows, tiling.columns), matrix.weight, out, tokens, n,
        k, block, rows, tiling.columns, PREFETCH if k >= PREFETCH else 0, tiling.stages, tiling.weight_first, gated,
        num_warps=tiling.warps, **launch.options(x.device, early=False),
    )  # fmt: skip
    return out


class SmallBatchKernel(WeightKernel):
    """A product with a weight in the activations' dtype, by one of three ways, which the number of tokens decides."""

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight, kind: LayerKind) -> str | None:
        k = weight.shape[1]
        if k % ALIGNMENT:
            return f"{k} columns are not a multiple of {ALIGNMENT}"
        if k > MOST_PARTS * LONGEST_PART:
            return f"{k} columns are more than {MOST_PARTS * LONGEST_PART}"
        return None

    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None:
        self.matrix = TiledMatrix(weight.dense(dtype).to(device).contiguous())
        # Before Hopper there is no TMA. (Triton's interpreter needs none.)
        self.some = SOME if device.type != "cuda" or launch.capability(device) >= (9, 0) else 1

    def __call__(self, x: Tensor) -> Tensor:
        return self._multiply(x, False)

    def multiply_gated(self, x: Tensor, gate: Gate) -> Tensor:
        if gate.name != "silu_mul" or not 0 < x.shape[0] <= self.some:
            return gate(self(x))
        return self._multiply(x, True)

    def defers(self, tokens: int) -> bool:
        # Of more tokens, products that also scale, or add up squares for the next one, took as long as the norm's own kernel.
        return tokens == 1

    def multiply_and_add(self, x: Tensor, residual: Tensor, scale: Tensor, eps: float) -> DeferredNorm:
        total = multiply_one(x.contiguous(), self.matrix.weight, residual=residual.contiguous())
        return DeferredNorm(total, scale, eps)

    def multiply_deferred(self, x: DeferredNorm, gate: Gate | None) -> Tensor:
        gated = gate is not None and gate.name == "silu_mul"
        out = multiply_one(x.total, self.matrix.weight, gated, norm=(x.scale, x.eps))
        return out if gate is None or gated else gate(out)

    def _multiply(self, x: Tensor, gated: bool) -> Tensor:
        tokens = x.shape[0]
        if tokens == 1:
            return multiply_one(x.contiguous(), self.matrix.weight, gated)
        if 0 < tokens <= self.some:
            return multiply_some(x.contiguous(), self.matrix, gated)
        return self.ops.linear(x, self.matrix.weight)

    @property
    def nbytes(self) -> int:
        return self.matrix.weight.nbytes
