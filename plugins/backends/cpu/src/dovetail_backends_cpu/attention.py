"""Paged attention from torch operations: gather a request's blocks, then the fused CPU kernel.

A token's result is bitwise the same whatever else is in the step and however its request is divided into chunks.
torch's kernel (Dao et al., 2022, on tiles of 32 to 256 queries and :data:`CHUNK` keys, each item of batch, head and
queries on one thread) needs two precautions for that:

- The keys that enter a token's sums depend only on its position (:func:`span`). A completely masked chunk of keys
  changes nothing. A longer last chunk does, although its rest is masked: the library sums 208 products in another order
  than 256.
- The library's matrix product uses other code for fewer than :data:`ROWS` rows, and on several threads. So rows are
  padded, and a single item is computed twice, which keeps it on one thread.

Everything is computed in float32, whatever the activations' dtype: for bfloat16 the kernel is no faster, for float16
half as fast, and with some instruction sets it uses other code for large inputs.

Letters: R requests, T tokens of a tile, H query heads, K key-value heads, G = H / K, L keys, D head dimension, B
blocks.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.nn import AttentionBackend, AttentionSpec, KVIndex, Step

CHUNK = 512
"""Keys that torch's kernel processes at a time, counted from the first."""
SHORT = (64, 128, 256, 384, CHUNK)
"""Numbers of keys that a token's first chunk is padded to, close enough to each other to waste little on short
sequences.
"""
ALIGN = 128
"""A window's first key is rounded down to a multiple of this."""
ROWS = 4


def span(position: int, window: int | None, block_size: int) -> tuple[int, int]:
    """The range of keys that a token attends over: (first, count). ``first`` is a multiple of the block size."""
    first = 0
    if window is not None:
        align = math.lcm(ALIGN, block_size)
        first = max(0, position - window + 1) // align * align
    seen = position + 1 - first
    return first, next((n for n in SHORT if seen <= n), -(-seen // CHUNK) * CHUNK)


def span_end(first: int, keys: int, window: int | None, block_size: int) -> int:
    """The first position after those with this span."""
    end = first + keys
    return end if window is None else min(end, first + math.lcm(ALIGN, block_size) + window - 1)


@dataclass
class DecodeBatch:
    """Requests with one new token each.

    Attributes:
        tokens: int64 ``[R]``, their rows in the step.
        blocks: int64 ``[R * B]``.
        keys: L.
        mask: float32 ``[R, 1, 1, L]``, 0 for visible keys and -inf for others.
    """

    tokens: Tensor
    blocks: Tensor
    keys: int
    mask: Tensor


@dataclass
class PrefillTile:
    """Adjacent tokens of one request with the same span.

    Attributes:
        start, stop: their rows in the step.
        blocks: int64 ``[B]``.
        keys: L.
        mask: ``[T, L]`` as above.
    """

    start: int
    stop: int
    blocks: Tensor
    keys: int
    mask: Tensor


@dataclass
class StepMetadata:
    """A step's work for one group of layers.

    Attributes:
        new_blocks: int64, the blocks that get their first token in this step.
    """

    new_blocks: Tensor
    decodes: list[DecodeBatch]
    tiles: list[PrefillTile]


@dataclass(frozen=True)
class DecodeRequest:
    """One request with one token: its row in the step and in the block tables, its tokens, and the span of the new one."""

    token: int
    request: int
    length: int
    first: int
    keys: int


class SdpaAttention(AttentionBackend):
    """Keys and values are stored as ``[2, blocks, block_size, K, D]``, so that a token's slot is one row.

    An 8-bit cache holds cast values, without scales.
    """

    batch_invariant = True

    def allocate(self, spec: AttentionSpec, blocks: int) -> Tensor:
        shape = (2, blocks, self.block_size, spec.num_kv_heads, spec.head_dim)
        # An anonymous mapping takes memory on first touch, so the cache grows with use. (numpy's zeros would ask for huge pages, 2 MiB at the first touch of each layer.)
        data = mmap.mmap(-1, math.prod(shape) * self.kv_dtype.itemsize)
        return torch.frombuffer(data, dtype=self.kv_dtype).view(shape)

    def prepare(self, step: Step, index: KVIndex, specs: frozenset[AttentionSpec]) -> StepMetadata:
        assert step.lengths is not None, "the CPU records no graphs"
        (window,) = {spec.window for spec in specs}  # the layers of a group share it
        work = StepMetadata(index.slot_mapping[index.slot_mapping % self.block_size == 0] // self.block_size, [], [])
        decodes: list[DecodeRequest] = []
        start = 0
        for request, (new, length) in enumerate(zip(step.lengths.query, step.lengths.total, strict=True)):
            if new == 1:
                decodes.append(DecodeRequest(start, request, length, *span(length - 1, window, self.block_size)))
            else:
                work.tiles += self._tiles(index.block_tables[request], start, length - new, length, window)
            start += new
        work.decodes = [self._decodes(index.block_tables, group, window) for group in _group_decodes(decodes)]
        return work

    def _tiles(
        self, table: Tensor, start: int, first_position: int, length: int, window: int | None
    ) -> list[PrefillTile]:
        """The tiles of one request's tokens at positions ``first_position : length``, which begin at row ``start`` of the step."""
        found = []
        position = first_position
        while position < length:
            first, keys = span(position, window, self.block_size)
            end = min(length, span_end(first, keys, window, self.block_size))
            own, key = torch.arange(position, end)[:, None], torch.arange(first, first + keys)
            mask = _additive_mask(_visible_mask(key, own, window))
            blocks = self._blocks(table[None], torch.tensor([first]), keys, torch.tensor([end]))
            found.append(
                PrefillTile(start + position - first_position, start + end - first_position, blocks, keys, mask)
            )
            position = end
        return found

    def _decodes(self, tables: Tensor, group: list[DecodeRequest], window: int | None) -> DecodeBatch:
        keys = max(d.keys for d in group)
        first = torch.tensor([d.first for d in group])
        lengths = torch.tensor([d.length for d in group])
        mask = _additive_mask(_visible_mask(first[:, None] + torch.arange(keys), lengths[:, None] - 1, window))[
            :, None, None
        ]
        blocks = self._blocks(tables[[d.request for d in group]], first, keys, lengths)
        return DecodeBatch(torch.tensor([d.token for d in group]), blocks, keys, mask)

    def _blocks(self, tables: Tensor, first: Tensor, keys: int, lengths: Tensor) -> Tensor:
        """int64 ``[R * B]``: the blocks of ``keys`` tokens from ``first`` ``[R]`` on, 0 for those after ``lengths``
        ``[R]``.
        """
        size = self.block_size
        columns = first[:, None] // size + torch.arange(-(-keys // size))  # [R, B]
        own = tables.gather(1, columns.clamp(max=tables.shape[1] - 1))
        return torch.where(columns * size < lengths[:, None], own, 0).long().flatten()

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        cache: Tensor,
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
        sinks: Tensor | None = None,
    ) -> Tensor:
        assert k is not None
        assert v is not None
        num_kv_heads, ratio, dim = spec.num_kv_heads, spec.num_heads // spec.num_kv_heads, spec.head_dim
        work: StepMetadata = index.metadata
        self._write(k, v, cache, index.slot_mapping, work.new_blocks)
        out = torch.empty_like(q)
        for group in work.decodes:
            # The query heads of one KV head are the rows of one product.
            queries = q[group.tokens].float().view(-1, num_kv_heads, ratio, dim)  # [R, K, G, D]
            keys, values = self._read(cache, group.blocks, queries.shape[0], group.keys)  # [R, K, L, D]
            attended = _attend(queries, keys, values, group.mask, spec.scale)
            out[group.tokens] = attended.reshape(-1, spec.num_heads, dim).to(q.dtype)
        for tile in work.tiles:
            rows = q[tile.start : tile.stop].float().view(-1, num_kv_heads, ratio, dim)
            queries = rows.permute(1, 2, 0, 3)  # [K, G, T, D]
            gathered = self._read(cache, tile.blocks, 1, tile.keys)
            keys, values = (x[0][:, None].expand(-1, ratio, -1, -1) for x in gathered)  # [K, G, L, D]
            attended = _attend(queries, keys, values, tile.mask, spec.scale)
            out[tile.start : tile.stop] = attended.permute(2, 0, 1, 3).reshape(-1, spec.num_heads, dim)
        return out

    def _write(self, k: Tensor, v: Tensor, cache: Tensor, slots: Tensor, new_blocks: Tensor) -> None:
        if new_blocks.numel():
            # What the block's last owner left must not be seen: a mask of -inf hides a number, but not a NaN.
            self._bytes(cache).index_fill_(1, new_blocks, 0)
        limit = torch.finfo(self.kv_dtype).max
        for place, new in zip(self._bytes(cache).flatten(1, 2), (k, v), strict=True):
            if self.kv_dtype.itemsize < new.dtype.itemsize:
                new = new.clamp(-limit, limit)  # not every torch rounds what is too large to the largest
            place.index_copy_(0, slots, self._bytes(new.to(self.kv_dtype)))

    def _bytes(self, data: Tensor) -> Tensor:
        """A view as bytes, because torch cannot index 8-bit floating-point numbers."""
        return data.view(torch.uint8) if self.kv_dtype.itemsize == 1 else data

    def _read(self, cache: Tensor, blocks: Tensor, requests: int, keys: int) -> list[Tensor]:
        """Gather the keys and values of requests: float32 ``[R, K, L, D]`` each."""
        shape = (requests, -1, *cache.shape[3:])
        return [x.index_select(0, blocks).view(shape)[:, :keys].transpose(1, 2).float() for x in cache]


def _group_decodes(decodes: list[DecodeRequest]) -> list[list[DecodeRequest]]:
    """Group requests that can be computed with one number of keys: equal numbers, or whole chunks if no request is
    padded to more than twice its own.
    """
    groups: list[list[DecodeRequest]] = []
    for decode in sorted(decodes, key=lambda d: d.keys):
        if groups and (decode.keys == (shortest := groups[-1][0].keys) or CHUNK <= shortest >= decode.keys / 2):
            groups[-1].append(decode)
        else:
            groups.append([decode])
    return groups


def _visible_mask(key: Tensor, own: Tensor, window: int | None) -> Tensor:
    """Mask of the positions that a token at position ``own`` sees."""
    seen = key <= own
    return seen if window is None else seen & (key > own - window)


def _additive_mask(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention over two batch dimensions, ``[A, B, M, D]`` over ``[A, B, L, D]``; the mask broadcasts to ``[A, B, M, L]``."""
    items, heads, rows, _ = queries.shape
    if missing := -rows % ROWS:
        queries = F.pad(queries, (0, 0, 0, missing))
        if mask.shape[-2] > 1:
            mask = F.pad(mask, (0, 0, 0, missing))
    if items * heads == 1:
        queries, keys, values = (x.expand(2, -1, -1, -1) for x in (queries, keys, values))
    mask = mask.expand(queries.shape[0], heads, rows + missing, -1)
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
    return attended[:items, :, :rows]
