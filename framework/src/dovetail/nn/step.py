"""What one forward pass works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Step:
    """One step of the batch: R requests contribute T tokens in all, each request's tokens side by side.

    Prefill, a chunk of a prefill and decode are one case: a request brings any number of new tokens behind those that are already in its
    KV cache. All tensors live on the platform's device.

    Attributes:
        tokens: int64 ``[T]``.
        positions: int64 ``[T]``, counted from 0 within each request.
        query_start: int32 ``[R + 1]``: request ``r`` owns tokens ``query_start[r] : query_start[r + 1]``.
        seq_lens: int32 ``[R]``: tokens of each request after this step, cached and new.
        block_tables: int32 ``[R, B]``: the KV-cache blocks of each request, in order; unused entries are 0.
        slots: int64 ``[T]``: where each token's key and value go, ``block * block_size + offset``.
        logit_rows: int64 ``[L]``: the tokens whose logits are wanted.
        attention: what the attention backend made of the above, once for all layers.
    """

    tokens: Tensor
    positions: Tensor
    query_start: Tensor
    seq_lens: Tensor
    block_tables: Tensor
    slots: Tensor
    logit_rows: Tensor
    attention: Any = None
