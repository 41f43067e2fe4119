"""Paged attention from torch operations: gather a request's blocks, then the fused CPU kernel, or plain products where
scores are bent or biased or there are sinks.

A token's result is bitwise the same whatever else is in the step and however its request is divided into chunks.
torch's kernel (Dao et al., 2022, on tiles of 32 to 256 queries and :data:`CHUNK` keys, each item of batch, head and
queries on one thread) needs two precautions for that:

- The keys that enter a token's sums depend only on its position (:func:`span`). A completely masked chunk of keys
  changes nothing. A longer last chunk does, although its rest is masked: the library sums 208 products in another order
  than 256.
- The library's matrix product uses other code for fewer than :data:`ROWS` rows, and on several threads. So rows are
  padded, and a single item is computed twice, which keeps it on one thread.

Plain products need the same precautions, and the number of keys has to be exactly that of the span. Torch computes
functions of single numbers differently after a thread's last whole vector, so these are computed in pieces that one
thread takes.

Everything is computed in float32, whatever the activations' dtype: for bfloat16 the kernel is no faster, for float16
half as fast, and with some instruction sets it uses other code for large inputs.

Letters: R requests, T tokens of a tile, H query heads, K key-value heads, G = H / K, L keys, D head dimension, V channels
of a value, B blocks.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field

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
"""The first key of a window or chunk is rounded down to a multiple of this."""
ROWS = 4
TILE = 512
"""Tokens of a tile of a request that sees all of itself. Each holds a mask."""
SCORE_BYTES = 1 << 26
"""Maximum bytes of scores of plain products, unless a few tokens have more."""
PIECE = 1 << 14
"""Up to this many elements are computed by a single thread."""


def padded(keys: int) -> int:
    """The number of keys that so many are computed as."""
    return next((n for n in SHORT if keys <= n), -(-keys // CHUNK) * CHUNK)


def span(position: int, window: int | None, block_size: int, chunk: int | None = None) -> tuple[int, int]:
    """The range of keys that a token attends over: (first, count). ``first`` is a multiple of the block size."""
    first = 0
    if window is not None:
        first = max(0, position - window + 1)
    elif chunk is not None:
        first = position // chunk * chunk
    align = math.lcm(ALIGN, block_size)
    first = first // align * align
    return first, padded(position + 1 - first)


def span_end(first: int, keys: int, window: int | None, block_size: int) -> int:
    """The first position after those with this span, but for the end of a chunk."""
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
        distances: float32 of that shape, in tokens; None if no layer asks for them.
    """

    tokens: Tensor
    blocks: Tensor
    keys: int
    mask: Tensor
    distances: Tensor | None


@dataclass
class PrefillTile:
    """Adjacent tokens of one request with the same span.

    Attributes:
        start, stop: their rows in the step.
        blocks: int64 ``[B]``.
        keys: L.
        mask, distances: ``[T, L]`` as above.
    """

    start: int
    stop: int
    blocks: Tensor
    keys: int
    mask: Tensor
    distances: Tensor | None


@dataclass
class WholeTile:
    """Adjacent tokens of one request that is computed whole, and whose keys are not kept.

    Attributes:
        start, stop: their rows in the step.
        request: the rows of its request.
        keys: L.
        mask, distances: ``[T, L]`` as above.
    """

    start: int
    stop: int
    request: slice
    keys: int
    mask: Tensor
    distances: Tensor | None


@dataclass
class StepMetadata:
    """A step's work for one group of layers.

    Attributes:
        new_blocks: int64, the blocks that get their first token in this step.
    """

    new_blocks: Tensor
    decodes: list[DecodeBatch] = field(default_factory=list)
    tiles: list[PrefillTile] = field(default_factory=list)
    whole: list[WholeTile] = field(default_factory=list)


@dataclass(frozen=True)
class DecodeRequest:
    """One request with one token: its row in the step and in the block tables, its tokens, and the span of the new one."""

    token: int
    request: int
    length: int
    first: int
    keys: int


class SdpaAttention(AttentionBackend):
    """Keys and values are stored as ``[blocks, block_size, K, D or V]`` each, so that a token's slot is one row; latent
    rows in one such tensor.

    An 8-bit cache holds cast values, without scales.
    """

    def is_batch_invariant(self, spec: AttentionSpec) -> bool:
        return True

    def workspace_bytes(self, spec: AttentionSpec, tokens: int, length: int) -> int:
        """Masks and distances, and for plain products scores, their softmax and a copy of it."""
        heads_length = 4 * ROWS * spec.num_heads * length
        masks = super().workspace_bytes(spec, tokens, length) * (1 if spec.alibi_slopes is None else 2)
        return masks + _is_plain(spec) * 3 * max(SCORE_BYTES, heads_length)

    def allocate(self, spec: AttentionSpec, blocks: int) -> tuple[Tensor, ...]:
        sizes = (spec.head_dim,) if spec.latent else (spec.head_dim, spec.values)
        return tuple(self._allocate((blocks, self.block_size, spec.num_kv_heads, size)) for size in sizes)

    def _allocate(self, shape: tuple[int, ...]) -> Tensor:
        # An anonymous mapping takes memory on first touch, so the cache grows with use. (numpy's zeros would ask for huge pages, 2 MiB at the first touch of each layer.)
        data = mmap.mmap(-1, math.prod(shape) * self.kv_dtype.itemsize)
        return torch.frombuffer(data, dtype=self.kv_dtype).view(shape)

    def prepare(self, step: Step, index: KVIndex, specs: frozenset[AttentionSpec]) -> StepMetadata:
        assert step.lengths is not None, "the CPU records no graphs"
        spec = next(iter(specs))  # the layers of a group see the same
        biased = any(spec.alibi_slopes is not None for spec in specs)
        work = StepMetadata(index.slot_mapping[index.slot_mapping % self.block_size == 0] // self.block_size)
        decodes: list[DecodeRequest] = []
        start = 0
        for request, (new, length) in enumerate(zip(step.lengths.query, step.lengths.total, strict=True)):
            if not spec.causal:
                work.whole += _whole_tiles(start, length, spec.window, biased)
            elif new == 1:
                first, keys = span(length - 1, spec.window, self.block_size, spec.chunk)
                decodes.append(DecodeRequest(start, request, length, first, keys))
            else:
                work.tiles += self._tiles(index.block_tables[request], start, length - new, length, spec, biased)
            start += new
        groups = _group_decodes(decodes, exactly=any(map(_is_plain, specs)))
        work.decodes = [self._decodes(index.block_tables, group, spec, biased) for group in groups]
        return work

    def _tiles(
        self, table: Tensor, start: int, first_position: int, length: int, spec: AttentionSpec, biased: bool
    ) -> Iterator[PrefillTile]:
        """The tiles of one request's tokens at positions ``first_position : length``, which begin at row ``start`` of the step."""
        position = first_position
        while position < length:
            first, keys = span(position, spec.window, self.block_size, spec.chunk)
            end = min(length, span_end(first, keys, spec.window, self.block_size))
            if spec.chunk is not None:
                end = min(end, (position // spec.chunk + 1) * spec.chunk)
            own, key = torch.arange(position, end)[:, None], torch.arange(first, first + keys)
            mask = _additive_mask(_visible_mask(key, own, spec))
            blocks = self._blocks(table[None], torch.tensor([first]), keys, torch.tensor([end]))
            distances = (own - key).float() if biased else None
            begin = start - first_position
            yield PrefillTile(begin + position, begin + end, blocks, keys, mask, distances)
            position = end

    def _decodes(self, tables: Tensor, group: list[DecodeRequest], spec: AttentionSpec, biased: bool) -> DecodeBatch:
        keys = max(d.keys for d in group)
        first = torch.tensor([d.first for d in group])
        lengths = torch.tensor([d.length for d in group])
        key, own = first[:, None] + torch.arange(keys), lengths[:, None] - 1
        seen = _visible_mask(key, own, spec)
        blocks = self._blocks(tables[[d.request for d in group]], first, keys, lengths)
        tokens = torch.tensor([d.token for d in group])
        distances = (own - key).float()[:, None, None] if biased else None
        return DecodeBatch(tokens, blocks, keys, _additive_mask(seen)[:, None, None], distances)

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
        cache: tuple[Tensor, ...] | None,
        step: Step,
        index: KVIndex,
        spec: AttentionSpec,
        sinks: Tensor | None = None,
    ) -> Tensor:
        num_kv_heads, ratio, dim = spec.num_kv_heads, spec.num_heads // spec.num_kv_heads, spec.head_dim
        work: StepMetadata = index.metadata
        out = q.new_empty(len(q), spec.num_heads, spec.values)
        slopes = self.alibi_slopes(spec)

        def attend_tile(tile: PrefillTile | WholeTile, keys: Tensor, values: Tensor) -> None:  # [K, L, D] each
            rows = q[tile.start : tile.stop].float().view(-1, num_kv_heads, ratio, dim)
            queries = rows.permute(1, 2, 0, 3)  # [K, G, T, D]
            own_sinks = None if sinks is None else sinks.view(num_kv_heads, ratio, 1)
            biases = _biases(slopes, tile.distances, (num_kv_heads, ratio, 1))
            attended = _attend(queries, keys[:, None], values[:, None], tile.mask, spec, own_sinks, biases)
            out[tile.start : tile.stop] = attended.permute(2, 0, 1, 3).reshape(-1, spec.num_heads, spec.values)

        if cache is None:
            assert k is not None
            assert v is not None
            for whole in work.whole:
                new = (x[whole.request].float().transpose(0, 1) for x in (k, v))  # [K, L, D]
                attend_tile(whole, *(F.pad(x, (0, 0, 0, whole.keys - x.shape[1])) for x in new))
            return out
        if not spec.shared_cache:
            self._write([x for x in (k, v) if x is not None], cache, index.slot_mapping, work.new_blocks)
        for group in work.decodes:
            # The query heads of one KV head are the rows of one product.
            queries = q[group.tokens].float().view(-1, num_kv_heads, ratio, dim)  # [R, K, G, D]
            keys, values = self._read(cache, group.blocks, queries.shape[0], group.keys, spec)  # [R, K, L, D]
            own_sinks = None if sinks is None else sinks.view(1, num_kv_heads, ratio)
            biases = _biases(slopes, group.distances, (1, num_kv_heads, ratio))
            attended = _attend(queries, keys, values, group.mask, spec, own_sinks, biases)
            out[group.tokens] = attended.reshape(-1, spec.num_heads, spec.values).to(q.dtype)
        for tile in work.tiles:
            attend_tile(tile, *(x[0] for x in self._read(cache, tile.blocks, 1, tile.keys, spec)))
        return out

    def _write(self, new: list[Tensor], cache: tuple[Tensor, ...], slots: Tensor, new_blocks: Tensor) -> None:
        limit = torch.finfo(self.kv_dtype).max
        for place, rows in zip(cache, new, strict=True):
            if new_blocks.numel():
                # What the block's last owner left must not be seen: a mask of -inf hides a number, but not a NaN.
                self._bytes(place).index_fill_(0, new_blocks, 0)
            if self.kv_dtype.itemsize < rows.dtype.itemsize:
                rows = rows.clamp(-limit, limit)  # not every torch rounds what is too large to the largest
            self._bytes(place).flatten(0, 1).index_copy_(0, slots, self._bytes(rows.to(self.kv_dtype)))

    def _bytes(self, data: Tensor) -> Tensor:
        """A view as bytes, because torch cannot index 8-bit floating-point numbers."""
        return data.view(torch.uint8) if self.kv_dtype.itemsize == 1 else data

    def _read(
        self, cache: tuple[Tensor, ...], blocks: Tensor, requests: int, keys: int, spec: AttentionSpec
    ) -> list[Tensor]:
        """Gather the keys ``[R, K, L, D]`` and values of requests, float32. Values of latent rows are the rows."""
        found = []
        for x in cache:
            gathered = x.index_select(0, blocks).view(requests, -1, *x.shape[2:])
            found.append(gathered[:, :keys].transpose(1, 2).float())
        return found if len(found) == 2 else [found[0], found[0]]


def _whole_tiles(start: int, length: int, window: int | None, biased: bool) -> Iterator[WholeTile]:
    """The tiles of a request that is computed whole, whose first token is row ``start`` of the step."""
    keys = padded(length)
    key = torch.arange(keys)
    for position in range(0, length, TILE):
        end = min(length, position + TILE)
        own = torch.arange(position, end)[:, None]
        seen = (key < length).expand(end - position, -1)
        if window is not None:
            seen = seen & ((key - own).abs() < window)
        distances = (key - own).abs().float() if biased else None
        request = slice(start, start + length)
        yield WholeTile(start + position, start + end, request, keys, _additive_mask(seen), distances)


def _group_decodes(decodes: list[DecodeRequest], *, exactly: bool) -> list[list[DecodeRequest]]:
    """Group requests that can be computed with one number of keys: equal numbers, or unless ``exactly`` whole chunks if
    no request is padded to more than twice its own.
    """
    groups: list[list[DecodeRequest]] = []
    for decode in sorted(decodes, key=lambda d: d.keys):
        if groups and (
            decode.keys == (shortest := groups[-1][0].keys) or (not exactly and CHUNK <= shortest >= decode.keys / 2)
        ):
            groups[-1].append(decode)
        else:
            groups.append([decode])
    return groups


def _visible_mask(key: Tensor, own: Tensor, spec: AttentionSpec) -> Tensor:
    """Mask of the positions that a token at position ``own`` sees, of those up to itself."""
    seen = key <= own
    if spec.window is not None:
        return seen & (key > own - spec.window)
    return seen if spec.chunk is None else seen & (key >= own // spec.chunk * spec.chunk)


def _additive_mask(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))


def _is_plain(spec: AttentionSpec) -> bool:
    """Whether torch's kernel does not know it."""
    return spec.softcap is not None or spec.sinks or spec.alibi_slopes is not None


@dataclass(frozen=True)
class Biases:
    """What each score falls by: ``slopes * distances``, which would take as much memory as the scores.

    Attributes:
        slopes: broadcasts to ``[A, B, M]``.
        distances: broadcasts to ``[A, B, M, L]``.
    """

    slopes: Tensor
    distances: Tensor

    def pad(self, missing: int) -> Biases:
        """With so many more rows, where they differ."""
        slopes = F.pad(self.slopes, (0, missing)) if self.slopes.shape[-1] > 1 else self.slopes
        more = self.distances.shape[-2] > 1
        return Biases(slopes, F.pad(self.distances, (0, 0, 0, missing)) if more else self.distances)

    def of(self, rows: slice) -> Tensor:
        """Of some of the rows."""
        slopes = self.slopes[..., rows] if self.slopes.shape[-1] > 1 else self.slopes
        distances = self.distances[..., rows, :] if self.distances.shape[-2] > 1 else self.distances
        return slopes[..., None] * distances


def _biases(slopes: Tensor | None, distances: Tensor | None, shape: tuple[int, ...]) -> Biases | None:
    """Of a layer with slopes ``[H]``, in this shape."""
    if slopes is None:
        return None
    assert distances is not None, "the metadata are of a group with this layer"
    return Biases(slopes.view(shape), distances)


def _attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    spec: AttentionSpec,
    sinks: Tensor | None,
    biases: Biases | None,
) -> Tensor:
    """Attention over two batch dimensions, ``[A, B, M, D]`` over ``[A, B or 1, L, D]``, values ``[A, B or 1, L, V or
    more]``; the mask broadcasts to ``[A, B, M, L]``, the sinks to ``[A, B, M]``: ``[A, B, M, V]``.
    """
    items, heads, rows, size = queries.shape
    if missing := -rows % ROWS:
        queries = F.pad(queries, (0, 0, 0, missing))
        if mask.shape[-2] > 1:
            mask = F.pad(mask, (0, 0, 0, missing))
        if sinks is not None and sinks.shape[-1] > 1:
            sinks = F.pad(sinks, (0, missing))
        if biases is not None:
            biases = biases.pad(missing)
    if items * heads == 1:
        queries, keys, values = (x.expand(2, -1, -1, -1) for x in (queries, keys, values))
    if _is_plain(spec):
        attended = _attend_plainly(queries, keys, values[..., : spec.values], mask, spec, sinks, biases)
    else:
        mask = mask.expand(queries.shape[0], heads, rows + missing, -1)
        keys, values = (x.expand(-1, heads, -1, -1) for x in (keys, values))
        # The kernel takes one size for all. Channels of zeros change no sum.
        if (wider := values.shape[-1] - size) > 0:
            queries, keys = F.pad(queries, (0, wider)), F.pad(keys, (0, wider))
        elif wider < 0:
            values = F.pad(values, (0, -wider))
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=spec.scale)
    return attended[:items, :, :rows, : spec.values]


def _attend_plainly(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    spec: AttentionSpec,
    sinks: Tensor | None,
    biases: Biases | None,
) -> Tensor:
    """The same as products and a softmax, a part of the rows at a time."""
    items, heads, rows, _ = queries.shape
    count = keys.shape[2]
    height = max(ROWS, SCORE_BYTES // (items * heads * count * 4) // ROWS * ROWS)
    found = []
    for top in range(0, rows, height):
        part = slice(top, top + height)
        scores = _multiply(queries[:, :, part], keys.transpose(2, 3)).mul_(spec.scale)  # [A, B, M, L]
        if spec.softcap is not None:
            for piece in scores.div_(spec.softcap).view(-1).split(PIECE):
                piece.tanh_()
            scores.mul_(spec.softcap)
        if biases is not None:
            scores -= biases.of(part)
        scores += mask[..., part, :] if mask.shape[-2] > 1 else mask
        if sinks is not None:
            own = sinks[..., part] if sinks.shape[-1] > 1 else sinks
            scores = torch.cat([scores, own.expand(items, heads, scores.shape[2])[..., None]], -1)
        weights = scores.softmax(-1)[..., :count]
        found.append(_multiply(weights, values))
    return found[0] if len(found) == 1 else torch.cat(found, 2)


def _multiply(x: Tensor, y: Tensor) -> Tensor:
    """``[A, B, M, K]`` times ``[A, B or 1, K, N]``, without a copy of y for each of B."""
    if y.shape[1] == x.shape[1]:
        return torch.matmul(x, y)
    return torch.matmul(x.flatten(1, 2), y[:, 0]).unflatten(1, x.shape[1:3])
