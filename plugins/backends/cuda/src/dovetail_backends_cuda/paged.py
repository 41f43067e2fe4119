"""Paged attention whose decode steps read the blocks where they are, in Triton.

Steps in which a request has several new tokens gather the blocks and use torch's FlashAttention 2, as :mod:`dovetail_backends_cuda.attention`
does; both share the cache's layout.

Letters: R requests, T tokens, H query heads, K key-value heads, G = H / K, D head dimension, E most parts beyond the first of a pair of request and head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from dovetail.nn import AttentionSpec, KVIndex, Rotation, Step
from dovetail_backends_cuda import launch
from dovetail_backends_cuda.attention import GatherAttention
from dovetail_backends_cuda.paged_kernels import decode_kernel, plan_kernel, write_kernel

TILE = 32
"""Tokens that a block takes at a time."""
WARP_NUMBERS = 2048
"""Sums of a block that one warp has room for. One takes less time than two, which would have to wait for each other in every tile."""
STAGES = 3
"""Of the loop over tiles. The block table's entries, which the loads of keys need, take some of them: one tile is in flight, of each of many blocks."""
BLOCKS_PER_PROCESSOR = 6
UNDIVIDED = 256
"""Tokens of a request that are not divided into parts where there are enough requests to keep the device busy."""
MERGED = 4096
"""Numbers of parts that are read at once when they are added up."""
WRITTEN_HEADS = 16
"""Heads of a token that one block writes."""


@dataclass(frozen=True)
class DecodePlan:
    """The work of a decode step, on the device.

    Attributes:
        plan, arrived, parts, sizes: as :mod:`dovetail_backends_cuda.paged_kernels` says, for the widest layer of the group. Each layer
            overwrites what the one before left.
        extra: E.
        captured: no request of the step reads what another one writes in it.
    """

    plan: Tensor
    arrived: Tensor
    parts: Tensor
    sizes: Tensor
    extra: int
    captured: bool


class PagedAttention(GatherAttention):
    """Work of a captured step follows the lengths on the device, whatever the bound."""

    def capture_lengths(self, max_len: int) -> tuple[int, ...]:
        return (max_len,)

    def workspace_bytes(self, spec: AttentionSpec, tokens: int, length: int) -> int:
        parts = 2 * self._limit * spec.num_heads // spec.num_kv_heads * (spec.head_dim + 1) * torch.float32.itemsize
        return super().workspace_bytes(spec, tokens, length) + parts

    @property
    def _limit(self) -> int:
        """Most parts beyond the first."""
        return BLOCKS_PER_PROCESSOR * launch.processors(self.device)

    def prepare(self, step: Step, index: KVIndex, specs: frozenset[AttentionSpec]) -> Any:
        if step.max_query_len > 1:
            return super().prepare(step, index, specs)
        spec = next(iter(specs))  # all see the same
        requests = len(step.seq_lens)
        kv_heads = max(spec.num_kv_heads for spec in specs)
        pairs = requests * kv_heads
        # No more than the longest request that this step may have could be divided into.
        extra = max(1, min(self._limit, pairs * (triton.cdiv(step.max_seq_len, TILE) - 1)))
        least = 1 if pairs < 2 * launch.processors(self.device) else UNDIVIDED // TILE
        plan = torch.empty(requests + 2, dtype=torch.int32, device=self.device)
        arrived = torch.empty(extra, dtype=torch.int32, device=self.device)
        plan_kernel[(1,)](
            step.seq_lens, plan, arrived, requests, kv_heads, extra,
            spec.window or 0, TILE, least, _request_block(requests), triton.next_power_of_2(self._limit), num_warps=4,
        )  # fmt: skip
        group = max(spec.num_heads // spec.num_kv_heads for spec in specs)
        widest = max(spec.head_dim for spec in specs)
        parts = torch.empty(2 * extra, group, widest, dtype=torch.float32, device=self.device)
        sizes = torch.empty(2 * extra, group, dtype=torch.float32, device=self.device)
        return DecodePlan(plan, arrived, parts, sizes, extra, step.lengths is None)

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        cache: Tensor | None,
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
        sinks: Tensor | None = None,
    ) -> Tensor:
        assert cache is not None, "every layer that this backend takes has a cache"
        plan = index.metadata
        new = None
        if k is not None:
            assert v is not None
            if isinstance(plan, DecodePlan) and plan.captured:
                new = NewTokens(k, v, index.slot_mapping)
            else:
                self._write(None, k, v, None, cache, index)
        if not isinstance(plan, DecodePlan):
            return super().forward(q, None, None, cache, step, index, spec, sinks)
        return decode(q, cache, step.seq_lens, index.block_tables, plan, spec, sinks, self.block_size, new)

    def forward_rotated(
        self,
        qk: Tensor,
        v: Tensor,
        rotation: Rotation,
        cache: Tensor,
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Rotates queries and keys and writes keys and values in one kernel: that of attention in a captured step."""
        q, k, plan = qk[:, : spec.num_heads], qk[:, spec.num_heads :], index.metadata
        if isinstance(plan, DecodePlan) and plan.captured:
            new = NewTokens(k, v, index.slot_mapping, rotation)
            return decode(q, cache, step.seq_lens, index.block_tables, plan, spec, sinks, self.block_size, new)
        q = self._write(q, k, v, rotation, cache, index)
        return self.forward(q, None, None, cache, step, index, spec, sinks)

    def _write(
        self, q: Tensor | None, k: Tensor, v: Tensor, rotation: Rotation | None, cache: Tensor, index: KVIndex
    ) -> Tensor:
        """Write keys and values; the queries, rotated as the keys are."""
        tokens, kv_heads, dim = k.shape
        k, v = _adjacent(k), _adjacent(v)
        q = k[:, :0] if q is None else _adjacent(q)
        heads = q.shape[1]
        turned = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        cos, sin, rotated, interleaved = _angles(k, rotation)
        grid = (tokens, triton.cdiv(heads + 2 * kv_heads, WRITTEN_HEADS))
        write_kernel[grid](
            q, k, v, cos, sin, index.slot_mapping, turned, cache, q.stride(0), k.stride(0), v.stride(0), cos.stride(0),
            heads, kv_heads, dim, dim // 2, rotated, interleaved, WRITTEN_HEADS, triton.next_power_of_2(dim // 2),
            num_warps=4, **launch.options(k.device),
        )  # fmt: skip
        return turned


@dataclass(frozen=True)
class NewTokens:
    """What a decode step adds to a layer's cache.

    Attributes:
        k, v: ``[R, K, D]``.
        slots: int64 ``[R]``, of the cache.
        rotation: of queries and keys, which is yet to be applied.
    """

    k: Tensor
    v: Tensor
    slots: Tensor
    rotation: Rotation | None = None


def decode(
    q: Tensor,
    cache: Tensor,
    lengths: Tensor,
    tables: Tensor,
    plan: DecodePlan,
    spec: AttentionSpec,
    sinks: Tensor | None,
    block_size: int,
    new: NewTokens | None = None,
) -> Tensor:
    """Attention of one token of each request, ``[R, H, D]`` → ``[R, H, D]``.

    Args:
        q: the heads of a token are adjacent.
        cache: ``[blocks, block_size, K * D + K * D]``.
        lengths: int32 ``[R]``.
        tables: int32 ``[R, B]``.
        new: rows that are not in the cache yet, and which no other request reads.
    """
    q = _adjacent(q)
    requests, heads, dim = q.shape
    group = triton.next_power_of_2(heads // spec.num_kv_heads)
    dim_block = triton.next_power_of_2(dim)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    pairs = requests * spec.num_kv_heads
    assert tables.stride(1) == 1
    k, v, slots = (q, q, lengths) if new is None else (_adjacent(new.k), _adjacent(new.v), new.slots)
    cos, sin, rotated, interleaved = _angles(q, None if new is None else new.rotation)
    decode_kernel[(plan.extra + pairs,)](
        q, k, v, cos, sin, slots, cache, tables, lengths, plan.plan, plan.arrived, sinks, out, plan.parts, plan.sizes,
        requests, plan.extra, tables.stride(0), q.stride(0), k.stride(0), v.stride(0), cos.stride(0), spec.scale, spec.softcap or 1.0,
        heads, spec.num_kv_heads, dim, max(16, group), dim_block,
        block_size, spec.window or 0, spec.softcap is not None, sinks is not None, TILE,
        _request_block(requests), group, min(16, max(1, MERGED // (group * dim_block))), STAGES,
        new is not None, rotated, interleaved,
        num_warps=1 if max(16, group) * dim_block <= WARP_NUMBERS else 2, **launch.options(q.device),
    )  # fmt: skip
    return out


def _angles(x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, int, bool]:
    """cos, sin, the pairs of a head that are rotated, and whether they are interleaved."""
    if rotation is None:
        return x, x, 0, False
    cos, sin = rotation.rope.cos, rotation.rope.sin
    assert cos.stride() == sin.stride(), "angles of one step are made alike"
    assert cos.stride(1) == 1
    return cos, sin, cos.shape[1], rotation.interleaved


def _request_block(requests: int) -> int:
    """In few sizes, because each is another kernel."""
    return next((size for size in (16, 64, 256) if size >= requests), triton.next_power_of_2(requests))


def _adjacent(x: Tensor) -> Tensor:
    """With the heads of a token side by side in memory."""
    return x if x.stride(2) == 1 and (x.stride(1) == x.shape[2] or x.shape[1] <= 1) else x.contiguous()
