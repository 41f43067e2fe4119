"""Paged attention, one request at a time: gather its blocks, then torch's fused attention.

Letters: T new tokens of a request, L its tokens in all, H query heads, K key-value heads, D head dimension, B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from dovetail.nn import AttentionBackend, AttentionSpec, KVIndex, Step
from torch import Tensor


@dataclass(frozen=True)
class Request:
    """One request's part of a step.

    Attributes:
        start, stop: its new tokens among all of the step's.
        length: L, cached and new.
        blocks: int64 ``[B]``.
        mask: bool ``[T, L]``, true where a token is seen.
    """

    start: int
    stop: int
    length: int
    blocks: Tensor
    mask: Tensor


class PLUGIN_CLASSAttention(AttentionBackend):
    """Keys and values of a layer lie in one tensor ``[2, blocks, block_size, K, D]``."""

    def allocate(self, spec: AttentionSpec, blocks: int) -> Tensor:
        shape = (2, blocks, self.block_size, spec.num_kv_heads, spec.head_dim)
        # Zeros: a value that is masked must still be a number.
        return torch.zeros(shape, dtype=self.kv_dtype, device=self.device)

    def prepare(self, step: Step, index: KVIndex, specs: frozenset[AttentionSpec]) -> list[Request]:
        assert step.lengths is not None, "a platform that records graphs needs a backend that does without host lengths"
        window = next(iter(specs)).window  # layers of one group see the same
        requests = []
        start = 0
        for number, (new, length) in enumerate(zip(step.lengths.query, step.lengths.total, strict=True)):
            own = torch.arange(length - new, length, device=self.device)[:, None]
            seen = torch.arange(length, device=self.device)
            mask = (seen <= own) & (seen > own - (length if window is None else window))
            blocks = index.block_tables[number, : -(-length // self.block_size)].long()
            requests.append(Request(start, start + new, length, blocks, mask))
            start += new
        return requests

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
        slots = cache.flatten(1, 2)  # [2, blocks * block_size, K, D]
        if k is not None and v is not None:  # otherwise another layer has written them
            slots[0].index_copy_(0, index.slot_mapping, k.to(self.kv_dtype))
            slots[1].index_copy_(0, index.slot_mapping, v.to(self.kv_dtype))
        out = torch.empty_like(q)
        requests: list[Request] = index.metadata
        for request in requests:
            gathered = cache[:, request.blocks].flatten(1, 2)[:, : request.length]  # [2, L, K, D]
            keys, values = gathered.to(q.dtype).transpose(1, 2)[:, None]  # [1, K, L, D] each
            queries = q[request.start : request.stop].transpose(0, 1)[None]  # [1, H, T, D]
            attended = F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=request.mask,
                scale=spec.scale,
                enable_gqa=spec.num_heads != spec.num_kv_heads,
            )
            out[request.start : request.stop] = attended[0].transpose(0, 1)
        return out
