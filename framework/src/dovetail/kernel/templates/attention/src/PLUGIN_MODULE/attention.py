"""Paged attention, one request at a time: gather its blocks, then torch's fused attention.

Letters: T new tokens of a request, L its tokens in all, H query heads, K key-value heads, D head dimension, B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from dovetail.nn import AttentionBackend, AttentionSpec, Step
from torch import Tensor


@dataclass(frozen=True)
class Request:
    """One request's part of a step.

    Attributes:
        start, stop: its new tokens among all of the step's.
        length: L, cached and new.
        blocks: int64 ``[B]``.
        masks: window (None for none) → bool ``[T, L]``, true where a token is seen.
    """

    start: int
    stop: int
    length: int
    blocks: Tensor
    masks: dict[int | None, Tensor]


class PLUGIN_CLASSAttention(AttentionBackend):
    """Keys and values of a layer lie in one tensor ``[2, blocks, block_size, K, D]``."""

    def allocate(self, spec: AttentionSpec, blocks: int) -> Tensor:
        shape = (2, blocks, self.block_size, spec.kv_heads, spec.head_dim)
        return torch.empty(shape, dtype=self.kv_dtype, device=self.device)

    def prepare(self, step: Step, specs: frozenset[AttentionSpec]) -> list[Request]:
        starts, lengths = step.query_start.tolist(), step.seq_lens.tolist()
        windows = {spec.window for spec in specs}
        requests = []
        for number, length in enumerate(lengths):
            start, stop = starts[number], starts[number + 1]
            used = -(-length // self.block_size)
            own = torch.arange(length - (stop - start), length, device=self.device)[:, None]
            seen = torch.arange(length, device=self.device)
            masks = {w: (seen <= own) & (seen > own - (length if w is None else w)) for w in windows}
            requests.append(Request(start, stop, length, step.block_tables[number, :used].long(), masks))
        return requests

    def forward(self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, step: Step, spec: AttentionSpec) -> Tensor:
        slots = cache.flatten(1, 2)  # [2, blocks * block_size, K, D]
        slots[0].index_copy_(0, step.slots, k.to(self.kv_dtype))
        slots[1].index_copy_(0, step.slots, v.to(self.kv_dtype))
        out = torch.empty_like(q)
        requests: list[Request] = step.attention
        for request in requests:
            gathered = cache[:, request.blocks].flatten(1, 2)[:, : request.length]  # [2, L, K, D]
            keys, values = gathered.to(q.dtype).transpose(1, 2)[:, None]  # [1, K, L, D] each
            queries = q[request.start : request.stop].transpose(0, 1)[None]  # [1, H, T, D]
            mask = request.masks[spec.window]
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, scale=spec.scale, enable_gqa=spec.heads != spec.kv_heads
            )
            out[request.start : request.stop] = attended[0].transpose(0, 1)
        return out
