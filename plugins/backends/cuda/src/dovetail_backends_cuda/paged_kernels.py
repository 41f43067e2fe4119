# mypy: allow-untyped-defs
"""Triton kernels of paged attention: writing a step's keys and values, and attention of one new token of each request.

The work of the latter differs from request to request and is only known on the device, while a captured grid is fixed. Each pair of a
request and a key-value head is one block's work, unless there are too few pairs to keep the device busy, or some requests are much longer
than others: then the longer ones are divided into parts ("Flash-Decoding", Dao et al., 2023; the softmax is computed online, Milakov and
Gimelshein, 2018). The grid has a block for each pair, and some for parts beyond the first, of which those without work end at once. Of
the parts of a pair, the block that ends last adds them up, always in the same order.

The cache of a layer is ``[blocks, block_size, K * D + K * D]``: a token's keys, then its values.

Letters: R requests, T tokens, H query heads, K key-value heads, G = H / K, D head dimension, E most parts beyond the first.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["requests", "kv_heads", "extra"])
def plan_kernel(
    lengths, plan, arrived, requests, kv_heads, extra,
    window: tl.constexpr, tile: tl.constexpr, least: tl.constexpr, request_block: tl.constexpr, extra_block: tl.constexpr,
):  # fmt: skip
    """Divides the requests into parts, so that there are fewer than E beyond the first. One block.

    Args:
        plan: int32 ``[R + 2]``: at ``r`` the parts beyond the first of one head of all requests before ``r``, then the most tiles of a part.
        arrived: int32 ``[E]``, set to 0.
        kv_heads: K, of the layer that has most.
        extra: E.
        least: the most tiles of a part are not fewer than these.
    """
    r = tl.arange(0, request_block)
    length = tl.load(lengths + r, mask=r < requests, other=0)
    first = length * 0
    if window > 0:
        first = tl.maximum(length - window, 0) // tile
    count = (length + tile - 1) // tile - first
    most = tl.maximum((tl.sum(count, 0) * kv_heads + extra - 1) // extra, least)
    more = tl.maximum((count + most - 1) // most - 1, 0)
    tl.store(plan + 1 + r, tl.cumsum(more, 0), mask=r < requests)
    tl.store(plan + r, r * 0, mask=r == 0)
    tl.store(plan + requests + 1, most)
    e = tl.arange(0, extra_block)
    tl.store(arrived + e, e * 0, mask=e < extra)


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
    # Slots and angles belong to the step, and were there before its first layer.
    slot = tl.load(slots + t)
    if rotated > 0:
        c = tl.load(cos + t * angle_stride + j, mask=j < rotated, other=1.0).to(tl.float32)
        s = tl.load(sin + t * angle_stride + j, mask=j < rotated, other=0.0).to(tl.float32)
    if dependent:
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
        wide_x, wide_y = x.to(tl.float32), y.to(tl.float32)
        x = tl.where(turn, (wide_x * c - wide_y * s).to(x.dtype), x)
        y = tl.where(turn, (wide_y * c + wide_x * s).to(y.dtype), y)
    if heads > 0:
        out = turned + t * heads * dim + h * dim
        tl.store(out + a, x, mask=is_q)
        tl.store(out + b, y, mask=is_q)
    row = cache + slot * (2 * kv_heads * dim) + (h - heads) * dim  # values follow the keys there as here
    tl.store(row + a, x.to(cache.dtype.element_ty), mask=is_k | is_v)
    tl.store(row + b, y.to(cache.dtype.element_ty), mask=is_k | is_v)


@triton.jit
def _load_turned(x, own, d, multiple, partner_multiple, is_there, rotated: tl.constexpr, interleaved: tl.constexpr):
    """Channels ``d`` at ``x + own``, rotated by what :func:`_load_angles` gave, if ``rotated`` is not 0."""
    a = tl.load(x + own + d, mask=is_there, other=0.0)
    if rotated == 0:
        return a
    else:
        if interleaved:
            partner = d ^ 1
        else:
            partner = tl.where(d < rotated, d + rotated, d - rotated)
        partner = tl.where(d < 2 * rotated, partner, d)
        b = tl.load(x + own + partner, mask=is_there, other=0.0)
        return (a.to(tl.float32) * multiple + b.to(tl.float32) * partner_multiple).to(a.dtype)


@triton.jit
def _load_angles(cos, sin, d, rotated: tl.constexpr, interleaved: tl.constexpr):
    """For each channel: what it is multiplied by, and what its partner is."""
    if interleaved:
        at, first = d // 2, d % 2 == 0
    else:
        at, first = tl.where(d < rotated, d, d - rotated), d < rotated
    turn = d < 2 * rotated
    s = tl.load(sin + at, mask=turn, other=0.0).to(tl.float32)
    return tl.load(cos + at, mask=turn, other=1.0).to(tl.float32), tl.where(first, -s, s)


@triton.jit
def _bend(scores, scale, cap, capped: tl.constexpr):
    """Products of queries and keys as exponents of 2. (Without a cap, the queries are scaled.)"""
    if capped:
        scaled = scores * (scale / cap)
        return (2 / (1 + tl.exp2(scaled * (-2 * LOG2_E))) - 1) * (cap * LOG2_E)  # cap * tanh
    else:
        return scores


@triton.jit
def _load_tile(
    cache, table, position, seen, head, d, kv_heads: tl.constexpr, dim: tl.constexpr, block_size: tl.constexpr
):
    """Keys ``[D, tile]`` and values ``[tile, D]``."""
    block = tl.load(table + position // block_size, mask=seen, other=0).to(tl.int64)
    row = (block * block_size + position % block_size) * (2 * kv_heads * dim) + head * dim
    keys = tl.load(cache + row[None, :] + d[:, None], mask=seen[None, :] & (d < dim)[:, None], other=0.0)
    values = tl.load(
        cache + kv_heads * dim + row[:, None] + d[None, :], mask=seen[:, None] & (d < dim)[None, :], other=0.0
    )
    return keys, values


@triton.jit
def _add_tile(query, keys, values, seen, m, mass, sums, scale, cap, capped: tl.constexpr):
    """The greatest score so far, the sum of exponentials and the weighted sum of values, with one more tile."""
    scores = _bend(tl.dot(query, keys, input_precision="ieee"), scale, cap, capped)
    scores = tl.where(seen[None, :], scores, float("-inf"))
    largest = tl.maximum(m, tl.max(scores, 1))
    p = tl.exp2(scores - largest[:, None])
    shrink = tl.exp2(m - largest)
    mass = mass * shrink + tl.sum(p, 1)
    sums = sums * shrink[:, None] + tl.dot(p.to(values.dtype), values, input_precision="ieee")
    return largest, mass, sums


@triton.jit(do_not_specialize=["requests", "extra", "table_stride"])
def decode_kernel(
    q, k, v, cos, sin, new_slots, cache, tables, lengths, plan, arrived, sinks, out, parts, sizes,
    requests, extra, table_stride, q_stride, k_stride, v_stride, angle_stride, scale, cap,
    heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, group_block: tl.constexpr, dim_block: tl.constexpr,
    block_size: tl.constexpr, window: tl.constexpr, capped: tl.constexpr, has_sinks: tl.constexpr, tile: tl.constexpr,
    request_block: tl.constexpr, merge_group: tl.constexpr, merge_parts: tl.constexpr, stages: tl.constexpr,
    fresh: tl.constexpr, rotated: tl.constexpr, interleaved: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Attention of one token of each request. Grid ``[E + R * K]``.

    Args:
        q: ``[R, H, D]``; the heads of a token are adjacent, and the strides are those between tokens.
        k, v, cos, sin, new_slots: where ``fresh``, as in :func:`write_kernel`. The block that has a request's last tokens takes the new one from
            there, and writes it into the cache. Other requests must not need to read it.
        tables: int32 ``[R, B]``.
        lengths: int32 ``[R]``, each at least 1.
        plan, arrived: from :func:`plan_kernel`; the latter is 0 again at the end.
        out: ``[R, H, D]``, contiguous.
        parts: float32 ``[2 * E, G, D]``: parts beyond the first, then first ones.
        sizes: float32 ``[2 * E, G]``: the base-2 logarithms of the parts' sums of exponentials.
        merge_parts: parts that are read at once when they are added up.
    """
    group: tl.constexpr = heads // kv_heads
    c = tl.program_id(0)
    g = tl.arange(0, group_block)
    d = tl.arange(0, dim_block)
    n = tl.arange(0, tile)
    # Lengths, tables and plan belong to the step, and were there before its first layer.
    most = tl.load(plan + requests + 1)
    if (c < extra) & (c >= tl.load(plan + requests) * kv_heads):
        return  # without waiting, which those of the first parts do
    if c < extra:
        r = tl.arange(0, request_block)
        before = tl.load(plan + 1 + r, mask=r < requests, other=2147483647 // kv_heads) * kv_heads
        request = tl.sum((before <= c).to(tl.int32), 0)
    else:
        request = (c - extra) // kv_heads
    length = tl.load(lengths + request)
    own_extra = tl.load(plan + request) * kv_heads
    skipped = length * 0
    if window > 0:
        skipped = tl.maximum(length - window, 0) // tile
    count = (length + tile - 1) // tile - skipped
    divided = (count + most - 1) // most
    if c < extra:
        head = (c - own_extra) // (divided - 1)
        part = (c - own_extra) % (divided - 1) + 1
    else:
        head = (c - extra) % kv_heads
        part = c * 0
    size = (count + divided - 1) // divided
    first = skipped + part * size
    stop = tl.minimum(skipped + count, first + size)
    table = tables + request.to(tl.int64) * table_stride
    # What is in the cache already, if this step's kernels write it as late as here.
    written = length - 1 if fresh else length
    if dependent:
        # Into the level-2 cache. The new token's row is still to be written, and is read after that.
        soon = tl.minimum(first * tile + n, length - 1)
        soon_block = tl.load(table + soon // block_size).to(tl.int64)
        soon_row = cache + (soon_block * block_size + soon % block_size) * (2 * kv_heads * dim) + head * dim
        lines_of_row: tl.constexpr = (dim_block + 63) // 64
        lines = (soon_row[:, None] + (tl.arange(0, lines_of_row) * 64)[None, :]).to(tl.int64)
        fetch: tl.constexpr = "prefetch.global.L2 [$1]; mov.b32 $0, 0;"
        tl.inline_asm_elementwise(fetch, "=r,l", [lines], dtype=tl.int32, is_pure=False, pack=1)
        lines += kv_heads * dim * (cache.dtype.element_ty.primitive_bitwidth // 8)
        tl.inline_asm_elementwise(fetch, "=r,l", [lines], dtype=tl.int32, is_pure=False, pack=1)
    multiple, partner_multiple = d, d
    if fresh:
        new_slot = tl.load(new_slots + request)
        if rotated > 0:
            own_angles = request.to(tl.int64) * angle_stride
            multiple, partner_multiple = _load_angles(cos + own_angles, sin + own_angles, d, rotated, interleaved)
    if dependent:
        gdc_wait()
    rows = (head * group + g)[:, None]
    is_row = (g < group)[:, None] & (d < dim)[None, :]
    own_q = request.to(tl.int64) * q_stride + rows * dim
    m = tl.full((group_block,), float("-inf"), tl.float32)
    mass = tl.zeros((group_block,), tl.float32)
    sums = tl.zeros((group_block, dim_block), tl.float32)
    query = _load_turned(
        q, own_q, d[None, :], multiple[None, :], partner_multiple[None, :], is_row, rotated, interleaved
    )
    if not capped:
        query = (query.to(tl.float32) * (scale * LOG2_E)).to(q.dtype.element_ty)
    if fresh:  # noqa: SIM102 - known when it is compiled, unlike what follows
        if part == divided - 1:
            own_k = request.to(tl.int64) * k_stride + head * dim
            key = _load_turned(k, own_k, d, multiple, partner_multiple, d < dim, rotated, interleaved)
            value = tl.load(v + request.to(tl.int64) * v_stride + head * dim + d, mask=d < dim, other=0.0)
            new = cache + new_slot * (2 * kv_heads * dim) + head * dim + d
            tl.store(new, key.to(cache.dtype.element_ty), mask=d < dim)
            tl.store(new + kv_heads * dim, value.to(cache.dtype.element_ty), mask=d < dim)
            m = _bend(tl.sum(query.to(tl.float32) * key.to(tl.float32)[None, :], 1), scale, cap, capped)
            mass += 1.0
            sums += value.to(tl.float32)[None, :]
    for t in tl.range(first, stop, num_stages=stages):
        position = t * tile + n
        seen = position < written
        if window > 0:
            seen = seen & (position >= length - window)
        keys, values = _load_tile(cache, table, position, seen, head, d, kv_heads, dim, block_size)
        m, mass, sums = _add_tile(query, keys, values, seen, m, mass, sums, scale, cap, capped)
    result = out + request.to(tl.int64) * (heads * dim)
    if divided == 1:
        if has_sinks:
            mass += tl.exp2(tl.load(sinks + head * group + g, mask=g < group, other=0.0) * LOG2_E - m)
        tl.store(result + rows * dim + d[None, :], (sums / mass[:, None]).to(out.dtype.element_ty), mask=is_row)
    else:
        pair = own_extra + head * (divided - 1)  # the place of its second part
        slot = tl.where(part == 0, extra + pair, pair + part - 1)
        tl.store(parts + (slot * group + g)[:, None] * dim + d[None, :], sums / mass[:, None], mask=is_row)
        tl.store(sizes + slot * group + g, m + tl.log2(mass), mask=g < group)
        tl.debug_barrier()  # all of the block's threads have stored before one of them tells so
        if tl.atomic_add(arrived + pair, 1, sem="acq_rel") == divided - 1:
            i = tl.arange(0, merge_group)
            top = tl.full((merge_group,), float("-inf"), tl.float32)
            whole = tl.zeros((merge_group,), tl.float32)
            total = tl.zeros((merge_group, dim_block), tl.float32)
            for start in range(0, divided, merge_parts):
                at = start + tl.arange(0, merge_parts)
                slots = tl.where(at == 0, extra + pair, pair + at - 1)[:, None] * group + i[None, :]  # [parts, G]
                there = (at < divided)[:, None] & (i < group)[None, :]
                # Not from the level-1 cache, which may hold what was there before.
                logs = tl.load(sizes + slots, mask=there, other=float("-inf"), cache_modifier=".cg")
                more = tl.load(
                    parts + slots[:, :, None] * dim + d[None, None, :],
                    mask=there[:, :, None] & (d < dim)[None, None, :],
                    other=0.0,
                    cache_modifier=".cg",
                )
                logs = tl.where((i < group)[None, :], logs, 0.0)
                old = top
                top = tl.maximum(old, tl.max(logs, 0))
                fade = tl.exp2(old - top)
                weights = tl.exp2(logs - top[None, :])
                whole = whole * fade + tl.sum(weights, 0)
                total = total * fade[:, None] + tl.sum(more * weights[:, :, None], 0)
            if has_sinks:
                sink = tl.load(sinks + head * group + i, mask=i < group, other=0.0)
                whole += tl.exp2(sink * LOG2_E - top)
            own = result + (head * group + i)[:, None] * dim + d[None, :]
            is_own = (i < group)[:, None] & (d < dim)[None, :]
            tl.store(own, (total / whole[:, None]).to(out.dtype.element_ty), mask=is_own)
            tl.store(arrived + pair, 0)
