# mypy: allow-untyped-defs
"""Triton kernels of paged attention: writing a step's keys and values, and attention of one new token of each request.

The work of the latter differs from request to request and is only known on the device, while a captured grid is fixed. So all pairs of
a request and a key-value head are laid end to end, each in tiles of some tokens, and every block of the grid takes the same share of all
tiles ("stream-K", Osama et al., 2023; "Flash-Decoding", Dao et al., 2023; the softmax is computed online, Milakov and Gimelshein, 2018).
A pair within one block's share is finished by it; of the others, each block writes its part, and a second kernel merges the parts.

The cache of a layer is ``[blocks, block_size, K * D + K * D]``: a token's keys, then its values.

Letters: R requests, T tokens, H query heads, K key-value heads, G = H / K, D head dimension, C blocks of the grid.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["requests"])
def plan_kernel(lengths, tiles, requests, window: tl.constexpr, tile: tl.constexpr, request_block: tl.constexpr):
    """``tiles[r]``: the number of tiles of one head of all requests before ``r``; int32 ``[R + 1]``. One block."""
    r = tl.arange(0, request_block)
    length = tl.load(lengths + r, mask=r < requests, other=0)
    first = length * 0
    if window > 0:
        first = tl.maximum(length - window, 0) // tile
    counts = (length + tile - 1) // tile - first
    tl.store(tiles + 1 + r, tl.cumsum(counts, 0), mask=r < requests)
    tl.store(tiles + r, r * 0, mask=r == 0)


@triton.jit
def write_kernel(
    q, k, v, cos, sin, slots, turned, cache, q_stride, k_stride, v_stride, angle_stride,
    heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, pairs: tl.constexpr, rotated: tl.constexpr,
    interleaved: tl.constexpr, head_block: tl.constexpr, pair_block: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Rotates one token's queries into ``turned`` ``[T, H, D]``, its keys into the cache, and copies its values there. Keys and values
    only where ``heads`` is 0; nothing is rotated where ``rotated`` is 0.

    Args:
        q, k, v: ``[T, H or K, D]``; the heads of a token are adjacent, and the strides are those between tokens.
        cos, sin: ``[T, rotated]``.
        slots: int64 ``[T]``.
        pairs: D / 2.
        rotated: pairs of a head that are rotated, which are its first channels.
    """
    t = tl.program_id(0).to(tl.int64)
    h = (tl.program_id(1) * head_block + tl.arange(0, head_block))[:, None]
    j = tl.arange(0, pair_block)[None, :]
    if dependent:
        gdc_launch_dependents()
        gdc_wait()
    # The two channels of a pair. How those that are not rotated are paired does not matter.
    a, b = 2 * j, 2 * j + 1
    if not interleaved:
        if rotated == 0 or rotated == pairs:
            a, b = j, j + pairs
        else:
            a = tl.where(j < rotated, j, a)
            b = tl.where(j < rotated, j + rotated, b)
    there = (j < pairs) & (h < heads + 2 * kv_heads)
    is_q = there & (h < heads)
    is_k = there & (h >= heads) & (h < heads + kv_heads)
    is_v = there & (h >= heads + kv_heads)
    own_q = t * q_stride + h * dim
    own_k = t * k_stride + (h - heads) * dim
    own_v = t * v_stride + (h - heads - kv_heads) * dim
    x = tl.load(k + own_k + a, mask=is_k, other=0.0) + tl.load(v + own_v + a, mask=is_v, other=0.0)
    y = tl.load(k + own_k + b, mask=is_k, other=0.0) + tl.load(v + own_v + b, mask=is_v, other=0.0)
    if heads > 0:
        x += tl.load(q + own_q + a, mask=is_q, other=0.0)
        y += tl.load(q + own_q + b, mask=is_q, other=0.0)
    if rotated > 0:
        turn = (is_q | is_k) & (j < rotated)
        c = tl.load(cos + t * angle_stride + j, mask=j < rotated, other=1.0).to(tl.float32)
        s = tl.load(sin + t * angle_stride + j, mask=j < rotated, other=0.0).to(tl.float32)
        wide_x, wide_y = x.to(tl.float32), y.to(tl.float32)
        x = tl.where(turn, (wide_x * c - wide_y * s).to(x.dtype), x)
        y = tl.where(turn, (wide_y * c + wide_x * s).to(y.dtype), y)
    if heads > 0:
        out = turned + t * heads * dim + h * dim
        tl.store(out + a, x, mask=is_q)
        tl.store(out + b, y, mask=is_q)
    row = cache + tl.load(slots + t) * (2 * kv_heads * dim) + (h - heads) * dim  # values follow the keys there as here
    tl.store(row + a, x.to(cache.dtype.element_ty), mask=is_k | is_v)
    tl.store(row + b, y.to(cache.dtype.element_ty), mask=is_k | is_v)


@triton.jit(do_not_specialize=["requests", "table_stride"])
def decode_kernel(
    q, cache, tables, lengths, tiles, sinks, out, parts, sizes, requests, table_stride, q_stride, scale, cap,
    heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, group_block: tl.constexpr, dim_block: tl.constexpr,
    block_size: tl.constexpr, window: tl.constexpr, capped: tl.constexpr, has_sinks: tl.constexpr, tile: tl.constexpr,
    request_block: tl.constexpr, stages: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """A block's share of attention of one token of each request.

    Args:
        q: ``[R, H, D]``; the heads of a token are adjacent.
        tables: int32 ``[R, B]``.
        lengths: int32 ``[R]``, each at least 1.
        tiles: from :func:`plan_kernel`.
        out: ``[R, H, D]``, contiguous: of pairs that one block finishes.
        parts: float32 ``[2 * C, G, D]``: of the last pair and of the first pair that a block has a part of, in this order of need: slot
            ``2 c`` where the pair began in a block before, ``2 c + 1`` where it begins in this one.
        sizes: float32 ``[2 * C, G]``: the base-2 logarithms of the parts' sums of exponentials.
    """
    group: tl.constexpr = heads // kv_heads
    c = tl.program_id(0).to(tl.int64)
    g = tl.arange(0, group_block)
    d = tl.arange(0, dim_block)
    n = tl.arange(0, tile)
    r = tl.arange(0, request_block)
    if dependent:
        gdc_launch_dependents()
    # Lengths, tables and tiles belong to the step, and were there before its first layer.
    total = tl.load(tiles + requests).to(tl.int64) * kv_heads
    share = tl.minimum(tl.num_programs(0).to(tl.int64), total)  # blocks that have work
    if c >= share:
        # Even those have to wait: the next kernel takes their end for that of all before it.
        if dependent:
            gdc_wait()
        return
    at = (c * total // share).to(tl.int32)
    end = ((c + 1) * total // share).to(tl.int32)
    before = tl.load(tiles + 1 + r, mask=r < requests, other=2147483647 // kv_heads) * kv_heads
    request = tl.sum((before <= at).to(tl.int32), 0)
    if dependent:
        gdc_wait()
    while at < end:
        start = tl.load(tiles + request) * kv_heads
        length = tl.load(lengths + request)
        skipped = length * 0
        if window > 0:
            skipped = tl.maximum(length - window, 0) // tile
        count = (length + tile - 1) // tile - skipped
        head = (at - start) // count
        first = at - start - head * count
        stop = tl.minimum(count, first + end - at)
        rows = (head * group + g)[:, None]
        is_row = (g < group)[:, None] & (d < dim)[None, :]
        query = tl.load(q + request.to(tl.int64) * q_stride + rows * dim + d[None, :], mask=is_row, other=0.0)
        if not capped:
            query = (query.to(tl.float32) * (scale * LOG2_E)).to(q.dtype.element_ty)
        m = tl.full((group_block,), float("-inf"), tl.float32)
        mass = tl.zeros((group_block,), tl.float32)
        sums = tl.zeros((group_block, dim_block), tl.float32)
        table = tables + request.to(tl.int64) * table_stride
        for t in tl.range(first + skipped, stop + skipped, num_stages=stages):
            position = t * tile + n
            seen = position < length
            block = tl.load(table + position // block_size, mask=seen, other=0).to(tl.int64)
            row = (block * block_size + position % block_size) * (2 * kv_heads * dim) + head * dim
            if window > 0:
                seen = seen & (position >= length - window)
            keys = tl.load(cache + row[None, :] + d[:, None], mask=seen[None, :] & (d < dim)[:, None], other=0.0)
            values = tl.load(
                cache + kv_heads * dim + row[:, None] + d[None, :], mask=seen[:, None] & (d < dim)[None, :], other=0.0
            )
            scores = tl.dot(query, keys, input_precision="ieee")
            if capped:
                scaled = scores * (scale / cap)
                scores = (2 / (1 + tl.exp2(scaled * (-2 * LOG2_E))) - 1) * (cap * LOG2_E)  # cap * tanh
            scores = tl.where(seen[None, :], scores, float("-inf"))
            largest = tl.maximum(m, tl.max(scores, 1))
            p = tl.exp2(scores - largest[:, None])
            shrink = tl.exp2(m - largest)
            mass = mass * shrink + tl.sum(p, 1)
            sums = sums * shrink[:, None] + tl.dot(p.to(values.dtype), values, input_precision="ieee")
            m = largest
        if (first == 0) & (stop == count):
            if has_sinks:
                mass += tl.exp2(tl.load(sinks + head * group + g, mask=g < group, other=0.0) * LOG2_E - m)
            own = out + request.to(tl.int64) * (heads * dim) + rows * dim + d[None, :]
            tl.store(own, (sums / mass[:, None]).to(out.dtype.element_ty), mask=is_row)
        else:
            slot = 2 * c + tl.where(first > 0, 0, 1)
            tl.store(parts + (slot * group + g)[:, None] * dim + d[None, :], sums / mass[:, None], mask=is_row)
            tl.store(sizes + slot * group + g, m + tl.log2(mass), mask=g < group)
        at += stop - first
        if at >= start + count * kv_heads:
            request += 1


@triton.jit(do_not_specialize=["requests", "grid"])
def merge_kernel(
    lengths, tiles, sinks, out, parts, sizes, requests, grid,
    heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, group_block: tl.constexpr, dim_block: tl.constexpr,
    window: tl.constexpr, has_sinks: tl.constexpr, tile: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Adds the parts of one pair of a request and a key-value head, where several blocks had them. Grid ``[R, K]``.

    Args:
        grid: C, the blocks of :func:`decode_kernel`; the others are those that it had.
    """
    group: tl.constexpr = heads // kv_heads
    request = tl.program_id(0)
    head = tl.program_id(1)
    if dependent:
        gdc_launch_dependents()
    total = tl.load(tiles + requests).to(tl.int64) * kv_heads
    length = tl.load(lengths + request)
    skipped = length * 0
    if window > 0:
        skipped = tl.maximum(length - window, 0) // tile
    count = (length + tile - 1) // tile - skipped
    start = tl.load(tiles + request).to(tl.int64) * kv_heads + head * count
    share = tl.minimum(total * 0 + grid, total)
    first = ((start + 1) * share - 1) // total  # the blocks that have the first tile and the last
    last = ((start + count) * share - 1) // total
    if dependent:
        gdc_wait()
    if first < last:
        g = tl.arange(0, group_block)
        d = tl.arange(0, dim_block)
        is_row = (g < group)[:, None] & (d < dim)[None, :]
        part = g[:, None] * dim + d[None, :]
        m = tl.load(sizes + (2 * first + 1) * group + g, mask=g < group, other=0.0)
        sums = tl.load(parts + (2 * first + 1) * (group * dim) + part, mask=is_row, other=0.0)
        mass = tl.full((group_block,), 1.0, tl.float32)
        for c in range(first + 1, last + 1):
            size = tl.load(sizes + 2 * c * group + g, mask=g < group, other=0.0)
            more = tl.load(parts + 2 * c * (group * dim) + part, mask=is_row, other=0.0)
            largest = tl.maximum(m, size)
            shrink = tl.exp2(m - largest)
            weight = tl.exp2(size - largest)
            sums = sums * shrink[:, None] + more * weight[:, None]
            mass = mass * shrink + weight
            m = largest
        if has_sinks:
            mass += tl.exp2(tl.load(sinks + head * group + g, mask=g < group, other=0.0) * LOG2_E - m)
        own = out + request.to(tl.int64) * (heads * dim) + (head * group + g)[:, None] * dim + d[None, :]
        tl.store(own, (sums / mass[:, None]).to(out.dtype.element_ty), mask=is_row)
