"""Paged attention from torch operations: gather a request's blocks, then the fused CPU kernel.

Decoding requests are taken together where their lengths are alike, with the query heads of one KV head as the rows of one product; each chunk of
a prefill goes alone. Which requests share a call changes the padding that a request
sees, and with it at most the order of its sums: masked keys enter them as zeros.

Letters: R requests, T tokens of a chunk, H query heads, K key-value heads, G = H / K, L keys, D head dimension, B blocks.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.nn import AttentionBackend, AttentionSpec, Step


@dataclass
class DecodeGroup:
    """Requests that bring one token each.

    Attributes:
        tokens: int64 ``[R]``, their rows in the step.
        blocks: int64 ``[R, B]``.
        mask: ``[R, 1, 1, B * block_size]``, 0 where a key is seen and -inf where not.
    """

    tokens: Tensor
    blocks: Tensor
    mask: Tensor


@dataclass
class Chunk:
    """One request's part of a prefill.

    Attributes:
        start, stop: its tokens in the step.
        blocks: int64 ``[B]``.
        keys: L, the keys in those blocks that are filled.
        mask: ``[T, L]`` as above, or None for the plain causal triangle.
    """

    start: int
    stop: int
    blocks: Tensor
    keys: int
    mask: Tensor | None


@dataclass
class Layout:
    """The work of a step for layers of one window."""

    decodes: list[DecodeGroup]
    chunks: list[Chunk]


@dataclass
class Work:
    """A step's work.

    Attributes:
        begun: int64, the blocks that get their first token in this step.
        layouts: by window.
    """

    begun: Tensor
    layouts: dict[int | None, Layout]


class SdpaAttention(AttentionBackend):
    """Keys and values lie as ``[2, blocks, block_size, K, D]``, so that a token's slot is one row."""

    def allocate(self, spec: AttentionSpec, blocks: int) -> Tensor:
        shape = (2, blocks, self.block_size, spec.kv_heads, spec.head_dim)
        # An anonymous mapping takes memory on first touch, so the cache grows with use. (numpy's zeros would ask for huge pages, 2 MiB at the first touch of each layer.)
        data = mmap.mmap(-1, math.prod(shape) * self.kv_dtype.itemsize)
        return torch.frombuffer(data, dtype=self.kv_dtype).view(shape)

    def prepare(self, step: Step, specs: frozenset[AttentionSpec]) -> Work:
        starts, lengths = step.query_start.tolist(), step.seq_lens.tolist()
        layouts = {window: self._layout(step, starts, lengths, window) for window in {s.window for s in specs}}
        return Work(step.slots[step.slots % self.block_size == 0] // self.block_size, layouts)

    def _layout(self, step: Step, starts: list[int], lengths: list[int], window: int | None) -> Layout:
        layout = Layout([], [])
        decodes: list[tuple[int, int, int, int]] = []  # (blocks, request, first block, length)
        for request, length in enumerate(lengths):
            start, stop = starts[request], starts[request + 1]
            if start == stop:
                continue
            oldest = length - (stop - start)  # position of the request's first new token
            first = 0 if window is None else max(0, oldest - window + 1) // self.block_size
            last = -(-length // self.block_size)
            if stop - start == 1:
                decodes.append((last - first, request, first, length))
            else:
                blocks = step.block_tables[request, first:last].long()
                keys = length - first * self.block_size
                mask = self._chunk_mask(oldest - first * self.block_size, stop - start, keys, window)
                layout.chunks.append(Chunk(start, stop, blocks, keys, mask))
        decodes.sort()
        group: list[tuple[int, int, int, int]] = []
        for item in decodes:
            # Padding to a length more than twice one's own would cost more than a call of one's own.
            if group and item[0] > 2 * group[0][0] + 1:
                layout.decodes.append(self._decode_group(step, starts, group, window))
                group = []
            group.append(item)
        if group:
            layout.decodes.append(self._decode_group(step, starts, group, window))
        return layout

    def _decode_group(
        self, step: Step, starts: list[int], group: list[tuple[int, int, int, int]], window: int | None
    ) -> DecodeGroup:
        group = sorted(group, key=lambda item: item[1])  # rows in the step's order
        width = max(item[0] for item in group)
        requests = torch.tensor([item[1] for item in group])
        first = torch.tensor([item[2] for item in group])
        lengths = torch.tensor([item[3] for item in group])
        columns = (first[:, None] + torch.arange(width)).clamp_(max=step.block_tables.shape[1] - 1)
        blocks = step.block_tables[requests[:, None], columns].long()
        keys = first[:, None] * self.block_size + torch.arange(width * self.block_size)  # [R, L] positions
        seen = keys < lengths[:, None]
        if window is not None:
            seen &= keys >= lengths[:, None] - window
        return DecodeGroup(
            torch.tensor([starts[item[1]] for item in group]), blocks, self._additive(seen)[:, None, None]
        )

    def _chunk_mask(self, offset: int, tokens: int, keys: int, window: int | None) -> Tensor | None:
        """``[T, L]``, or None where it is the causal triangle of a prefill from the start."""
        if offset == 0 and tokens == keys and (window is None or window >= keys):
            return None
        own, key = torch.arange(offset, offset + tokens)[:, None], torch.arange(keys)
        seen = key <= own
        if window is not None:
            seen &= key > own - window
        return self._additive(seen)

    def _additive(self, seen: Tensor) -> Tensor:
        return torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, float("-inf"))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, step: Step, spec: AttentionSpec) -> Tensor:
        kv_heads, dim = spec.kv_heads, spec.head_dim
        work: Work = step.attention
        if work.begun.numel():
            # What the block's last owner left must not be seen: a mask of -inf hides a number, but not a NaN.
            cache.index_fill_(1, work.begun, 0)
        flat = cache.view(2, -1, kv_heads, dim)
        flat[0].index_copy_(0, step.slots, k.to(self.kv_dtype))
        flat[1].index_copy_(0, step.slots, v.to(self.kv_dtype))
        layout = work.layouts[spec.window]
        out = torch.empty_like(q)
        for group in layout.decodes:
            keys, values = (c[group.blocks].flatten(1, 2).transpose(1, 2).to(q.dtype) for c in cache)  # [R, K, L, D]
            queries = q[group.tokens].view(-1, kv_heads, spec.heads // kv_heads, dim)  # [R, K, G, D]
            mask = group.mask.expand(-1, kv_heads, queries.shape[2], -1)
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=spec.scale)
            out[group.tokens] = attended.reshape(-1, spec.heads, dim)
        for chunk in layout.chunks:
            shape = (kv_heads, spec.heads // kv_heads, chunk.keys, dim)
            keys, values = (
                c[chunk.blocks].flatten(0, 1)[: chunk.keys].transpose(0, 1)[:, None].expand(shape).to(q.dtype)
                for c in cache
            )  # [K, G, L, D]
            queries = q[chunk.start : chunk.stop].view(-1, kv_heads, shape[1], dim).permute(1, 2, 0, 3)  # [K, G, T, D]
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=chunk.mask, is_causal=chunk.mask is None, scale=spec.scale
            )
            out[chunk.start : chunk.stop] = attended.permute(2, 0, 1, 3).reshape(-1, spec.heads, dim)
        return out
