"""Paged attention with torch operations only: gathers the blocks of several requests, then computes attention in one
call.

The kernel is torch's FlashAttention 2 (Dao, 2023), in its variant for sequences of different lengths: decode, chunks of
a prefill and any mixture of them are one call. Where it is not supported (float32, odd head sizes, old devices, no
GPU, all features but sliding windows and shared caches), plain products and a softmax are used.

Letters: R requests, T tokens, H query heads, K key-value heads, D head dimension, V channels of a value, B blocks of a
request, S gathered keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail.nn import AttentionBackend, AttentionSpec, KVIndex, Step
from dovetail_backends_cuda.kernels import flash_attention, plain_attention, whole_attention
from dovetail_backends_cuda.slices import (
    Slice,
    WholeSlice,
    decode_slices,
    mixed_slices,
    single_request_slices,
    whole_slices,
)

GATHER_BYTES = 1 << 29
"""Maximum bytes of keys and values that are gathered at once, unless one request has more. It limits memory, and is
large enough not to cost speed: slices that stay in the 60 MB level-2 cache took longer at every size that was tested
(64 requests of 320 tokens on an H200: 93 µs at once, 107 in two slices, 132 in three).
"""
SCORE_BYTES = 1 << 28
"""Maximum bytes of scores of the plain products, unless one token has more."""
STEPS_PER_OCTAVE = 4
FLASH_FEATURES = frozenset({"sliding", "shared_cache"})
"""Of a spec, for torch's FlashAttention."""


class GatherAttention(AttentionBackend):
    """A token's row holds its keys, then its values, ``[blocks, block_size, K * D + K * V]``, or is latent: a block is
    contiguous, so that a gather copies long rows, and a token's key and value are views of the gathered rows.
    """

    def __init__(self, *, device: torch.device, dtype: torch.dtype, kv_dtype: torch.dtype, block_size: int) -> None:
        super().__init__(device=device, dtype=dtype, kv_dtype=kv_dtype, block_size=block_size)
        # FlashAttention 2 needs bfloat16's and float16's tensor cores of Ampere.
        self._flash = (
            device.type == "cuda"
            and dtype in (torch.bfloat16, torch.float16)
            and torch.cuda.get_device_capability(device) >= (8, 0)
        )

    def allocate(self, spec: AttentionSpec, blocks: int) -> Tensor:
        return torch.zeros(blocks, self.block_size, _row_size(spec), dtype=self.kv_dtype, device=self.device)

    def workspace_bytes(self, spec: AttentionSpec, tokens: int, length: int) -> int:
        gathered = max(GATHER_BYTES, length * _row_size(spec) * self.kv_dtype.itemsize)
        if self._fits(spec):
            return 2 * gathered  # and a copy in another order
        # Keys and values in float32, the values again without stale ones; scores, their softmax and a masked copy.
        scores = max(SCORE_BYTES, 4 * spec.num_heads * length)
        return gathered + 2 * gathered * torch.float32.itemsize // self.kv_dtype.itemsize + 3 * scores

    def capture_lengths(self, max_len: int) -> tuple[int, ...]:
        """Four bounds per octave from 256. A graph gathers as many blocks of each request as its bound allows."""
        return (*(b for b in _length_bounds(max_len) if b < max_len), max_len)

    def prepare(self, step: Step, index: KVIndex, specs: frozenset[AttentionSpec]) -> list[Slice] | list[WholeSlice]:
        """Divide the step's requests into slices within the limits. Layers of one group share them, as they share
        the block tables.
        """
        spec = next(iter(specs))  # all see the same
        window, chunk = spec.window, spec.chunk
        score_bytes = max(spec.num_heads for spec in specs) * torch.float32.itemsize
        if not spec.causal:
            return whole_slices(step, SCORE_BYTES // score_bytes)
        token_bytes = max(map(_row_size, specs)) * self.kv_dtype.itemsize
        limit = max(1, GATHER_BYTES // (token_bytes * self.block_size))
        if step.lengths is None:
            # Nothing but the widths of the tensors may decide here; every request is gathered as far as the longest may reach.
            assert step.max_query_len == 1, "a step without lengths is one token of each request"
            return decode_slices(step, index, self.block_size, window, limit, _split_length(step.max_seq_len), chunk)
        if all(self._fits(spec) for spec in specs):
            return mixed_slices(step, index, self.block_size, window, limit, _split_length(step.max_seq_len))
        return single_request_slices(step, index, self.block_size, window, SCORE_BYTES // score_bytes, chunk)

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
        slopes = self.alibi_slopes(spec)
        if cache is None:
            assert k is not None
            assert v is not None
            whole: list[WholeSlice] = index.metadata
            return torch.cat(
                [whole_attention(q[p.tokens], k[p.request], v[p.request], p, spec, sinks, slopes) for p in whole]
            )
        keys, values = _split(cache, spec)
        if k is not None:
            keys.index_copy_(0, index.slot_mapping, k)
        if v is not None:
            values.index_copy_(0, index.slot_mapping, v)
        slices: list[Slice] = index.metadata
        fits = self._fits(spec)
        found = []
        for part in slices:
            keys, values = _split(cache.flatten(1).index_select(0, part.blocks), spec)
            if fits:
                found.append(flash_attention(q[part.tokens], keys, values, part, spec))
            else:
                found.append(plain_attention(q[part.tokens], keys, values, part, spec, sinks, slopes))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _fits(self, spec: AttentionSpec) -> bool:
        return self._flash and spec.features <= FLASH_FEATURES and spec.head_dim % 8 == 0 and spec.head_dim <= 256


def _row_size(spec: AttentionSpec) -> int:
    """Numbers that a layer keeps of a token."""
    return spec.head_dim if spec.latent else spec.num_kv_heads * (spec.head_dim + spec.values)


def _split(stored: Tensor, spec: AttentionSpec) -> tuple[Tensor, Tensor]:
    """Views of the rows of tokens, in blocks of any number, as keys ``[N, K, D]`` and values ``[N, K, V]``; the values
    of latent rows are a part of the keys.

    Every layer of every step calls it twice. Where keys and values have one size, it takes two calls of torch.
    """
    if spec.latent:
        keys = stored.view(-1, 1, spec.head_dim)
        return keys, keys[..., : spec.values]
    if spec.values == spec.head_dim:
        keys, values = stored.view(-1, 2 * spec.num_kv_heads, spec.head_dim).chunk(2, 1)
        return keys, values
    rows, size = stored.view(-1, _row_size(spec)), spec.num_kv_heads * spec.head_dim
    return rows[:, :size].unflatten(1, (-1, spec.head_dim)), rows[:, size:].unflatten(1, (-1, spec.values))


def _length_bounds(max_length: int) -> list[int]:
    """256, 320, 384, 448, 512, 640, … up to the first that is not below ``max_length``."""
    found = [256]
    while found[-1] < max_length:
        octave = 1 << (found[-1].bit_length() - 1)
        found.append(found[-1] + octave // STEPS_PER_OCTAVE)
    return found


def _split_length(max_seq_len: int) -> int:
    """The length from which the kernel computes into how many parts it splits the keys. The number of parts decides
    the order of its sums. The length is rounded up, so that a decode step gives the same bits with its own lengths
    and when captured with a bound.
    """
    return _length_bounds(max_seq_len)[-1]
